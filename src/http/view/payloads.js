// The payloads: their size, location and holders.

import { get } from "./api.js";
import { byId, el, hide, list, text } from "./dom.js";
import { bytes, plural, typeName } from "./format.js";

const PATIENCE = 2000;

export class Payloads {
  #items = null;
  #error = null;
  #asked = 0;
  #timer = null;
  #table = el("table", {}, el("caption", { class: "unseen", text: "Payloads" }),
    el("thead", {}, el("tr", {}, ...["Type", "Size", "Made by", "Where", "Held by"].map((name) => el("th", { scope: "col", text: name })))));
  #body = el("tbody", {});
  #empty = el("p", { class: "quiet empty" });

  constructor(redraw) {
    this.redraw = redraw;
    this.#table.append(this.#body);
    byId("payloads-body").append(this.#table, this.#empty);
  }

  /** Schedules a refresh, after a change that may have made or freed payloads. */
  refresh() {
    this.#timer ??= setTimeout(async () => {
      this.#asked = Date.now();
      try {
        this.#items = (await get("payloads")).items;
        this.#error = null;
      } catch (error) {
        this.#error = error.message;
      }
      this.#timer = null;
      this.redraw();
    }, Math.max(50, this.#asked + PATIENCE - Date.now()));
  }

  draw() {
    const items = this.#items ?? [];
    const total = items.reduce((sum, item) => sum + item.bytes, 0);
    text(byId("payloads-facts"), items.length > 0 ? `${plural(items.length, "payload")}, ${bytes(total)}` : "");
    hide(this.#table, items.length === 0);
    hide(this.#empty, items.length > 0);
    text(this.#empty, this.#error ?? (this.#items ? "None. A Work makes one with cx.payload(value)." : "loading"));
    const largest = Math.max(1, ...items.map((item) => item.bytes));
    const sorted = [...items].sort((a, b) => b.bytes - a.bytes).slice(0, 200);
    list(this.#body, sorted, (item) => item.id, make, (row, item) => {
      text(row.type, typeName(item.type));
      text(row.size, bytes(item.bytes));
      const width = `${((item.bytes / largest) * 100).toFixed(1)}%`;
      if (row.bar.width !== width) row.bar.style.width = row.bar.width = width;
      text(row.made, item.made_by ?? "–");
      const copies = (item.copies ?? []).filter((node) => node !== item.owner);
      const place = item.on_disk && !item.in_memory ? " (disk)" : "";
      text(row.where, `${item.owner ?? "–"}${place}${copies.length > 0 ? `, copies on ${copies.join(", ")}` : ""}`);
      text(row.held, (item.held_by ?? []).join(", ") || "nobody");
    });
  }
}

function make(item) {
  const cell = (name, label) => (row[name] = el("td", { "data-label": label }));
  const row = el("tr", {});
  row.type = el("th", { scope: "row", title: `${item.type}\n${item.id}` });
  row.size = el("span", {});
  row.bar = el("i", {});
  row.append(row.type, el("td", { "data-label": "Size", class: "size" }, row.size, el("span", { class: "track", "aria-hidden": "true" }, row.bar)),
    cell("made", "Made by"), cell("where", "Where"), cell("held", "Held by"));
  return row;
}
