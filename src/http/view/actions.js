// The actions of the buttons, and notifications of their results.

import { post, workUrl } from "./api.js";
import { announce, byId, el } from "./dom.js";

/** Shows a short message in the corner and announces it to screen readers. */
export function toast(message, bad = false) {
  announce(message);
  const node = el("p", { class: bad ? "toast bad" : "toast", text: message });
  byId("toasts").append(node);
  while (byId("toasts").children.length > 4) byId("toasts").firstChild.remove();
  setTimeout(() => node.remove(), bad ? 10000 : 4000);
}

async function told(what, name, action) {
  try {
    const answer = await action();
    toast(`${name}: ${what}`);
    return answer ?? true;
  } catch (error) {
    toast(`${name}: ${error.message}`, true);
    return null;
  }
}

const named = (path) => path || "the Work";
export const stop = (path) => told("is asked to stop", named(path), () => post(workUrl(path, "/stop?by=the%20page")));
export const start = (path) => told("is started", named(path), () => post(workUrl(path, "/start")));
export const restart = (path) => told("is restarted", named(path), () => post(workUrl(path, "/restart")));
export const rerun = (path, run) => told(`run ${run} runs again`, named(path), () => post(workUrl(path, "/rerun"), { run }));
export const rerunWith = (path, input) => told("runs this input", named(path), () => post(workUrl(path, "/rerun"), { input }));
export const stopApp = (name) => told("is stopping", name, () => post("app/stop", { why: "asked for on the page" }));
export const resume = (name) => told("is resumed", name, () => post("app/resume"));
export const send = (path, message, body) => post(workUrl(path, `/messages/${encodeURIComponent(message)}`), body);
