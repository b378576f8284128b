// DOM elements without a framework. Text is never parsed as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") text(node, value);
    else if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (value === true) node.setAttribute(name, "");
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const el = (tag, props, ...children) => fill(document.createElement(tag), props, children);
export const svg = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);
export const byId = (id) => document.getElementById(id);

/** Returns the icon of a stage, whose shape carries the same information as its colour. */
export function icon(stage) {
  const use = svg("use", { href: `#i-${stage}` });
  const node = svg("svg", { class: `icon s-${stage}`, viewBox: "0 0 16 16", "aria-hidden": "true" }, use);
  node.stage = stage;
  return node;
}

export function setIcon(node, stage) {
  if (node.stage === stage) return;
  node.stage = stage;
  node.setAttribute("class", `icon s-${stage}`);
  node.firstChild.setAttribute("href", `#i-${stage}`);
}

/** Sets the text of an element if it differs, so that a frame without changes leaves the DOM untouched. */
export function text(node, value) {
  const string = String(value ?? "");
  if (node.shown === string) return false;
  node.shown = string;
  node.textContent = string;
  return true;
}

export function attr(node, name, value) {
  if (value === null || value === undefined || value === false) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
  } else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

export function hide(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

const kept = new WeakMap();

/** Reconciles the children of `parent` with `items`, reusing the element of each key. */
export function list(parent, items, keyOf, make, update) {
  let rows = kept.get(parent);
  if (!rows) kept.set(parent, (rows = new Map()));
  const seen = new Set();
  let at = parent.firstChild;
  for (const item of items) {
    const key = keyOf(item);
    if (seen.has(key)) continue;
    seen.add(key);
    let row = rows.get(key);
    if (!row) rows.set(key, (row = make(item)));
    update?.(row, item);
    if (row === at) at = at.nextSibling;
    else parent.insertBefore(row, at);
  }
  if (rows.size !== seen.size) {
    for (const [key, row] of rows) {
      if (seen.has(key)) continue;
      row.remove();
      rows.delete(key);
    }
  }
}

let polite;
/** Announces a message to screen readers, politely. */
export function announce(message) {
  polite ??= byId("announcements");
  polite.textContent = message;
}
