// A value as a collapsible tree that highlights changes for a moment.

import { el, list, text } from "./dom.js";
import { brief, count } from "./format.js";

const FEW = 100; // The number of members shown at once.
const MARK = 1600;
const still = matchMedia("(prefers-reduced-motion: reduce)");

export class StateTree {
  #open = new Map();
  #more = new Map();
  #value = undefined;

  constructor(label) {
    this.node = el("div", { class: "state", role: "group", "aria-label": label });
  }

  draw(value) {
    this.#value = value;
    if (value === null || typeof value !== "object") list(this.node, [["", value]], ([key]) => key, () => this.#row("", 0), (row, [, v]) => this.#fill(row, "value", v, "", 0));
    else this.#members(this.node, value, "", 0);
  }

  #members(parent, value, path, depth) {
    const isList = Array.isArray(value);
    const entries = isList ? value.map((v, i) => [String(i), v]) : Object.entries(value);
    const limit = this.#more.get(path) ?? FEW;
    const shown = entries.slice(0, limit).map(([key, v]) => ({ key: `m:${key}`, name: key, value: v }));
    if (entries.length === 0) shown.push({ key: "empty", note: isList ? "an empty list" : "no fields" });
    if (entries.length > limit) shown.push({ key: "more", note: `${count(entries.length - limit)} more`, more: true });
    list(parent, shown, (item) => item.key, (item) => (item.note ? this.#note(item, path, limit) : this.#row(item.name, depth)), (row, item) => {
      if (item.note) text(row.label, item.note);
      else this.#fill(row, item.name, item.value, `${path}/${item.name}`, depth);
    });
  }

  #note(item, path, limit) {
    const label = el(item.more ? "button" : "span", { class: item.more ? "link" : "quiet", ...(item.more && { type: "button" }) });
    const row = el("div", { class: "field" }, label);
    row.label = label;
    if (item.more) label.addEventListener("click", () => {
      this.#more.set(path, (this.#more.get(path) ?? limit) * 4);
      this.draw(this.#value);
    });
    return row;
  }

  #row(name) {
    const row = el("div", { class: "field" });
    row.name = el("span", { class: "key", text: name });
    row.value = el("span", { class: "value" });
    row.append(row.name, row.value);
    return row;
  }

  #fill(row, name, value, path, depth) {
    const branch = value !== null && typeof value === "object" && Object.keys(value).length > 0;
    if (branch !== (row.twist !== undefined)) this.#turn(row, name, path, branch);
    if (!branch) {
      const kind = value === null ? "null" : typeof value === "object" ? "empty" : typeof value;
      if (row.value.kind !== kind) row.value.className = `value ${(row.value.kind = kind)}`;
      const known = row.value.shown !== undefined;
      const string = typeof value === "string" ? value : JSON.stringify(value) ?? "";
      if (text(row.value, string === "" && kind === "string" ? "\"\"" : string) && known) mark(row.value);
      return;
    }
    const size = Object.keys(value).length;
    const open = this.#open.get(path) ?? (depth < 2 && size <= 20);
    row.twist.open = open;
    if (row.twist.expanded !== open) row.twist.setAttribute("aria-expanded", String((row.twist.expanded = open)));
    const summary = open ? (Array.isArray(value) ? `${count(size)}` : "") : brief(value, 60);
    if (text(row.value, summary) && row.known && !open) mark(row.value);
    row.known = true;
    if (open) {
      if (!row.inner) row.append((row.inner = el("div", { class: "fields" })));
      this.#members(row.inner, value, path, depth + 1);
    } else if (row.inner) {
      row.inner.remove();
      row.inner = undefined;
    }
  }

  #turn(row, name, path, branch) {
    row.name.remove();
    row.inner?.remove();
    row.inner = undefined;
    row.value.className = branch ? "value quiet" : "value";
    row.value.kind = undefined;
    if (!branch) {
      row.twist = undefined;
      row.name = el("span", { class: "key", text: name });
    } else {
      row.twist = row.name = el("button", { class: "key opens", type: "button", text: name });
      row.name.addEventListener("click", () => {
        this.#open.set(path, !row.twist.open);
        this.draw(this.#value);
      });
    }
    row.prepend(row.name);
  }
}

/** Highlights a change with a fading glow, or with an underline where the user prefers reduced motion. */
function mark(node) {
  const now = performance.now();
  // A value that changes all the time keeps its glow, without a new animation in each frame.
  if (node.markedAt !== undefined && now - node.markedAt < 300) return;
  node.markedAt = now;
  if (!still.matches) {
    node.glow?.cancel();
    node.glow = node.animate([{ backgroundColor: "var(--glow)" }, { backgroundColor: "transparent" }], { duration: MARK, easing: "ease-out" });
    return;
  }
  node.setAttribute("data-changed", "");
  clearTimeout(node.timer);
  node.timer = setTimeout(() => node.removeAttribute("data-changed"), MARK);
}
