// The groups of nodes that engines start, with their allocations. Shown once there is a group.

import { get } from "./api.js";
import { byId, el, hide, list, text } from "./dom.js";
import { count, plural, span } from "./format.js";

const PATIENCE = 1000;
const SHOWN = 200; // Allocations of each group.

export class Fleet {
  #items = [];
  #asked = 0;
  #told = 0;
  #timer = null;
  #body = el("tbody", {});

  constructor(redraw) {
    this.redraw = redraw;
    byId("fleet-body").append(el("table", {}, el("caption", { class: "unseen", text: "Fleet" }),
      el("thead", {}, el("tr", {}, ...["Node", "Stage", "For", "Works", "At the engine", "On", "Ends in", "Why"].map((name) => el("th", { scope: "col", text: name })))),
      this.#body));
  }

  /** Schedules a refresh, after a change of the App. */
  refresh() {
    this.#timer ??= setTimeout(async () => {
      this.#asked = Date.now();
      try {
        this.#items = (await get("fleet")).items ?? [];
        this.#told = Date.now();
      } catch {
        // The last answer stays, as after the loss of the connection.
      }
      this.#timer = null;
      this.redraw();
    }, Math.max(50, this.#asked + PATIENCE - Date.now()));
  }

  draw() {
    hide(byId("fleet"), this.#items.length === 0);
    text(byId("fleet-facts"), plural(this.#items.length, "group"));
    list(this.#body, this.#items.flatMap((group) => rows(group, (Date.now() - this.#told) / 1000)), (item) => item.key, make, (row, item) => {
      text(row.name, item.name);
      text(row.stage, item.stage);
      text(row.since, item.since);
      text(row.works, count(item.works));
      text(row.number, item.id);
      text(row.at, item.at);
      text(row.ends, item.ends);
      text(row.why, item.why);
    });
  }
}

/** Returns the rows of a group: its own, and those of its allocations, `age` seconds after the answer. */
function rows(group, age) {
  const works = group.allocations.reduce((sum, each) => sum + each.works, 0);
  const idle = group.idle_seconds >= 1 ? `${span(group.idle_seconds)} without Works in all` : "";
  const stage = group.paused ? "paused" : group.problem ? "failing" : "";
  const own = {
    key: `g:${group.name}`, name: `${group.name}: ${count(group.allocations.length)} of ${count(group.least)}..${count(group.most)}`, isGroup: true,
    stage, since: "", works, id: "", at: "", ends: "", why: group.paused ?? group.problem ?? idle,
  };
  const each = group.allocations.slice(0, SHOWN).map((item) => ({
    key: item.name, name: item.name, isGroup: false, stage: item.stage, since: span(item.seconds + age), works: item.works, id: item.id ?? "", at: item.at ?? "",
    ends: item.ends_in === null ? "" : span(item.ends_in - age), why: item.reason ?? "",
  }));
  return [own, ...each];
}

function make(item) {
  const row = el("tr", { class: item.isGroup ? "group" : "" });
  const cell = (name, label) => (row[name] = el("td", { "data-label": label }));
  row.name = el("th", { scope: "row" });
  row.append(row.name, cell("stage", "Stage"), cell("since", "For"), cell("works", "Works"), cell("number", "At the engine"), cell("at", "On"), cell("ends", "Ends in"),
    cell("why", "Why"));
  return row;
}
