// Sparklines of the last two minutes, with one sample per second.

import { attr, el, svg, text } from "./dom.js";
import { SAMPLES } from "./store.js";

const W = 240;
const H = 44;

export class Plot {
  constructor(title, unit) {
    this.unit = unit;
    this.now = el("b", {});
    this.top = el("span", { class: "quiet" });
    this.area = svg("path", { class: "area" });
    this.line = svg("path", { class: "line", "vector-effect": "non-scaling-stroke" });
    this.chart = svg("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", role: "img" }, this.area, this.line);
    this.node = el("figure", { class: "plot" }, el("figcaption", {}, el("span", { text: title }), this.now), this.chart, this.top);
    this.title = title;
  }

  draw(samples, current) {
    const most = Math.max(1, ...samples);
    const x = (i) => ((SAMPLES - samples.length + i) / (SAMPLES - 1)) * W;
    const y = (value) => (H - 2 - (value / most) * (H - 6)).toFixed(1);
    const points = samples.map((value, i) => `${x(i).toFixed(1)} ${y(value)}`);
    const line = points.length > 1 ? `M${points.join("L")}` : "";
    attr(this.line, "d", line);
    attr(this.area, "d", line && `${line}V${H}H${x(0).toFixed(1)}Z`);
    text(this.now, `${current}${this.unit}`);
    const peak = Math.max(0, ...samples);
    text(this.top, samples.length > 1 ? `most in ${samples.length >= SAMPLES ? "2 min" : `${samples.length} s`}: ${peak}` : "gathering");
    attr(this.chart, "aria-label", `${this.title}: now ${current}${this.unit}, at most ${peak}${this.unit} in the last ${samples.length} seconds`);
  }
}
