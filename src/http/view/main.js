// Connects the parts, and draws at most once a frame.

import { resume } from "./actions.js";
import { get, setToken, hasToken, now } from "./api.js";
import { announce, attr, byId, el, hide, icon, list, text } from "./dom.js";
import { Fleet } from "./fleet.js";
import { STAGES, count, plural, span, stageName } from "./format.js";
import { Graph } from "./graph.js";
import { Inspector } from "./inspector.js";
import { Log, load } from "./log.js";
import { drawNodes } from "./nodes.js";
import { Past } from "./past.js";
import { Payloads } from "./payloads.js";
import { Runs } from "./runs.js";
import { Store } from "./store.js";
import { Connection } from "./stream.js";
import { Timeline } from "./timeline.js";
import { Topics } from "./topics.js";
import { stateAt, tally } from "./tree.js";

let planned = false;
function redraw() {
  if (planned) return;
  planned = true;
  requestAnimationFrame(() => {
    planned = false;
    draw();
  });
}

const store = new Store(redraw);
const runs = new Runs(redraw);
const graph = new Graph(store, { select, redraw });
const choose = (path) => select(`w:${path}`, true);
const timeline = new Timeline(store, runs, { choose, redraw });
const log = new Log(store, { choose, redraw });
const payloads = new Payloads(redraw);
const topics = new Topics(redraw);
const fleet = new Fleet(redraw);
const past = new Past(store, { redraw });
const stateOf = (path) => stateAt(store.doc.state, path, (group) => graph.siblings(group));
const inspector = new Inspector({ store, runs, graph, stateOf, select, close, redraw, past });

let link = { phase: "connecting" };
let order = null;
let orderTimer = null;
let begun = null;
let failed = null;

// The selection is in the address, so that it can be shared and the browser's "back" works.

/** Returns the id of the selected node; the root by default. */
function selected() {
  const hash = decodeURIComponent(location.hash.slice(1));
  return /^[fwgs]:/.test(hash) ? hash : graph.root?.id ?? "f:";
}

const narrow = matchMedia("(max-width: 1023px)");
let opener = null;

function select(id, focus = false) {
  opener = document.activeElement;
  if (selected() !== id || location.hash === "") location.hash = encodeURIComponent(id);
  document.body.classList.add("inspecting");
  redraw();
  if (focus || narrow.matches) requestAnimationFrame(() => inspector.focus());
}

function close() {
  document.body.classList.remove("inspecting");
  if (opener?.isConnected) opener.focus();
}

addEventListener("hashchange", () => {
  if (location.hash === "") document.body.classList.remove("inspecting");
  redraw();
});
if (location.hash.length > 1) document.body.classList.add("inspecting");
byId("resume").addEventListener("click", () => resume(store.doc?.app.name || "the App"));
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("graph-tree").focus();
});

function draw() {
  drawConnection();
  if (!store.doc) return;
  past.draw();
  const fresh = store.take();
  hide(byId("main"), false);
  if (fresh.structure) {
    graph.restructure(order);
    orderSoon();
  }
  const paths = graph.root.works;
  drawHeader(paths);
  graph.draw(selected());
  timeline.draw(paths);
  drawNodes(store);
  if (fresh.nodes || fresh.works.size > 0) [payloads, topics].forEach((part) => part.refresh());
  payloads.draw();
  topics.draw();
  if (fresh.nodes || fresh.fleet) fleet.refresh();
  fleet.draw();
  log.draw();
  if (!narrow.matches || document.body.classList.contains("inspecting")) inspector.draw(selected());
}

function drawHeader(paths) {
  const { app, works } = store.doc;
  text(byId("app-name"), app.name || "Flowright");
  const up = app.started && !store.past ? `up ${span((now() - Date.parse(app.started)) / 1000)}` : "";
  text(byId("app-facts"), [app.version, app.stage === "running" ? up : app.stage.replace("_", " ")].filter(Boolean).join(" · "));
  hide(byId("safe-mode"), !app.safe_mode);
  if (app.safe_mode) text(byId("safe-mode-text"), `${app.safe_mode.reason}. Everything is restored, and nothing goes on until the App is resumed. A Work that is stopped before stays stopped.`);
  const stages = tally(works, paths);
  const bad = stages.failed ?? 0;
  const title = `${bad > 0 ? `(${bad} failed) ` : ""}${app.name || "Flowright"}`;
  if (document.title !== title) document.title = title;
  list(byId("counts"), ["", ...STAGES.filter((stage) => stages[stage])], (stage) => stage, (stage) => {
    const number = el("b", { class: "num" });
    const label = el("span", {});
    const button = el("button", { type: "button", class: `count s-${stage || "all"}`, on: { click: () => select(`s:${stage}`, true) } }, stage ? icon(stage) : null, number, label);
    return Object.assign(button, { number, label });
  }, (button, stage) => {
    const n = stage === "" ? paths.length : stages[stage];
    text(button.number, count(n));
    text(button.label, stage === "" ? (n === 1 ? "Work" : "Works") : stageName(stage));
  });
  // Announced, since a colour alone does not reach everybody.
  if (store.past) return;
  if (failed !== null && bad > failed) announce(`${plural(bad, "Work has", "Works have")} failed`);
  failed = bad;
}

function drawConnection() {
  const { phase } = link;
  const over = store.doc?.app.stage === "stopping" || store.doc?.app.stage === "ended";
  attr(byId("connection"), "data-phase", phase);
  const stale = store.doc !== null && phase !== "live";
  document.body.classList.toggle("stale", stale);
  const ago = `this is ${span((Date.now() - connection.heard) / 1000)} old`;
  const wait = link.retryAt ? Math.max(0, Math.ceil((link.retryAt - Date.now()) / 1000)) : 0;
  const message = {
    live: store.past ? "connected" : "live",
    connecting: stale ? `stale: ${ago}; reconnecting` : "connecting",
    lost: stale ? `stale: ${ago}; ${over ? "the App has ended" : link.why}; ${wait > 0 ? `again in ${wait} s` : "reconnecting"}` : `${link.why}; ${wait > 0 ? `again in ${wait} s` : "reconnecting"}`,
    refused: stale ? `stale: ${ago}; refused` : "refused",
  }[phase];
  text(byId("connection-text"), message);
  hide(byId("retry"), phase !== "lost" && !(phase === "refused" && link.problem?.status !== 401));
  const notice = byId("notice");
  hide(notice, store.doc !== null || phase === "live");
  if (store.doc !== null) return;
  const words = {
    connecting: ["Connecting", "Waiting for the first snapshot of the App."],
    lost: ["The App does not answer", "It may have ended, or not have started yet. This page tries again by itself."],
    refused: link.problem?.status === 401 ? ["A token is needed", "The App requires a token."] : ["The App refused this page", link.problem?.message ?? ""],
  }[phase] ?? ["", ""];
  text(byId("notice-title"), words[0]);
  text(byId("notice-text"), words[1]);
}

/** Fetches the order in which children were declared, which the document does not contain. */
function orderSoon() {
  orderTimer ??= setTimeout(async () => {
    orderTimer = null;
    try {
      const { items } = await get("graph");
      const found = items.map((item) => item.path);
      if (order && found.length === order.size && found.every((path, i) => order.get(path) === i)) return;
      order = new Map(found.map((path, i) => [path, i]));
      graph.restructure(order);
      redraw();
    } catch { /* children stay sorted by name */ }
  }, order ? 1000 : 0);
}

const dialog = byId("token-dialog");

const connection = new Connection((event, data) => {
  if (event === "snapshot") {
    const other = begun !== null && begun !== data.app?.started;
    begun = data.app?.started;
    if (other) {
      store.forgetLog();
      runs.forget();
      failed = null;
      past.leave();
    }
    store.snapshot(data);
    [payloads, topics, fleet].forEach((part) => part.refresh());
    if (store.lastSeq === 0) log.again();
    else load(store, `logs?after=${store.lastSeq}&level=trace&limit=200`);
  } else if (event === "patch") store.patch(data);
  else if (event === "log") store.logs([data]);
}, (state) => {
  if (state.phase !== link.phase && (state.phase === "lost" || (state.phase === "live" && store.doc))) announce(state.phase === "live" ? "Connected again; what you see is live" : "The connection is lost; what you see is stale");
  link = state;
  if (state.phase === "refused" && state.problem.status === 401 && !dialog.open) {
    text(byId("token-error"), hasToken() ? "That token was refused." : "");
    dialog.showModal();
  }
  redraw();
});

byId("retry").addEventListener("click", connection.retry);
dialog.addEventListener("cancel", (event) => event.preventDefault());
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken(byId("token").value.trim());
  byId("token").value = "";
  dialog.close();
  connection.retry();
});

// Ages and plots advance once a second; everything else is drawn when it changes.
setInterval(() => {
  if (link.phase === "live") store.sample();
  redraw();
}, 1000);
connection.run();
redraw();
