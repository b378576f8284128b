// A scripted App: it serves the page from src/http/view/ and implements the API, so that tests can show the page states
// that are rare in a real App, or need many machines. Run it by hand to work on the page:
//
//     node tests/page/fake.js demo 7599

import { createServer } from "node:http";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { join } from "node:path";

const VIEW = fileURLToPath(new URL("../../src/http/view/", import.meta.url));
const TYPES = { html: "text/html; charset=utf-8", css: "text/css; charset=utf-8", js: "text/javascript; charset=utf-8", svg: "image/svg+xml" };
const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const iso = (ms) => new Date(ms).toISOString();
const clone = (value) => JSON.parse(JSON.stringify(value));

function work(type, node, stage = "not_started", more = {}) {
  return {
    type, stage, reason: null, message: null, attempt: stage === "not_started" ? 0 : 1, since: iso(Date.now()), placement: node === "head" ? "thread" : node,
    node, is_up: stage !== "not_started" && stage !== "stopped" && stage !== "failed", mailbox: { waiting: 0, capacity: 64, accepted: 0 },
    runs: { waiting: 0, succeeded: 0, failed: 0, stopped: 0 }, restarts: 0, current: null, messages: [], ...more,
  };
}

const node = (more = {}) => ({
  is_connected: true, labels: {}, resources: { cpus: 8, gpus: 0, memory: 34e9 }, used: { cpus: 0, gpus: 0, memory: 0 }, works: [],
  load: { cpus: 0.25, memory: 41e6, average: 0.8 }, payloads: { memory: 0, disk: 0, hits: 0, pulls: 0, spills: 0 }, heartbeat_age: 0.1,
  round_trip: 0.00042, is_head: false, ...more,
});

/** Returns how two recorded moments differ at a path and below it, as the API does. */
function differences(from, to, path) {
  const items = [];
  const isPart = (other) => path === "" || other === path || other.startsWith(`${path}.`);
  for (const name of new Set([...Object.keys({ ...from.works, ...to.works }), ...Object.keys({ ...from.flows, ...to.flows })])) {
    const stage = (side) => (side.works[name] ?? side.flows[name])?.stage;
    if (isPart(name) && stage(from) !== stage(to)) items.push({ kind: "stage", path: name, before: stage(from), after: stage(to) });
  }
  const at = (state) => (path === "" ? state : path.split(".").reduce((value, key) => value?.[key], state));
  const compare = (name, before, after) => {
    if (JSON.stringify(before) === JSON.stringify(after)) return;
    const isBranch = (value) => value !== null && typeof value === "object";
    if (!isBranch(before) || !isBranch(after)) return void items.push({ kind: "state", path: name, before, after });
    for (const key of new Set([...Object.keys(before), ...Object.keys(after)])) compare(name === "" ? key : `${name}.${key}`, before[key], after[key]);
  };
  compare(path, at(from.state), at(to.state));
  return items;
}

/** A fake App: a document, its history of runs and its log, and the clients of its event stream. */
export class FakeApp {
  constructor(name) {
    this.doc = {
      version: 1, app: { name, version: "0.1.0", stage: "running", reactions: 1, listening: "0.0.0.0:7502", started: iso(Date.now() - 754_000) },
      state: {}, works: {}, flows: {}, nodes: { head: node({ is_head: true, round_trip: null }) },
    };
    this.runs = {};
    this.lines = [];
    this.payloads = [];
    this.fleet = [];
    this.topics = [];
    this.clients = new Set();
    this.posts = [];
    this.token = null;
    this.pending = [];
    this.number = 100;
    this.recorded = [];
    this.whys = {};
  }

  /** Adds a position to the journal with the document as it is. */
  record(position = (this.recorded.at(-1)?.position ?? 0) + 1, time = iso(Date.now())) {
    const statuses = (all) => Object.fromEntries(Object.entries(all).map(([path, { stage, reason, message, since, attempt = 0 }]) => [path, { stage, reason, message, since, attempt }]));
    const { state, works, flows } = this.doc;
    this.recorded.push({ position, time, state: clone(state), works: statuses(works), flows: statuses(flows) });
    this.set("/app/journal", { position, waiting: 0, full: null, parked: [] });
  }

  flow(path, type) {
    this.doc.flows[path] = { stage: "running", reason: null, message: null, since: this.doc.app.started, type };
  }

  work(path, type, where = "head", stage, more) {
    this.doc.works[path] = work(type, where, stage, more);
    this.doc.nodes[where]?.works.push(path);
    this.runs[path] = [];
  }

  /** Changes a part of the document, and sends the patch to all clients at the next flush. */
  set(pointer, value) {
    const parts = pointer.slice(1).split("/").map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
    let at = this.doc;
    for (const part of parts.slice(0, -1)) at = at[part];
    const last = parts.at(-1);
    const op = value === undefined ? "remove" : Array.isArray(at) && last === "-" ? "add" : last in at ? "replace" : "add";
    if (value === undefined) delete at[last];
    else if (last === "-") at.push(value);
    else at[last] = value;
    this.pending.push(value === undefined ? { op, path: pointer } : { op, path: pointer, value: clone(value) });
  }

  flush() {
    if (this.pending.length === 0) return;
    this.doc.version++;
    this.emit("patch", { version: this.doc.version, ops: this.pending });
    this.pending = [];
  }

  log(level, path, text) {
    const item = { seq: this.lines.length + 1, time: iso(Date.now()), level, work: path, run: null, node: "head", target: "fake", text };
    this.lines.push(item);
    this.emit("log", item);
  }

  emit(event, data) {
    const text = `id: ${this.number++}\nevent: ${event}\ndata: ${JSON.stringify(data)}\n\n`;
    for (const client of this.clients) client.write(text);
  }

  begin(path, input, ago = 0) {
    const started = Date.now() - ago * 1000;
    const run = { run: (this.runs[path][0]?.run ?? 0) + 1, attempt: 1, stage: "running", reason: null, message: null, input, queued: iso(started), started: iso(started), ended: null, node: this.doc.works[path].node };
    this.runs[path].unshift(run);
    const base = `/works/${path}`;
    this.set(`${base}/stage`, "running");
    this.set(`${base}/since`, run.started);
    this.set(`${base}/reason`, null);
    this.set(`${base}/message`, null);
    this.set(`${base}/is_up`, true);
    this.set(`${base}/attempt`, 1);
    this.set(`${base}/current`, { run: run.run, input, started: run.started });
    return run;
  }

  finish(path, stage = "succeeded", reason = null, message = null, after) {
    const run = this.runs[path][0];
    const ended = after === undefined ? Date.now() : Date.parse(run.started) + after * 1000;
    Object.assign(run, { stage, reason, message, ended: iso(ended) });
    const base = `/works/${path}`;
    for (const [key, value] of Object.entries({ stage, reason, message, since: run.ended, current: null })) this.set(`${base}/${key}`, value);
    if (stage !== "succeeded") this.set(`${base}/is_up`, false);
    this.set(`${base}/runs/${stage}`, this.doc.works[path].runs[stage] + 1);
  }

  /** Adds a history: `count` runs of `seconds` each, the last of which has just ended. */
  past(path, inputs, seconds, pause) {
    inputs.forEach((input, i) => {
      const ago = (inputs.length - i) * (seconds + pause);
      this.begin(path, input, ago);
      this.finish(path, "succeeded", null, null, seconds * (0.8 + 0.4 * ((i * 7919) % 10) / 10));
    });
  }

  listen(port = 0) {
    this.server = createServer((request, response) => this.#answer(request, response));
    return new Promise((resolve) => this.server.listen(port, "127.0.0.1", () => resolve((this.port = this.server.address().port))));
  }

  /** Ends at once, like a process that is killed. */
  async close() {
    clearInterval(this.timer);
    if (!this.server.listening) return;
    for (const client of this.clients) client.destroy();
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  async #answer(request, response) {
    const url = new URL(request.url, "http://localhost");
    const path = decodeURIComponent(url.pathname);
    const json = (value, status = 200, type = "application/json") => {
      response.writeHead(status, { "Content-Type": type });
      response.end(JSON.stringify(value));
    };
    const problem = (status, title, detail) => json({ type: "about:blank", title, status, detail }, status, "application/problem+json");
    if (path === "/view" || path.startsWith("/view/")) {
      const file = path === "/view" ? "view.html" : path.slice(6);
      if (!/^[a-z]+\.[a-z]+$/.test(file) || !existsSync(join(VIEW, file))) return problem(404, "not found", "there is nothing at this address");
      response.writeHead(200, { "Content-Type": TYPES[file.split(".")[1]], "Content-Security-Policy": POLICY, "Cache-Control": "no-store" });
      return response.end(readFileSync(join(VIEW, file)));
    }
    if (path === "/healthz") return json({ status: "ok" });
    if (this.token && request.headers.authorization !== `Bearer ${this.token}`) return problem(401, "a token is needed", "send it as Authorization: Bearer");
    const rest = path.replace("/api/v1/", "");
    if (request.method === "POST") {
      let body = "";
      for await (const chunk of request) body += chunk;
      this.posts.push({ path: rest, body: body === "" ? null : JSON.parse(body) });
      if (rest.includes("/messages/")) return json({ label: "cat", confidence: 0.93 });
      const name = rest.match(/^works\/(.*)\/\w+$/)?.[1];
      if (name !== undefined && !(name in this.doc.works)) return problem(404, "no such Work", `there is no Work ${name}`);
      this.onPost?.(rest, name);
      return json({ accepted: true }, 202);
    }
    if (rest === "events") {
      response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store" });
      response.write(`id: ${this.number++}\nevent: snapshot\ndata: ${JSON.stringify(this.doc)}\n\n`);
      this.clients.add(response);
      request.on("close", () => this.clients.delete(response));
      return;
    }
    if (rest === "graph") return json({ items: [...Object.keys(this.doc.flows).map((path) => ({ path, kind: "flow" })), ...Object.keys(this.doc.works).map((path) => ({ path, kind: "work" }))] });
    if (rest === "history" && this.recorded.length > 0) return json({ items: [{ position: this.recorded[0].position }], older: null, newer: null });
    if (rest === "state" && url.searchParams.has("at")) {
      this.asked = Number(url.searchParams.get("at"));
      const found = this.recorded.findLast(({ position }) => position <= this.asked);
      return found ? json(found) : problem(404, "not found", "the journal begins after that");
    }
    if (rest === "diff") {
      this.compared = url.search;
      const from = this.recorded.findLast(({ position }) => position <= Number(url.searchParams.get("from")));
      if (!from) return problem(404, "not found", "the journal begins after that");
      const to = this.recorded.at(-1);
      const limit = Number(url.searchParams.get("limit") ?? 200);
      const items = differences(from, to, url.searchParams.get("path") ?? "");
      return json({ from: { position: from.position, time: from.time }, to: { position: to.position, time: to.time }, items: items.slice(0, limit), total: items.length, next: items.length > limit ? limit : null });
    }
    if (rest === "why") {
      const chain = this.whys[`${url.searchParams.get("work")} ${url.searchParams.get("run")}`];
      if (!chain) return problem(404, "not found", "the history has no such run");
      // A page has one run, and the first page none: much of the history has to be read.
      const at = url.searchParams.has("cursor") ? Number(url.searchParams.get("cursor")) : -1;
      return json({ items: at < 0 ? [] : [chain[at]], next: at + 1 < chain.length ? String(at + 1) : null });
    }
    if (rest === "payloads") return json({ items: this.payloads });
    if (rest === "fleet") return json({ items: this.fleet });
    if (rest === "topics") return json({ items: this.topics });
    if (rest === "logs") {
      const levels = ["error", "warn", "info", "debug", "trace"];
      const most = levels.indexOf(url.searchParams.get("level") ?? "info");
      const name = url.searchParams.get("work");
      const after = Number(url.searchParams.get("after") ?? 0);
      const items = this.lines.filter((line) => line.seq > after && levels.indexOf(line.level) <= most && (!name || line.work === name)).slice(-Number(url.searchParams.get("limit") ?? 200));
      return json({ items, next: this.lines.length });
    }
    const runs = rest.match(/^works\/(.*)\/runs$/);
    if (runs && this.runs[runs[1]]) {
      const size = Number(url.searchParams.get("per_page") ?? 50);
      return json({ page: 1, per_page: size, total: this.runs[runs[1]].length, items: this.runs[runs[1]].slice(0, size) });
    }
    return problem(404, "not found", `there is nothing at ${path}`);
  }
}

/** Training, serving and some data: a normal App with one failure. */
export function demo() {
  const app = new FakeApp("Continuous deployment");
  const { doc } = app;
  doc.nodes["gpu-1"] = node({ labels: { zone: "west" }, resources: { cpus: 16, gpus: 2, memory: 128e9 }, used: { cpus: 9, gpus: 2, memory: 71e9 }, payloads: { memory: 3.4e9, disk: 0 } });
  doc.nodes["cpu-1"] = node({ labels: { zone: "east" }, used: { cpus: 3, gpus: 0, memory: 6e9 }, payloads: { memory: 2e8, disk: 1.2e9 } });
  doc.nodes.head.used = { cpus: 1, gpus: 0, memory: 1e9 };
  app.flow("", "demo::ContinuousDeployment");
  app.flow("data", "demo::data::Data");
  app.flow("serving", "demo::serving::Serving");
  app.work("train", "demo::Train", "gpu-1");
  app.work("data.fetch", "demo::data::Fetch", "cpu-1");
  app.work("data.clean", "demo::data::Clean", "cpu-1");
  app.work("data.index", "demo::data::Index", "cpu-1");
  app.work("serving.model", "demo::serving::ModelDeployment", "gpu-1", "not_started", { messages: ["demo::serving::Predict", "demo::serving::Reload"] });
  app.work("serving.gateway", "demo::serving::Gateway", "head");
  app.work("serving.canary", "demo::serving::Canary", "head");
  app.work("evaluate", "demo::Evaluate", "gpu-1");
  app.work("report", "demo::Report", "head");
  const checkpoint = (step) => `/some/path/step=${step}_fake_loss=${(1 / step).toFixed(4)}`;
  app.past("data.fetch", ["2026-11-21", "2026-11-22", "2026-11-23"], 24, 30);
  app.past("data.clean", ["2026-11-21", "2026-11-22", "2026-11-23"], 31, 22);
  app.begin("data.index", { shard: 3, of: 8 }, 44);
  app.begin("train", null, 241);
  app.past("serving.model", [10, 20, 30, 40, 50, 60].map(checkpoint), 3, 36);
  app.begin("serving.model", checkpoint(70), 12);
  app.begin("serving.gateway", null, 280);
  app.past("evaluate", [10, 20, 30, 40, 50].map(checkpoint), 17, 33);
  app.begin("serving.canary", { traffic: 0.05 }, 61);
  app.finish("serving.canary", "failed", "user_error", "the canary answered worse than the model before it: accuracy 0.871, at least 0.900 wanted: compared on 12,000 requests of the last hour: quantile p95 of the latency is 412 ms, at most 250 ms wanted", 38);
  app.set("/works/serving.canary/attempt", 3);
  app.set("/works/serving.canary/restarts", 2);
  app.set("/works/report/stage", "pending");
  app.set("/works/report/reason", null);
  app.set("/works/report/runs/waiting", 1);
  app.payloads = [
    { id: "b3:91c0…e2", type: "alloc::vec::Vec<f32>", bytes: 3_221_225_472, made_by: "data.index", owner: "gpu-1", copies: ["gpu-1", "cpu-1"], in_memory: true, on_disk: false, held_by: ["train (run 1)"] },
    { id: "b3:17aa…04", type: "demo::data::Batch", bytes: 184_320_000, made_by: "data.clean", owner: "cpu-1", copies: [], in_memory: true, on_disk: false, held_by: ["data.clean (state)", "data.index (run 1)"] },
    { id: "b3:5f02…9b", type: "bytes::Bytes", bytes: 12_400, made_by: "evaluate", owner: "gpu-1", copies: [], in_memory: false, on_disk: true, held_by: ["evaluate (state)"] },
  ];
  doc.state = {
    data: { fetch: { day: "2026-11-23", rows: 1204331 }, clean: { dropped: 812, kept: 1203519 }, index: { shard: 3, progress: 0.42 } },
    train: { step: 70, loss: 0.0143, last_checkpoint: checkpoint(70), learning_rate: 0.0003, history: [0.1, 0.05, 0.033, 0.025, 0.02], optimizer: { name: "adam", beta: [0.9, 0.999], warm: true } },
    serving: { model: { checkpoint: checkpoint(70), requests: 9210, latency_ms: { p50: 4.1, p95: 11.8 } }, gateway: { open: 12, total: 9214 }, canary: { accuracy: 0.871 } },
    evaluate: { best: checkpoint(50), accuracy: 0.934 }, report: { sent: null }, deployed: checkpoint(70),
  };
  for (const [level, path, text] of [["info", null, "Your app has started. View it in your browser: http://127.0.0.1:7501/view"], ["info", null, "node gpu-1 has joined"], ["info", "data.fetch", "1,204,331 rows of 2026-11-23"], ["warn", "data.clean", "812 rows have no label and are dropped"], ["info", "train", `saved new checkpoint: ${checkpoint(60)}`], ["info", "serving.model", `load new model from checkpoint: ${checkpoint(60)}`], ["error", "serving.canary", "accuracy 0.871, at least 0.900 wanted"], ["debug", "serving.gateway", "12 connections are open"], ["info", "train", `saved new checkpoint: ${checkpoint(70)}`], ["info", "serving.model", `load new model from checkpoint: ${checkpoint(70)}`]]) app.log(level, path, text);
  app.pending = [];
  let tick = 0;
  app.live = () => {
    app.timer = setInterval(() => {
      tick++;
      const { works } = doc;
      app.set("/state/train/loss", Number((0.0143 + Math.sin(tick / 5) / 2000).toFixed(5)));
      app.set("/state/serving/model/requests", doc.state.serving.model.requests + 11);
      const wait = Math.max(0, Math.round(9 + 8 * Math.sin(tick / 9)));
      app.set("/works/serving.model/mailbox/waiting", wait);
      app.set("/works/serving.model/mailbox/accepted", works["serving.model"].mailbox.accepted + 20 + wait);
      if (tick % 10 === 0) {
        app.set("/state/train/step", doc.state.train.step + 1);
        app.set("/state/data/index/progress", Number((((doc.state.data.index.progress * 100 + 1) % 100) / 100).toFixed(2)));
        app.log("info", "train", `step=${doc.state.train.step}: fake_loss=${doc.state.train.loss}`);
        app.set("/app/reactions", doc.app.reactions + 1);
      }
      app.flush();
    }, 100);
  };
  app.onPost = (rest, name) => {
    if (rest.endsWith("/stop") && name) app.finish(name, "stopped", "stopped", null);
    if (rest.endsWith("/rerun") || rest.endsWith("/restart") || rest.endsWith("/start")) app.begin(name, app.runs[name][0]?.input ?? null);
    app.flush();
  };
  return app;
}

/** `n` Works and `rate` changes of state or stage a second, in 60 patches a second. */
export function crowd(n = 1000, rate = 1000) {
  const app = new FakeApp("Crowd");
  app.flow("", "demo::Crowd");
  app.work("dispatcher", "demo::Dispatcher", "head");
  app.begin("dispatcher", null, 500);
  const workers = [];
  for (let i = 0; i < n; i++) {
    const path = `workers.${i}`;
    app.work(path, "demo::Worker", "head", i % 7 === 0 ? "succeeded" : "running", { placement: "pool" });
    workers.push({ done: 0 });
  }
  app.doc.state = { dispatcher: { given: 0 }, workers };
  app.pending = [];
  app.changes = 0;
  let at = 0;
  const stages = ["running", "running", "running", "succeeded", "pending", "running", "succeeded", "running", "failed", "running"];
  app.live = () => {
    let owed = 0;
    let last = Date.now();
    app.timer = setInterval(() => {
      const now = Date.now();
      owed += ((now - last) / 1000) * rate;
      last = now;
      for (; owed >= 1; owed--) {
        const i = (at = (at * 1103515245 + 12345) % 2147483648) % n;
        if (at % 3 === 0) {
          const stage = stages[at % 97 === 0 ? 8 : (at >> 4) % 8];
          app.set(`/works/workers.${i}/stage`, stage);
        } else app.set(`/state/workers/${i}/done`, app.doc.state.workers[i].done + 1);
        app.changes++;
      }
      app.set("/state/dispatcher/given", app.changes);
      app.flush();
    }, 17);
  };
  return app;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const app = { demo, crowd }[process.argv[2] ?? "demo"]();
  app.token = process.env.TOKEN ?? null;
  app.live();
  console.log(`http://127.0.0.1:${await app.listen(Number(process.argv[3] ?? 7599))}/view`);
}
