// Draws what /api/v1/events sends. What comes from the App enters the page as text, never as markup.

const $ = (id) => document.getElementById(id);
const words = (name) => name.replaceAll("_", " ");
const inOrder = new Intl.Collator("en", { numeric: true }).compare;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Writes only what differs: a thousand Works cost comparisons, not layout.
function write(element, text) {
  if (element.written === text) return false;
  element.written = text;
  element.textContent = text;
  return true;
}

function writeStage(element, stage, text = words(stage)) {
  if (write(element, text)) element.className = `stage ${stage}`;
}

// Makes the children of `parent` from `first` on those of `keys`, in order.
function arrange(parent, first, keys, entries, create) {
  const wanted = new Set(keys);
  for (const [key, entry] of entries) {
    if (wanted.has(key)) continue;
    entry.element.remove();
    entries.delete(key);
  }
  let next = first;
  for (const key of keys) {
    let entry = entries.get(key);
    if (!entry) entries.set(key, (entry = create(key)));
    if (entry.element === next) next = next.nextElementSibling;
    else parent.insertBefore(entry.element, next);
  }
}

// ---- Works and Flows ----

class Row {
  constructor(path, labels) {
    this.path = path;
    this.stage = make("span");
    this.reason = make("span", { class: "muted" });
    this.time = make("time");
    this.type = make("span", { class: "type muted" });
    this.cells = labels.map(() => make("span"));
    const content = [[this.stage, this.reason], [this.time], ...this.cells.map((cell) => [cell])];
    this.said = make("pre");
    this.saidRow = make("tr", { hidden: "" }, make("td", { colspan: 7 }, this.said));
    this.element = make("tbody", {}, make("tr", {}, make("th", { scope: "row" }, path, this.type),
      ...["Stage", "Since", ...labels].map((label, column) =>
        make("td", { "data-label": label }, make("span", {}, ...content[column])))), this.saidRow);
  }

  update(status, values) {
    const { stage, reason, message, time } = status;
    if (this.status && this.status.stage !== stage) announce(this.path, stage);
    this.status = status;
    writeStage(this.stage, stage);
    write(this.reason, stage === "failed" && reason ? ` (${words(reason)})` : "");
    if (this.at !== time) this.showTime(time);
    values.forEach((value, column) => write(this.cells[column], String(value)));
    if (write(this.said, message ?? "")) this.saidRow.hidden = !message;
  }

  showTime(time) {
    this.at = time;
    const date = new Date(time);
    const today = date.toDateString() === new Date().toDateString();
    this.time.textContent = time ? (today ? date.toLocaleTimeString() : date.toLocaleString()) : "–";
    this.time.dateTime = date.toISOString();
  }
}

class Table {
  constructor(table, labels) {
    this.table = table;
    this.labels = labels;
    this.rows = new Map();
    const heads = ["Path", "Stage", "Since", ...labels].map((label) => make("th", { scope: "col" }, label));
    table.append(make("thead", {}, make("tr", {}, ...heads)));
  }

  update(all, valuesOf) {
    const paths = Object.keys(all).sort(inOrder);
    arrange(this.table, this.table.tHead.nextElementSibling, paths, this.rows, (path) => new Row(path, this.labels));
    for (const [path, row] of this.rows) row.update(all[path], valuesOf(all[path], row));
  }
}

const works = new Table($("works"), ["Attempt", "Successes", "Waiting messages", "Placement"]);
const flows = new Table($("flows"), []);

function showWorks(all) {
  const counts = {};
  works.update(all, (work, row) => {
    counts[work.stage] = (counts[work.stage] ?? 0) + 1;
    write(row.type, work.type_name.replace(/(\w+::)+/g, ""));
    const place = work.is_up ? work.placement : `${work.placement}, not up`;
    return [work.attempt, work.successes, work.waiting_messages, place];
  });
  const total = works.rows.size;
  const parts = Object.keys(counts).sort().map((stage) => `${counts[stage]} ${words(stage)}`);
  write($("counts"), total ? `${total} in all: ${parts.join(", ")}` : "none yet");
  $("works").hidden = total === 0;
  $("filter-line").hidden = total <= 20;
  filter();
  document.title = counts.failed ? `${counts.failed} failed – Flowright` : "Flowright";
}

function filter() {
  const wanted = $("filter-line").hidden ? "" : $("filter").value.trim().toLowerCase();
  for (const { path, status, element } of works.rows.values()) {
    element.hidden = !`${path} ${words(status.stage)}`.toLowerCase().includes(wanted);
  }
}

$("filter").addEventListener("input", filter);

// ---- what a screen reader is told: at most one sentence a second ----

const news = new Map();

function announce(name, stage) {
  if (news.size === 0) setTimeout(tell, 1000);
  news.set(name, words(stage));
}

function tell() {
  const failed = [...news.values()].filter((stage) => stage === "failed").length;
  const all = [...news].map(([name, stage]) => `${name}: ${stage}.`).join(" ");
  $("announcements").textContent = news.size <= 3 ? all : `${news.size} stages changed, ${failed} to failed.`;
  news.clear();
}

// ---- the state tree ----

const PAGE = 200; // entries of one branch that are drawn at once
let flashes = 0;

function flash(element) {
  if (flashes++ < 100) element.animate([{ backgroundColor: "var(--flash)" }, { backgroundColor: "transparent" }], 1500);
}

const isObject = (value) => typeof value === "object" && value !== null;
const kind = (value) => (isObject(value) && Object.keys(value).length ? 1 + Array.isArray(value) : 0);
const text = (value) => (typeof value === "bigint" ? String(value) : JSON.stringify(value));

function same(a, b) {
  if (!isObject(a) || !isObject(b)) return a === b;
  const keys = Object.keys(a);
  return Array.isArray(a) === Array.isArray(b) && keys.length === Object.keys(b).length &&
    keys.every((key) => Object.hasOwn(b, key) && same(a[key], b[key]));
}

class Entry {
  // `levels` of it are open at first, where a level is not long.
  constructor(key, value, levels) {
    this.key = key;
    this.levels = Object.keys(value ?? {}).length <= 25 ? levels : 0;
    this.element = make("li");
    this.build(value);
  }

  build(value) {
    this.value = value;
    this.kind = kind(value);
    const key = make("span", { class: "key" }, this.key);
    this.text = make("span", this.kind ? { class: "muted" } : {});
    this.element.className = this.kind ? "" : "leaf";
    if (!this.kind) {
      this.text.textContent = text(value);
      return this.element.replaceChildren(key, ": ", this.text);
    }
    this.limit = PAGE;
    this.entries = new Map();
    this.list = make("ul");
    this.more = make("button", { type: "button", hidden: "" });
    this.more.addEventListener("click", () => this.fill(false, (this.limit += PAGE)));
    this.details = make("details", {}, make("summary", {}, key, " ", this.text), this.list, this.more);
    this.details.open = this.levels > 0;
    this.details.addEventListener("toggle", () => this.fill(false));
    this.element.replaceChildren(this.details);
    this.fill(false);
  }

  update(value, loud) {
    const before = this.value;
    this.value = value;
    if (kind(value) !== this.kind) {
      this.build(value);
      if (loud) flash(this.element);
    } else if (this.kind && this.details.open) {
      this.fill(loud);
    } else if (!same(before, value)) {
      if (this.kind) this.fill(false);
      else this.text.textContent = text(value);
      if (loud) flash(this.text);
    }
  }

  // What is folded away is drawn when it is opened.
  fill(loud) {
    const keys = Object.keys(this.value);
    write(this.text, this.kind === 2 ? `[${keys.length}]` : `{${keys.length}}`);
    if (!this.details.open) return;
    const shown = keys.slice(0, this.limit);
    for (const [key, entry] of this.entries) {
      if (Object.hasOwn(this.value, key)) entry.update(this.value[key], loud);
    }
    arrange(this.list, this.list.firstElementChild, shown, this.entries, (key) => {
      const entry = new Entry(key, this.value[key], this.levels - 1);
      if (loud) flash(entry.element);
      return entry;
    });
    const left = keys.length - shown.length;
    this.more.hidden = left === 0;
    write(this.more, `show more of the ${left} left`);
  }
}

// ---- the stream ----

let newest = null; // the event that is not drawn yet; older ones are skipped
let drawn = null; // the status that is
let took = 0; // ms, to draw it; three quarters of the time are left to others
let tree = null;
let live = false;
let heard = null;

// Integers that a double cannot hold keep their digits, where the browser gives them.
const exact = (_, value, context) =>
  Number.isInteger(value) && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source)
    ? BigInt(context.source) : value;

function draw(began) {
  const { state, status } = JSON.parse(newest, /\d{16}/.test(newest) ? exact : undefined);
  newest = null;
  flashes = 0;
  if (drawn && drawn.stage !== status.stage) announce("App", status.stage);
  drawn = status;
  showWorks(status.works);
  flows.update(status.flows, () => []);
  $("flows-section").hidden = flows.rows.size < 2;
  if (tree) tree.update(state, true);
  else $("state").append((tree = new Entry("root", state, 3)).element);
  write($("reactions"), `reactions: ${status.reactions}`);
  showApp();
  took = performance.now() - began;
}

function showApp() {
  if (drawn) writeStage($("app"), live ? drawn.stage : "", live ? drawn.stage : `was ${drawn.stage}`);
}

function connection(isLive) {
  if (live !== isLive && heard) announce("Connection", isLive ? "live" : "lost, trying again");
  live = isLive;
  const old = heard ? `; this is from ${heard.toLocaleTimeString()}` : "";
  write($("connection"), live ? "live" : `connection lost, trying again${old}`);
  document.body.classList.toggle("lost", !live);
  showApp();
}

function connect() {
  const events = new EventSource("api/v1/events");
  events.onmessage = ({ data }) => {
    if (newest === null) setTimeout(requestAnimationFrame, 3 * took, draw);
    newest = data;
    heard = new Date();
    if (!live) connection(true);
  };
  events.onerror = () => {
    connection(false);
    // The browser tries again by itself, unless it was answered with an error.
    if (events.readyState === EventSource.CLOSED) setTimeout(connect, 2000);
  };
}

connect();
