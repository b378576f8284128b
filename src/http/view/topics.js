// The topics: their messages and subscribers. Shown once there is one.

import { get } from "./api.js";
import { byId, el, hide, list, text } from "./dom.js";
import { count, plural, typeName } from "./format.js";

const PATIENCE = 2000;

export class Topics {
  #items = [];
  #asked = 0;
  #timer = null;
  #body = el("tbody", {});

  constructor(redraw) {
    this.redraw = redraw;
    byId("topics-body").append(el("table", {}, el("caption", { class: "unseen", text: "Topics" }),
      el("thead", {}, el("tr", {}, ...["Topic", "Type", "Published", "Delivered", "Dropped", "Subscribers"].map((name) => el("th", { scope: "col", text: name })))),
      this.#body));
  }

  /** Schedules a refresh, after a change of the App. */
  refresh() {
    this.#timer ??= setTimeout(async () => {
      this.#asked = Date.now();
      try {
        this.#items = (await get("topics")).items ?? [];
      } catch {
        // What is shown is that of the last answer, as after the loss of the connection.
      }
      this.#timer = null;
      this.redraw();
    }, Math.max(50, this.#asked + PATIENCE - Date.now()));
  }

  draw() {
    const items = this.#items.slice(0, 200);
    hide(byId("topics"), items.length === 0);
    text(byId("topics-facts"), plural(this.#items.length, "topic"));
    list(this.#body, items, (item) => item.name, make, (row, item) => {
      text(row.name, item.name);
      text(row.type, typeName(item.type));
      text(row.published, count(item.published));
      text(row.delivered, count(item.delivered));
      text(row.dropped, count(item.dropped));
      const shown = item.subscribers.slice(0, 8).map((each) => `${each.path} (${each.node}, ${count(each.waiting)} of ${count(each.bound)})`);
      const more = item.subscriber_count - shown.length;
      text(row.subscribers, [...shown, ...(more > 0 ? [`${count(more)} more`] : [])].join(", ") || "none");
    });
  }
}

function make(item) {
  const row = el("tr", {});
  const cell = (name, label) => (row[name] = el("td", { "data-label": label }));
  row.name = el("th", { scope: "row", title: item.type });
  row.append(row.name, cell("type", "Type"), cell("published", "Published"), cell("delivered", "Delivered"), cell("dropped", "Dropped"),
    cell("subscribers", "Subscribers"));
  return row;
}
