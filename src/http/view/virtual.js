// A virtual list, which renders the visible rows only. The box has the focus; arrow keys move the active row.

import { attr, el, list } from "./dom.js";

let lists = 0;

export class VirtualList {
  #items = [];
  #active = 0;
  #prefix = `v${++lists}-`;

  /**
   * `make(item)` and `update(row, item)` fill rows of `height` pixels; `keyOf(item)` identifies a row; `choose(item)` is
   * called on click and Enter.
   */
  constructor(box, { height, label, keyOf, make, update, choose, redraw }) {
    Object.assign(this, { box, height, keyOf, make, update, choose });
    this.space = el("div", { class: "space", role: "none" });
    box.append(this.space);
    attr(box, "role", "listbox");
    attr(box, "tabindex", 0);
    attr(box, "aria-label", label);
    box.addEventListener("scroll", redraw, { passive: true });
    box.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(redraw).observe(box);
    this.redraw = redraw;
  }

  draw(items) {
    this.#items = items;
    const total = `${items.length * this.height}px`;
    if (this.space.style.height !== total) this.space.style.height = total;
    const first = Math.max(0, Math.floor(this.box.scrollTop / this.height) - 4);
    const last = Math.min(items.length, Math.ceil((this.box.scrollTop + this.box.clientHeight) / this.height) + 4);
    this.visible = items.slice(first, last);
    this.#active = Math.max(0, Math.min(this.#active, items.length - 1));
    const rows = this.visible.map((item, i) => ({ item, index: first + i }));
    list(this.space, rows, ({ item }) => this.keyOf(item), ({ item }) => {
      const row = this.make(item);
      row.classList.add("vrow");
      attr(row, "role", "option");
      row.id = `${this.#prefix}${this.keyOf(item)}`;
      row.addEventListener("click", () => {
        this.#active = row.index;
        this.choose?.(item);
        this.redraw();
      });
      return row;
    }, (row, { item, index }) => {
      if (row.index !== index) {
        row.index = index;
        row.style.transform = `translateY(${index * this.height}px)`;
        attr(row, "aria-posinset", index + 1);
      }
      attr(row, "aria-setsize", items.length);
      attr(row, "aria-selected", String(index === this.#active));
      this.update(row, item);
    });
    const active = items[this.#active];
    attr(this.box, "aria-activedescendant", active === undefined ? null : `${this.#prefix}${this.keyOf(active)}`);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target !== this.box) return;
    const page = Math.max(1, Math.floor(this.box.clientHeight / this.height) - 1);
    const to = {
      ArrowDown: this.#active + 1, ArrowUp: this.#active - 1, PageDown: this.#active + page, PageUp: this.#active - page,
      Home: 0, End: this.#items.length - 1,
    }[event.key];
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      if (this.#items[this.#active] !== undefined) this.choose?.(this.#items[this.#active]);
      return;
    }
    if (to === undefined) return;
    event.preventDefault();
    this.#active = Math.max(0, Math.min(to, this.#items.length - 1));
    const top = this.#active * this.height;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top + this.height > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = top + this.height - this.box.clientHeight;
    this.redraw();
  }
}
