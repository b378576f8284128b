// The tree of Flows and Works: from paths to nodes, and from nodes to positions. Independent of the DOM.

import { byName, stageOf, typeName } from "./format.js";

/** Lists and maps with more children than this are collapsed into one node at first. */
const MANY = 8;

/**
 * Builds the tree and returns its root. A node is {id, kind: "flow" | "work" | "group", path, name, children, works}:
 * `works` are the paths of all Works at or below it. The children `workers.0`, `workers.1`, … of a Flow are in a group `workers`.
 */
export function build(doc, order) {
  const flows = new Set(Object.keys(doc.flows));
  const works = Object.keys(doc.works);
  const nodes = new Map();
  const flow = (path) => {
    let node = nodes.get(path);
    if (!node) {
      node = { id: `f:${path}`, kind: "flow", path, name: path, children: [], works: [], groups: new Map() };
      nodes.set(path, node);
      if (path !== "") hang(node, path);
    }
    return node;
  };
  const hang = (node, path) => {
    const owner = flow(ownerOf(path, flows));
    const rest = owner.path === "" ? path : path.slice(owner.path.length + 1);
    const dot = rest.indexOf(".");
    node.name = rest;
    if (dot < 0) return void owner.children.push(node);
    const name = rest.slice(0, dot);
    let group = owner.groups.get(name);
    if (!group) {
      const groupPath = owner.path === "" ? name : `${owner.path}.${name}`;
      group = { id: `g:${groupPath}`, kind: "group", path: groupPath, name, children: [], works: [] };
      owner.groups.set(name, group);
      owner.children.push(group);
    }
    node.name = rest.slice(dot + 1);
    group.children.push(node);
  };
  // The App of a single Work has no Flow.
  if (!flows.has("") && works.length === 1) return { id: `w:${works[0]}`, kind: "work", path: works[0], name: works[0] || typeName(doc.works[works[0]].type), children: [], works };
  const root = flow("");
  for (const path of flows) flow(path);
  for (const path of works) hang({ id: `w:${path}`, kind: "work", path, name: path, children: [], works: [path] }, path);
  root.name = "root";
  finish(root, order ?? new Map());
  return root;
}

function ownerOf(path, flows) {
  for (let dot = path.lastIndexOf("."); dot > 0; dot = path.lastIndexOf(".", dot - 1)) {
    const candidate = path.slice(0, dot);
    if (flows.has(candidate)) return candidate;
  }
  return "";
}

/** Collects the Works below each node, and sorts children in order of declaration where it is known. */
function finish(node, order) {
  for (const child of node.children) finish(child, order);
  const place = (child) => order.get(child.kind === "group" ? child.children[0].path : child.path) ?? Infinity;
  if (node.kind === "group") node.children.sort((a, b) => byName(a.name, b.name));
  else node.children.sort((a, b) => (place(a) === place(b) ? byName(a.path, b.path) : place(a) - place(b)));
  if (node.kind !== "work") node.works = node.children.flatMap((child) => child.works);
  // Short lists stay expanded.
  node.many = node.kind === "group" && node.children.length > MANY;
}

/** Returns true when the children of `node` are shown: the user's choice, else a default by size. */
export function isOpen(node, choices, total) {
  if (node.children.length === 0) return false;
  const choice = choices.get(node.id);
  if (choice !== undefined) return choice;
  if (node.kind === "group") return !node.many;
  return node.path === "" || total <= 60 || node.works.length <= 12;
}

/**
 * Positions the visible nodes. Wide: generations from left to right. Narrow: an outline. Each parent is level with its
 * first child, so that a node added later moves no earlier one.
 */
export function layout(root, choices, width) {
  const wide = width >= 640;
  const total = root.works.length;
  const places = [];
  let deepest = 0;
  const measure = (node, depth) => {
    deepest = Math.max(deepest, depth);
    if (isOpen(node, choices, total)) for (const child of node.children) measure(child, depth + 1);
  };
  measure(root, 0);
  const gap = wide ? 44 : 22;
  const card = wide ? Math.max(170, Math.min(270, (width - deepest * gap) / (deepest + 1))) : 0;
  const place = (node, depth, top, parent) => {
    const x = wide ? depth * (card + gap) : depth * gap;
    const open = isOpen(node, choices, total);
    const matrix = node.kind === "group" && !open && node.many;
    const w = wide ? (matrix ? Math.max(card, Math.min(460, width - x)) : card) : width - x;
    const spots = matrix ? dots(node.works.length, w - 24) : null;
    const h = matrix ? 60 + spots.height : 48;
    const at = { node, depth, x, y: top, w, h, open, dots: spots, parent };
    places.push(at);
    let next = wide ? top : top + h + 8;
    if (open) for (const child of node.children) next = place(child, depth + 1, next, at);
    return Math.max(next, top + h + 8);
  };
  const height = place(root, 0, 2, null);
  const span = Math.max(...places.map((at) => at.x + at.w));
  return { places, height, width: span, wide };
}

/** Lays out one square for each of `n` Works in `width` pixels; more Works get smaller squares. */
export function dots(n, width) {
  for (let pitch = 11; ; pitch--) {
    const columns = Math.max(1, Math.floor(width / pitch));
    const height = Math.ceil(n / columns) * pitch;
    if (height <= 230 || pitch === 3) return { pitch, columns, height: Math.min(height, 460), size: pitch > 5 ? pitch - 2 : pitch - 1 };
  }
}

/** Counts the Works of `paths` by stage. */
export function tally(works, paths) {
  const stages = {};
  for (const path of paths) {
    const stage = stageOf(works[path]);
    if (stage) stages[stage] = (stages[stage] ?? 0) + 1;
  }
  return stages;
}

/**
 * Returns the part of the state that belongs to `path`, or undefined. List items are found by rank: a child keeps its
 * name when a sibling is removed, but its index in the list changes.
 */
export function stateAt(state, path, siblings) {
  if (path === "") return state;
  let at = state;
  const parts = path.split(".");
  for (let i = 0; i < parts.length; i++) {
    if (at === null || typeof at !== "object") return undefined;
    if (Array.isArray(at)) {
      const names = siblings(parts.slice(0, i).join("."));
      if (names.length !== at.length) return undefined;
      at = at[names.indexOf(parts[i])];
    } else at = Object.hasOwn(at, parts[i]) ? at[parts[i]] : undefined;
  }
  return at;
}
