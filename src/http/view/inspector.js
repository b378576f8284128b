// The column beside the graph, with the details of a Work, a Flow, or a list of Works.

import { stopApp } from "./actions.js";
import { Changes } from "./changes.js";
import { byId, el, hide, icon, list, setIcon, text } from "./dom.js";
import { STAGES, count, plural, reasonName, stageName, stageOf, typeName } from "./format.js";
import { WorkPanel } from "./panel.js";
import { Service } from "./service.js";
import { StateTree } from "./state.js";
import { tally } from "./tree.js";
import { VirtualList } from "./virtual.js";

export class Inspector {
  #box = byId("inspector");
  #shown = null;
  #panel = null;

  constructor(parts) {
    this.parts = parts;
    this.title = el("h2", { id: "inspector-title" });
    this.crumbs = el("nav", { class: "crumbs", "aria-label": "Above it" });
    this.close = el("button", { type: "button", class: "close", "aria-label": "Close the details", text: "×" });
    this.close.addEventListener("click", () => parts.close());
    this.body = el("div", { class: "inspector-body" });
    this.#box.append(el("div", { class: "card-head" }, el("div", {}, this.crumbs, this.title), this.close), this.body);
    this.#box.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && event.target.tagName !== "TEXTAREA") parts.close();
    });
  }

  focus() { this.#box.focus({ preventScroll: true }); }

  draw(id) {
    const { graph, store } = this.parts;
    if (id !== this.#shown) {
      this.#shown = id;
      this.#panel = this.#make(id);
      this.body.replaceChildren(this.#panel.node);
      this.#box.scrollTop = 0;
    }
    const node = graph.byId?.get(id);
    const name = node ? (node.path === "" && node.kind === "flow" ? store.doc.app.name || "root" : node.name) : id.startsWith("s:") ? stageTitle(id) : id.slice(2);
    text(this.title, name);
    const above = [];
    for (let at = node?.parent; at; at = at.parent) above.unshift(at);
    list(this.crumbs, above, (at) => at.id, (at) => el("button", { type: "button", class: "link", on: { click: () => this.parts.select(at.id) } }), (crumb, at) => text(crumb, at.path === "" ? store.doc.app.name || "root" : at.name));
    if (!this.#panel.draw()) {
      this.#shown = null;
      this.body.replaceChildren(el("p", { class: "quiet empty", text: "It is not in the App any more." }));
    }
  }

  #make(id) {
    const { parts } = this;
    if (id.startsWith("w:")) return new WorkPanel(id.slice(2), parts);
    if (id.startsWith("f:")) return new FlowPanel(id.slice(2), parts);
    return new ListPanel(id, parts);
  }
}

const stageTitle = (id) => (id === "s:" ? "All Works" : `Works: ${stageName(id.slice(2))}`);

class FlowPanel {
  constructor(path, { store, graph, stateOf, select, redraw }) {
    Object.assign(this, { path, store, graph, stateOf });
    this.changes = new Changes(path, store, redraw);
    this.service = new Service(path, { store, select, redraw });
    this.icon = icon("running");
    this.stage = el("b", {});
    this.facts = el("p", { class: "quiet" });
    this.error = el("div", { class: "error" }, (this.reason = el("b", {})), (this.message = el("pre", { tabindex: 0, "aria-label": "The error in full" })));
    this.stages = el("ul", { class: "plain tally" });
    this.state = new StateTree("State of the Flow");
    this.end = path === "" ? this.#ending() : null;
    this.select = select;
    this.node = el("div", { class: "panel" }, el("div", { class: "stage-line" }, this.icon, this.stage), this.facts, this.error, this.stages,
      ...this.service.sections, this.changes.node, el("section", {}, el("h3", { text: "State" }), this.state.node), this.end);
  }

  /** Stopping the App needs a second click, on a button that says what it does. */
  #ending() {
    const ask = el("button", { type: "button", text: "Stop the App" });
    const yes = el("button", { type: "button", class: "danger", text: "Stop it", hidden: true });
    const no = el("button", { type: "button", text: "Keep it running", hidden: true });
    const swap = (asking) => { ask.hidden = asking; yes.hidden = no.hidden = !asking; (asking ? no : ask).focus(); };
    ask.addEventListener("click", () => swap(true));
    no.addEventListener("click", () => swap(false));
    yes.addEventListener("click", () => { stopApp(this.store.doc.app.name || "The App"); swap(false); });
    return el("div", { class: "row end-app now-only" }, ask, yes, no);
  }

  draw() {
    const { doc } = this.store;
    const flow = doc.flows[this.path];
    if (!flow) return false;
    setIcon(this.icon, STAGES.includes(flow.stage) ? flow.stage : "running");
    text(this.stage, `${stageName(flow.stage)}${flow.reason ? ` (${reasonName(flow.reason)})` : ""}`);
    const app = this.path === "" && !this.store.past ? ` · ${plural(doc.app.reactions ?? 0, "reaction")}${doc.app.listening ? ` · nodes join at ${doc.app.listening}` : ""}` : "";
    text(this.facts, `Flow ${typeName(flow.type)}${app}`);
    hide(this.error, !flow.message);
    text(this.reason, reasonName(flow.reason));
    text(this.message, flow.message);
    const below = this.graph.byId?.get(`f:${this.path}`)?.works ?? [];
    drawTally(this.stages, tally(doc.works, below));
    const state = this.stateOf(this.path);
    if (state !== undefined) this.state.draw(state);
    this.service.draw(flow);
    this.changes.draw();
    if (this.end) hide(this.end, doc.app.stage === "stopping" || doc.app.stage === "ended");
    return true;
  }
}

function drawTally(node, stages) {
  list(node, STAGES.filter((stage) => stages[stage]), (stage) => stage, (stage) => {
    const label = el("span", {});
    return Object.assign(el("li", {}, icon(stage), label), { label });
  }, (row, stage) => text(row.label, `${count(stages[stage])} ${stageName(stage)}`));
}

/** A filtered list of the Works of a group or of a stage, of any length. */
class ListPanel {
  constructor(id, { store, graph, select, redraw }) {
    Object.assign(this, { id, store, graph });
    this.stages = el("ul", { class: "plain tally" });
    this.filter = el("input", { id: "list-filter", type: "search", placeholder: "a part of the path or the stage", autocomplete: "off", spellcheck: "false" });
    this.filter.addEventListener("input", redraw);
    this.note = el("p", { class: "quiet", role: "status" });
    const box = el("div", { class: "scroll members" });
    this.rows = new VirtualList(box, {
      height: 30, label: "Works", keyOf: (path) => path, redraw, choose: (path) => select(`w:${path}`),
      make: (path) => {
        const parts = { icon: icon("not_started"), name: el("span", { class: "name", text: path }), fact: el("span", { class: "quiet" }) };
        return Object.assign(el("div", { class: "member" }, parts.icon, parts.name, parts.fact), parts);
      },
      update: (row, path) => {
        const work = this.store.doc.works[path];
        if (!work) return;
        setIcon(row.icon, stageOf(work));
        text(row.fact, work.stage === "failed" ? reasonName(work.reason) : work.node ?? "");
        row.setAttribute("aria-label", `${path}, ${stageName(stageOf(work))}`);
      },
    });
    this.node = el("div", { class: "panel" }, this.stages, el("label", { for: "list-filter", class: "unseen", text: "Only Works with" }), this.filter, this.note, box);
  }

  draw() {
    const { works } = this.store.doc;
    const stage = this.id.startsWith("s:") ? this.id.slice(2) : "";
    const node = this.id.startsWith("g:") ? this.graph.byId?.get(this.id) : this.graph.root;
    if (!node) return false;
    const part = this.filter.value.trim().toLowerCase();
    const all = stage === "" ? node.works : node.works.filter((path) => stageOf(works[path]) === stage);
    const shown = part === "" ? all : all.filter((path) => path.toLowerCase().includes(part) || stageName(stageOf(works[path])).includes(part));
    drawTally(this.stages, tally(works, all));
    text(this.note, part === "" ? (all.length === 0 ? "None." : "") : `${count(shown.length)} of ${count(all.length)}`);
    this.rows.draw(shown);
    return true;
  }
}
