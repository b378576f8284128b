// Versions, replicas and messages of a service, in the panel of its Flow.

import { get } from "./api.js";
import { el, hide, icon, list, setIcon, text } from "./dom.js";
import { clock, count, plural } from "./format.js";

const PATIENCE = 500; // The minimum time between two requests, in milliseconds.
const LISTED = 100;

const VERSION_ICONS = { starting: "pending", serving: "running", replaced: "succeeded", rolled_back: "failed", superseded: "stopped" };

export class Service {
  #known = null;
  #busy = false;
  #asked = 0;

  constructor(path, { store, select, redraw }) {
    Object.assign(this, { path, store, select, redraw });
    this.facts = el("p", { class: "current" });
    this.load = el("p", { class: "quiet" });
    this.versions = el("ol", { class: "plain" });
    this.note = el("p", { class: "quiet" });
    this.replicas = el("ul", { class: "plain replicas" });
    this.more = el("p", { class: "quiet" });
    this.sections = [
      el("section", { class: "now-only", hidden: true }, el("h3", { text: "Service" }), this.facts, this.load, this.note),
      el("section", { class: "now-only", hidden: true }, el("h3", { text: "Versions" }), this.versions),
      el("section", { class: "now-only", hidden: true }, el("h3", { text: "Replicas" }), this.replicas, this.more),
    ];
  }

  draw(flow) {
    const [about, versions, replicas] = this.sections;
    hide(about, !flow.is_service);
    if (flow.is_service && !this.store.past) this.#refresh();
    const service = this.#known;
    hide(versions, !flow.is_service || !service?.versions.length);
    hide(replicas, !flow.is_service || !service?.replicas.length);
    if (!flow.is_service || !service) return;
    const ready = service.replicas.filter((replica) => replica.is_ready && replica.version === service.version).length;
    text(this.facts, service.version === null ? "No version serves." : `Version ${service.version} serves, with ${count(ready)} of ${plural(service.wanted, "replica")}.`);
    text(this.load, `${plural(service.waiting, "message waits", "messages wait")}, ${count(service.handed)} with replicas`);
    this.#versions(service);
    this.#replicas(service);
  }

  #versions({ versions }) {
    list(this.versions, [...versions].reverse(), ({ version }) => version, ({ version }) => {
      const parts = { icon: icon("pending"), stage: el("span", {}), when: el("span", { class: "quiet num" }), why: el("pre", { tabindex: 0, "aria-label": `Why version ${version} was rolled back` }) };
      return Object.assign(el("li", { class: "run version" }, el("div", { class: "line" }, parts.icon, el("b", { class: "num", text: version }), parts.stage, parts.when), parts.why), parts);
    }, (row, { stage, message, since }) => {
      setIcon(row.icon, VERSION_ICONS[stage] ?? "pending");
      text(row.stage, stage.replace("_", " "));
      text(row.when, `since ${clock(since)}`);
      hide(row.why, !message);
      text(row.why, message);
    });
  }

  #replicas({ replicas, replica_count }) {
    list(this.replicas, replicas.slice(0, LISTED), ({ path }) => path, ({ path, version }) => {
      const parts = { icon: icon("pending"), what: el("span", { class: "quiet" }) };
      const name = el("button", { type: "button", class: "link", text: path.slice(path.lastIndexOf(".") + 1), on: { click: () => this.select(`w:${path}`) } });
      return Object.assign(el("li", { class: "line replica" }, parts.icon, name, el("span", { text: `version ${version}` }), parts.what), parts);
    }, (row, { is_ready, is_draining, messages }) => {
      setIcon(row.icon, is_draining ? "stopped" : is_ready ? "running" : "pending");
      text(row.what, `${is_draining ? "finishes" : is_ready ? "ready" : "not ready"} · ${plural(messages, "message")}`);
    });
    const left = replica_count - Math.min(LISTED, replicas.length);
    hide(this.more, left === 0);
    text(this.more, `and ${count(left)} more`);
  }

  /** Fetches the service, at most once in a while. The page is redrawn each second. */
  async #refresh() {
    if (this.#busy || Date.now() - this.#asked < PATIENCE) return;
    this.#busy = true;
    try {
      this.#known = await get(`services/${encodeURIComponent(this.path)}`);
      text(this.note, "");
    } catch (error) {
      text(this.note, error.message);
    }
    hide(this.note, this.note.shown === "");
    this.#busy = false;
    this.#asked = Date.now();
    this.redraw();
  }
}
