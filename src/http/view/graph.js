// The tree as a graph of cards and edges. Parts outside of the viewport are not rendered.

import { attr, byId, el, icon, list, setIcon, svg, text } from "./dom.js";
import { STAGES, count, plural, reasonName, span, stageName, stageOf, typeName } from "./format.js";
import { build, layout, tally } from "./tree.js";

export class Graph {
  root = null;
  #choices = new Map();
  #places = null;
  #active = null;
  #width = 0;
  #box = byId("graph-scroll");
  #tree = byId("graph-tree");
  #lines = svg("svg", { class: "edges", "aria-hidden": "true" });
  #cards = el("div", { class: "cards", role: "none" });

  constructor(store, { select, redraw }) {
    this.store = store;
    this.select = select;
    this.redraw = redraw;
    this.#tree.append(this.#lines, this.#cards);
    this.#box.addEventListener("scroll", redraw, { passive: true });
    this.#tree.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => { this.#places = null; redraw(); }).observe(this.#box);
  }

  /** Rebuilds the tree; called when Works or Flows were added or removed. */
  restructure(order) {
    this.root = build(this.store.doc, order);
    this.byId = new Map();
    const visit = (node, parent) => {
      node.parent = parent;
      this.byId.set(node.id, node);
      node.children.forEach((child) => visit(child, node));
    };
    visit(this.root, null);
    this.#places = null;
  }

  /** Returns the names of the children of the list or map at `path`, in order. */
  siblings(path) { return (this.byId.get(`g:${path}`)?.children ?? []).map((child) => child.name); }

  toggle(id, open) {
    this.#choices.set(id, open);
    this.#places = null;
    this.redraw();
  }

  /** Returns all positions, computed again after a change of the tree, the width, or the expanded nodes. */
  #layout() {
    const style = getComputedStyle(this.#box);
    const width = this.#box.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    if (this.#places && width === this.#width) return this.#places;
    this.#width = width;
    this.#places = layout(this.root, this.#choices, width);
    this.#tree.style.height = `${this.#places.height}px`;
    this.#tree.style.width = `${this.#places.width}px`;
    attr(this.#lines, "width", this.#places.width);
    attr(this.#lines, "height", this.#places.height);
    const total = this.root.works.length;
    text(byId("graph-facts"), total === 0 ? "no Works yet" : plural(total, "Work"));
    if (!this.#places.places.some((at) => at.node.id === this.#active)) this.#active = this.root.id;
    return this.#places;
  }

  draw(selected) {
    if (!this.root) return;
    const { places, wide } = this.#layout();
    const from = this.#box.scrollTop - 200;
    const to = this.#box.scrollTop + this.#box.clientHeight + 200;
    const visible = places.filter((at) => (at.y + at.h >= from && at.y <= to) || at.node.id === this.#active);
    const edges = places.filter((at) => at.parent && at.y + at.h >= from && at.parent.y <= to && at.y <= to + 4000);
    list(this.#lines, edges, (at) => at.node.id, () => svg("path", {}), (path, at) => attr(path, "d", edge(at, wide)));
    list(this.#cards, visible, (at) => at.node.id, (at) => this.#card(at), (card, at) => this.#update(card, at, selected));
    attr(this.#tree, "aria-activedescendant", `n-${this.#active}`);
  }

  #card({ node }) {
    const parts = { icon: icon("not_started"), name: el("span", { class: "name" }), where: el("span", { class: "where" }), under: el("span", { class: "under" }) };
    const card = el("div", { role: "treeitem", id: `n-${node.id}`, class: `node ${node.kind}` },
      el("span", { class: "line" }, node.kind === "work" ? parts.icon : null, parts.name, parts.where), parts.under);
    if (node.kind !== "work") card.append((parts.bar = el("span", { class: "stagebar", "aria-hidden": "true" })));
    card.addEventListener("click", (event) => {
      this.#active = node.id;
      const spot = event.target === card.parts.canvas ? this.#spot(card, event) : null;
      this.select(spot ? `w:${spot}` : node.id);
    });
    if (node.kind !== "work") {
      parts.twist = el("span", { class: "twist", "aria-hidden": "true" });
      parts.twist.addEventListener("click", (event) => {
        event.stopPropagation();
        this.toggle(node.id, !card.place.open);
      });
      card.firstChild.append(parts.twist);
    }
    card.parts = parts;
    return card;
  }

  #update(card, at, selected) {
    const { node } = at;
    const { parts } = card;
    if (card.place !== at) {
      card.place = at;
      card.style.transform = `translate(${at.x}px, ${at.y}px)`;
      card.style.width = `${at.w}px`;
      card.style.height = `${at.h}px`;
      attr(card, "aria-level", at.depth + 1);
      attr(card, "aria-expanded", node.children.length > 0 ? String(at.open) : null);
      if (parts.twist) parts.twist.hidden = node.children.length === 0;
    }
    attr(card, "aria-selected", String(selected === node.id));
    attr(card, "title", node.path || null);
    card.classList.toggle("active", this.#active === node.id);
    if (node.kind === "work") this.#work(parts, node, card);
    else this.#many(parts, node, at, card);
  }

  #work(parts, node, card) {
    const work = this.store.doc.works[node.path];
    if (!work) return;
    const stage = stageOf(work);
    setIcon(parts.icon, stage);
    text(parts.name, node.name);
    // With a single process, the placement says more than the node.
    text(parts.where, Object.keys(this.store.doc.nodes).length > 1 ? work.node ?? "no node" : work.placement ?? "");
    const since = work.stage === "running" && work.current ? work.current.started : work.since;
    const age = since ? span((this.store.time - Date.parse(since)) / 1000) : "";
    const told = work.stage === "failed" ? `${reasonName(work.reason)} · ${work.message ?? ""}`
      : work.stage === "not_started" || !age ? stageName(stage)
        : ["running", "pending"].includes(work.stage) ? `${stageName(work.stage)} for ${age}` : `${stageName(work.stage)} ${age} ago`;
    // An error needs the room more than the type.
    text(parts.under, work.stage === "failed" ? told : `${told} · ${typeName(work.type)}`);
    attr(card, "data-stage", stage);
    attr(card, "aria-label", `${node.path || node.name}, Work ${typeName(work.type)}, ${stageName(stage)}${work.reason ? `, ${reasonName(work.reason)}` : ""}${work.node ? `, on ${work.node}` : ""}`);
  }

  #many(parts, node, at, card) {
    const { works, flows, app } = this.store.doc;
    const stages = tally(works, node.works);
    const flow = flows[node.path];
    text(parts.name, node.kind === "group" ? node.name : node.path === "" ? (app.name ?? "root") : node.name);
    text(parts.where, node.kind === "group" ? `× ${count(node.children.length)}` : "");
    const told = STAGES.filter((stage) => stages[stage]).map((stage) => `${count(stages[stage])} ${stageName(stage)}`).join(" · ");
    const failed = flow?.stage === "failed";
    text(parts.under, failed ? `${reasonName(flow.reason)} · ${flow.message ?? ""}` : node.kind !== "flow" ? told || "empty" : node.path === "" ? "Flow" : `Flow · ${typeName(flow?.type)}`);
    attr(card, "data-stage", failed ? "failed" : null);
    attr(card, "aria-label", `${node.path || app.name || "root"}, ${node.kind === "flow" ? `Flow ${typeName(flow?.type)}${flow ? `, ${stageName(flow.stage)}` : ""}` : `list of ${count(node.children.length)}`}${told ? `: ${told}` : ""}`);
    list(parts.bar, STAGES.filter((stage) => stages[stage]), (stage) => stage, (stage) => el("i", { class: `s-${stage}` }), (bar, stage) => {
      const share = `${stages[stage]}`;
      if (bar.share !== share) bar.style.flexGrow = bar.share = share;
    });
    if (at.dots) this.#dots(parts, card, node, at, works);
    else if (parts.canvas) {
      parts.canvas.remove();
      parts.canvas = null;
    }
  }

  /** Draws one square for each Work on a single canvas, which scales to thousands. */
  #dots(parts, card, node, at, works) {
    if (!parts.canvas) {
      parts.canvas = el("canvas", { class: "dots", "aria-hidden": "true" });
      parts.canvas.addEventListener("mousemove", (event) => {
        const path = this.#spot(card, event);
        parts.canvas.title = path ? `${path}: ${stageName(stageOf(this.store.doc.works[path]))}` : "";
      });
      card.append(parts.canvas);
    }
    const { pitch, columns, height, size } = at.dots;
    const scale = devicePixelRatio || 1;
    const width = columns * pitch;
    const { canvas } = parts;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    const brush = canvas.getContext("2d");
    brush.setTransform(scale, 0, 0, scale, 0, 0);
    brush.clearRect(0, 0, width, height);
    const colours = stageColours();
    const byStage = new Map(STAGES.map((stage) => [stage, []]));
    node.works.forEach((path, i) => byStage.get(stageOf(works[path]))?.push(i));
    for (const [stage, places] of byStage) {
      brush.fillStyle = colours[stage];
      for (const i of places) brush.fillRect((i % columns) * pitch, Math.floor(i / columns) * pitch, size, size);
    }
  }

  #spot(card, event) {
    const { pitch, columns } = card.place.dots;
    const column = Math.floor(event.offsetX / pitch);
    if (column >= columns) return null;
    return card.place.node.works[Math.floor(event.offsetY / pitch) * columns + column] ?? null;
  }

  #key(event) {
    if (!this.root || event.ctrlKey || event.metaKey || event.altKey) return;
    const { places } = this.#layout();
    const index = Math.max(0, places.findIndex((at) => at.node.id === this.#active));
    const at = places[index];
    const to = {
      ArrowDown: () => places[index + 1], ArrowUp: () => places[index - 1], Home: () => places[0], End: () => places.at(-1),
      ArrowRight: () => (at.open ? places[index + 1] : at.node.children.length > 0 && (this.toggle(at.node.id, true), at)),
      ArrowLeft: () => (at.open ? (this.toggle(at.node.id, false), at) : at.parent),
      Enter: () => (this.select(at.node.id, true), at), " ": () => (this.select(at.node.id, true), at),
    }[event.key];
    if (!to) return;
    event.preventDefault();
    const target = to();
    if (!target) return;
    this.#active = target.node.id;
    this.#show(target);
    this.redraw();
  }

  #show(at) {
    const box = this.#box;
    if (at.y < box.scrollTop) box.scrollTop = at.y - 8;
    else if (at.y + at.h > box.scrollTop + box.clientHeight) box.scrollTop = at.y + at.h - box.clientHeight + 8;
  }
}

function edge({ x, y, parent }, wide) {
  const middle = y + 24;
  if (!wide) return `M${parent.x + 10} ${parent.y + parent.h}V${middle - 6}q0 6 6 6H${x}`;
  const from = parent.x + parent.w;
  const level = parent.y + 24;
  const half = (x - from) / 2;
  if (Math.abs(level - middle) < 1) return `M${from} ${level}H${x}`;
  return `M${from} ${level}h${half - 8}q8 0 8 8V${middle - 8}q0 8 8 8H${x}`;
}

let colours = null;
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { colours = null; });
/** Returns the colours of the stages, read from the style sheet. */
export function stageColours() {
  if (colours) return colours;
  colours = {};
  const probe = el("i", {});
  document.body.append(probe);
  for (const stage of STAGES) {
    probe.className = `s-${stage}`;
    colours[stage] = getComputedStyle(probe).color;
  }
  probe.remove();
  return colours;
}
