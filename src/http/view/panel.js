// The panel of one Work.

import * as actions from "./actions.js";
import { now } from "./api.js";
import { Changes } from "./changes.js";
import { attr, el, hide, icon, list, setIcon, text } from "./dom.js";
import { brief, clock, count, duration, plural, reasonName, span, stageName, stageOf, typeName } from "./format.js";
import { Lines, load, newest } from "./log.js";
import { Plot } from "./plots.js";
import { StateTree } from "./state.js";
import { Why } from "./why.js";

const section = (title, ...children) => el("section", {}, el("h3", { text: title }), ...children);
/** A section that has nothing of the past. */
const live = (title, ...children) => el("section", { class: "now-only" }, el("h3", { text: title }), ...children);
const button = (label, act, extra = {}) => el("button", { type: "button", text: label, on: { click: act }, ...extra });

export class WorkPanel {
  constructor(path, { store, runs, stateOf, select, redraw, past }) {
    Object.assign(this, { path, store, runs, stateOf });
    this.changes = new Changes(path, store, redraw);
    this.why = new Why(path, { store, past, select, redraw });
    this.icon = icon("not_started");
    this.stage = el("b", {});
    this.facts = el("p", { class: "quiet" });
    this.stop = button("Stop", () => actions.stop(path));
    this.start = button("Start", () => actions.start(path));
    this.restart = button("Restart", () => actions.restart(path));
    this.input = new Asking("Run with an input", "Input (JSON)", "Run", (value) => actions.rerunWith(path, value), () => this.store.doc.works[path]?.current?.input ?? this.runs.of(path, this.store.doc.works[path]).items[0]?.input);
    this.error = el("div", { class: "error", role: "group", "aria-label": "Why it failed" });
    this.reason = el("b", {});
    this.message = el("pre", { tabindex: 0, "aria-label": "The error in full" });
    this.error.append(this.reason, this.message);
    this.current = el("p", { class: "current" });
    this.numbers = el("dl", { class: "numbers now-only" });
    this.depth = new Plot("Mailbox", "");
    this.rate = new Plot("Messages", "/s");
    this.state = new StateTree(`State of ${path}`);
    this.runList = el("ol", { class: "runs plain" });
    this.runNote = el("p", { class: "quiet" });
    this.messages = new Messages(path, store);
    const lines = el("div", { class: "scroll lines short", tabindex: 0, role: "region", "aria-label": `Log of ${path}` });
    this.log = new Lines(lines, { withWork: false });
    this.node = el("div", { class: "panel" },
      el("div", { class: "stage-line" }, this.icon, this.stage), this.facts,
      el("div", { class: "row actions now-only" }, this.stop, this.start, this.restart, this.input.opener), this.input.form,
      this.error, this.current, this.numbers,
      el("div", { class: "plots now-only" }, this.depth.node, this.rate.node),
      this.why.node,
      this.changes.node,
      section("State", this.state.node),
      live("Runs", this.runList, this.runNote),
      this.messages.node,
      live("Log", lines));
    load(store, `logs?work=${encodeURIComponent(path)}&level=trace&limit=200`);
    this.redraw = redraw;
  }

  /** Draws the Work; returns `false` when it no longer exists. */
  draw() {
    const work = this.store.doc.works[this.path];
    if (!work) return false;
    setIcon(this.icon, stageOf(work));
    const since = work.since && work.stage !== "not_started" ? ` · ${["running", "pending"].includes(work.stage) ? "for " : ""}${span((now() - Date.parse(work.since)) / 1000)}${["running", "pending"].includes(work.stage) ? "" : " ago"}` : "";
    text(this.stage, `${stageName(stageOf(work))}${work.reason ? ` (${reasonName(work.reason)})` : ""}`);
    const held = work.held ? ` · stopped by ${work.held.by} ${span((now() - Date.parse(work.held.since)) / 1000)} ago, until it is started` : "";
    if (this.store.past) text(this.facts, `${typeName(work.type)}${work.since ? ` · since ${clock(work.since)}` : ""}`);
    else text(this.facts, `${typeName(work.type)} · ${work.node ? `on ${work.node}` : "on no node"}${work.placement && work.placement !== work.node ? `, ${work.placement}` : ""}${since}${held}`);
    hide(this.stop, !work.is_up);
    hide(this.start, (work.is_up || work.stage === "running") && !work.held);
    hide(this.error, !work.message || work.stage === "running" || work.stage === "succeeded");
    text(this.reason, work.stage === "pending" ? "waits" : reasonName(work.reason) || "error");
    attr(this.error, "data-stage", work.stage);
    text(this.message, work.message);
    hide(this.current, !work.current);
    if (work.current) text(this.current, `run ${work.current.run} · ${span((now() - Date.parse(work.current.started)) / 1000)}${work.current.input === null ? "" : ` · ${brief(work.current.input, 200)}`}`);
    this.#numbers(work);
    const { depth, rate } = this.store.history(this.path);
    this.depth.draw(depth, work.mailbox?.waiting ?? 0);
    hide(this.rate.node, rate.length === 0);
    this.rate.draw(rate, rate.at(-1) ?? 0);
    const state = this.stateOf(this.path);
    if (state !== undefined) this.state.draw(state);
    this.changes.draw();
    this.why.draw();
    this.#runs(work);
    this.messages.draw(work);
    this.log.draw(newest(this.store.log, (line) => line.work === this.path, 100), "It has logged nothing.");
    return true;
  }

  #numbers(work) {
    const { waiting = 0, succeeded = 0, failed = 0, stopped = 0 } = work.runs ?? {};
    const items = [["succeeded", count(succeeded)], ["failed", count(failed)], ["stopped", count(stopped)], ["waiting", count(waiting)],
      ["attempt", count(work.attempt)], ["restarts", count(work.restarts)],
      ["mailbox", work.mailbox?.capacity ? `${count(work.mailbox.waiting)} of ${count(work.mailbox.capacity)}` : count(work.mailbox?.waiting)]];
    if (work.mailbox?.dead_letters) items.push(["dead letters", count(work.mailbox.dead_letters)]);
    list(this.numbers, items, ([name]) => name, ([name]) => {
      const value = el("dd", {});
      return Object.assign(el("div", {}, el("dt", { text: name }), value), { value });
    }, (row, [, value]) => text(row.value, value));
  }

  #runs(work) {
    const { items, total, error, loaded } = this.runs.of(this.path, work);
    list(this.runList, items.slice(0, 20), (run) => `${run.run}.${run.attempt}.${run.queued}`, (run) => this.#run(run), (row, run) => {
      setIcon(row.icon, run.stage);
      text(row.stage, `${stageName(run.stage)}${run.reason ? ` (${reasonName(run.reason)})` : ""}`);
      const begun = Date.parse(run.started);
      text(row.time, !run.started ? "waits" : run.ended ? duration((Date.parse(run.ended) - begun) / 1000) : span((now() - begun) / 1000));
      text(row.when, run.started ? clock(run.started) : "");
      text(row.input, run.input === null ? "" : JSON.stringify(run.input) ?? "");
      hide(row.output, run.output === undefined);
      text(row.output, run.output === undefined ? "" : `output ${JSON.stringify(run.output)}`);
      // A message shown above in full is not repeated.
      hide(row.message, !run.message || (!this.error.hidden && run.message === work.message));
      text(row.message, run.message);
      hide(row.again, !run.ended);
      hide(row.why, run.run === null || !this.store.live.app.journal);
    });
    text(this.runNote, error ?? (!loaded ? "loading" : total === 0 ? "None yet." : total > Math.min(20, items.length) ? `the newest 20 of ${count(total)}` : ""));
    hide(this.runNote, this.runNote.shown === "");
  }

  #run(run) {
    const parts = {
      icon: icon(run.stage), stage: el("span", {}), time: el("span", { class: "num" }), when: el("span", { class: "quiet num" }),
      input: el("code", { class: "input" }), output: el("code", { class: "input" }), message: el("pre", {}),
      why: button("Why", () => this.why.ask(run.run), { class: "small", "aria-label": `Why run ${run.run}` }),
      again: button("Rerun", () => actions.rerun(this.path, run.run), { class: "small", "aria-label": `Rerun run ${run.run}` }),
    };
    const row = el("li", { class: "run" },
      el("div", { class: "line" }, parts.icon, el("b", { class: "num", text: `${run.run ?? ""}${run.attempt > 1 ? `, try ${run.attempt}` : ""}` }), parts.stage, parts.time, parts.when, el("span", { class: "buttons" }, parts.why, parts.again)),
      parts.input, parts.output, parts.message);
    return Object.assign(row, parts);
  }
}

/** A button that opens a small form for a JSON value. */
class Asking {
  constructor(title, label, verb, act, suggest) {
    const id = `ask-${Math.random().toString(36).slice(2)}`;
    this.area = el("textarea", { id, rows: 3, spellcheck: "false", class: "code" });
    this.wrong = el("p", { class: "bad", role: "alert" });
    this.form = el("form", { class: "asking now-only", hidden: true }, el("label", { for: id, text: label }), this.area, this.wrong,
      el("div", { class: "row" }, el("button", { class: "primary", text: verb }), button("Cancel", () => this.#show(false))));
    this.opener = button(title, () => this.#show(this.form.hidden), { "aria-expanded": "false" });
    this.suggest = suggest;
    this.form.addEventListener("submit", async (event) => {
      event.preventDefault();
      let value;
      try {
        value = JSON.parse(this.area.value);
      } catch (error) {
        return void text(this.wrong, `This is no JSON: ${error.message}`);
      }
      text(this.wrong, "");
      if (await act(value)) this.#show(false);
    });
  }

  #show(open) {
    this.form.hidden = !open;
    this.opener.setAttribute("aria-expanded", String(open));
    if (!open) return void this.opener.focus();
    if (this.area.value === "") this.area.value = JSON.stringify(this.suggest() ?? null, null, 1);
    this.area.focus();
  }
}

/** A form that sends one of the Work's accepted messages and shows the answer. */
class Messages {
  constructor(path) {
    this.select = el("select", { id: "message-kind" });
    this.body = el("textarea", { id: "message-body", rows: 2, spellcheck: "false", class: "code", text: "" });
    this.body.value = "null";
    this.answer = el("pre", { class: "answer", hidden: true, tabindex: 0, "aria-label": "Answer", "aria-live": "polite" });
    const submit = el("button", { text: "Ask" });
    const form = el("form", { class: "asking" }, el("label", { for: "message-kind", text: "Message" }), this.select,
      el("label", { for: "message-body", text: "Content (JSON)" }), this.body, el("div", { class: "row" }, submit), this.answer);
    this.node = live("Messages", form);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const show = (value, bad) => {
        this.answer.hidden = false;
        this.answer.classList.toggle("bad", bad);
        this.answer.textContent = value;
      };
      let body;
      try {
        body = JSON.parse(this.body.value);
      } catch (error) {
        return show(`This is no JSON: ${error.message}`, true);
      }
      submit.disabled = true;
      try {
        show(JSON.stringify(await actions.send(path, this.select.value, body), null, 1), false);
      } catch (error) {
        show(error.message, true);
      }
      submit.disabled = false;
    });
  }

  draw(work) {
    const kinds = work.messages ?? [];
    hide(this.node, kinds.length === 0);
    list(this.select, kinds, (kind) => kind, (kind) => el("option", { value: kind, text: typeName(kind) }));
  }
}
