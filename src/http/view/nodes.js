// The processes of the App and their load.

import { byId, el, list, setIcon, icon, text, attr, hide } from "./dom.js";
import { STAGES, byName, bytes, count, duration, plural, span, stageName } from "./format.js";
import { tally } from "./tree.js";

const part = (n) => Number(n).toLocaleString("en", { maximumFractionDigits: 2 });
// Resource key, label, formatter, and whether the load report measures its use.
const RESOURCES = [["cpus", "CPUs", part, true], ["memory", "memory", bytes, true], ["gpus", "GPUs", count, false]];

export function drawNodes(store) {
  const { nodes, works } = store.doc;
  const names = Object.keys(nodes).sort((a, b) => (nodes[b].is_head ?? false) - (nodes[a].is_head ?? false) || byName(a, b));
  const away = names.filter((name) => nodes[name].is_connected === false).length;
  text(byId("nodes-facts"), away > 0 ? `${plural(away, "node")} away` : names.length > 1 ? plural(names.length, "process", "processes") : "");
  list(byId("nodes-list"), names, (name) => name, make, (row, name) => update(row, name, nodes[name], works));
}

function make(name) {
  const row = el("li", { class: "machine" });
  row.state = icon("running");
  row.name = el("b", { text: name });
  row.fact = el("span", { class: "quiet" });
  row.labels = el("span", { class: "quiet labels" });
  row.meters = el("div", { class: "meters" });
  row.facts = el("span", { class: "quiet" });
  row.bar = el("span", { class: "stagebar" });
  row.works = el("span", { class: "quiet" });
  row.append(el("div", { class: "line" }, row.state, row.name, row.labels, row.fact), row.meters, row.facts, row.bar, row.works);
  return row;
}

function update(row, name, node, works) {
  const here = node.works ?? [];
  const away = node.is_connected === false;
  setIcon(row.state, away ? "failed" : "running");
  row.classList.toggle("away", away);
  const beat = node.heartbeat_age;
  text(row.fact, away ? `not connected${beat > 0 ? `, last heard ${span(beat)} ago` : ""}` : node.is_head ? "head" : beat > 2 ? `last heard ${span(beat)} ago` : node.is_leaving ? "leaves" : "connected");
  text(row.labels, Object.entries(node.labels ?? {}).map(([key, value]) => `${key}=${value}`).join(" "));
  const meters = RESOURCES.filter(([key]) => node.resources?.[key] > 0);
  list(row.meters, meters, ([key]) => key, ([key, label]) => {
    const fill = el("i", {});
    const value = el("span", {});
    const meter = el("div", { class: "meter" }, el("span", { text: label }), el("span", { class: "track", "aria-hidden": "true" }, fill), value);
    return Object.assign(meter, { fill, value });
  }, (meter, [key, , show, isLoad]) => {
    const measured = isLoad && node.load;
    const used = (measured ? node.load : node.used)?.[key] ?? 0;
    const share = Math.min(1, used / node.resources[key]);
    const width = `${(share * 100).toFixed(1)}%`;
    if (meter.width !== width) meter.fill.style.width = meter.width = width;
    attr(meter.fill, "class", share > 0.9 ? "full" : null);
    text(meter.value, `${show(used)} of ${show(node.resources[key])}${measured ? "" : " asked for"}`);
  });
  const told = node.load ? RESOURCES.filter(([key, , , isLoad]) => isLoad && node.used?.[key] > 0).map(([key, label, show]) => `${show(node.used[key])} ${label}`) : [];
  const facts = told.length > 0 ? [`asked for: ${told.join(", ")}`] : [];
  if (node.load) facts.push(`load ${part(node.load.average)}`);
  if (node.ends_in != null) facts.push(`ends in ${span(node.ends_in)}`);
  if (node.round_trip > 0) facts.push(`answers in ${duration(node.round_trip)}`);
  text(row.facts, facts.join(" · "));
  hide(row.facts, facts.length === 0);
  const stages = tally(works, here);
  list(row.bar, STAGES.filter((stage) => stages[stage]), (stage) => stage, (stage) => el("i", { class: `s-${stage}` }), (bar, stage) => {
    if (bar.share !== stages[stage]) bar.style.flexGrow = String((bar.share = stages[stage]));
  });
  const counts = STAGES.filter((stage) => stages[stage]).map((stage) => `${count(stages[stage])} ${stageName(stage)}`).join(", ");
  const { memory = 0, disk = 0 } = node.payloads ?? {};
  const kept = memory + disk > 0 ? ` · payloads ${bytes(memory)}${disk > 0 ? ` and ${bytes(disk)} on disk` : ""}` : "";
  text(row.works, `${here.length === 0 ? "no Works" : `${plural(here.length, "Work")}: ${counts}`}${kept}`);
  hide(row.bar, here.length === 0);
}
