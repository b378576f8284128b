// The slider over the past of an App with a journal.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { demo } from "./fake.js";
import { Program, card, launch, leave, shot, visit } from "./support.js";

let browser;
before(async () => { browser = await launch(); });
after(async () => { await browser?.close(); });

const left = new Set();
afterEach(async () => {
  for (const close of left) await close();
  left.clear();
});

async function open(app, options) {
  const port = await app.listen();
  left.add(() => app.close());
  return visit(browser, port, options);
}

/** A demo with three recorded positions, the second of which has other states and another stage. */
function recorded() {
  const app = demo();
  app.record(7, "2026-11-24T18:00:00Z");
  app.set("/state/train/step", 71);
  app.set("/works/serving.canary/stage", "running");
  app.record(8, "2026-11-24T19:00:00Z");
  app.set("/state/train/step", 72);
  app.set("/works/serving.canary/stage", "failed");
  app.record(9, "2026-11-24T20:00:00Z");
  app.pending = [];
  return app;
}

const select = async (page, id) => {
  await card(page, id).click();
  return page;
};
/** Focuses an element once it is shown: the focus of a hidden one does nothing. */
async function focus(element) {
  await element.waitFor();
  await element.focus();
}
const output = (page, part) => page.locator("#past-text", { hasText: part }).waitFor();
const step = (page, value) => page.locator("#inspector .field", { hasText: "step" }).first().filter({ hasText: String(value) }).waitFor();

test("the slider shows the past by the keyboard, and live updates do not change it", async () => {
  const app = recorded();
  const page = await open(app, { hash: "#w:train" });
  const slider = page.getByLabel("Time");
  await step(page, 72);
  assert.equal(await page.locator("#past-now").isVisible(), false);
  await focus(slider);
  await page.keyboard.press("ArrowLeft");
  await output(page, "the past: 24 Nov 2026");
  await output(page, "position 8");
  await step(page, 71);
  await card(page, "w:serving.canary").filter({ hasText: "running" }).waitFor();
  assert.match(await slider.getAttribute("aria-valuetext"), /position 8$/);
  // Nothing that is only known of the present is shown.
  for (const name of ["Runs", "Log", "Nodes", "Payloads"]) assert.equal(await page.getByRole("heading", { name, exact: true }).first().isVisible(), false, name);
  assert.equal(await page.getByRole("button", { name: "Stop" }).count(), 0);
  // The App goes on meanwhile.
  app.set("/state/train/step", 99);
  app.record(10);
  app.flush();
  await page.locator('#past-at[max="10"]').waitFor();
  await step(page, 71);
  await shot(page, "past");
  await page.keyboard.press("ArrowLeft");
  await output(page, "position 7");
  await step(page, 70);
  await page.getByRole("button", { name: "Back to now" }).click();
  await output(page, "now");
  await step(page, 99);
  await page.getByRole("heading", { name: "Runs", exact: true }).first().waitFor();
  assert.equal(await slider.inputValue(), "10");
  // The end of the slider is now as well.
  await page.keyboard.press("Home");
  await output(page, "position 7");
  await page.keyboard.press("End");
  await output(page, "now");
  await leave(page);
});

test("the slider fits into 390 px", async () => {
  const page = await open(recorded(), { width: 390, height: 844 });
  const slider = page.getByLabel("Time");
  await focus(slider);
  await page.keyboard.press("Home");
  await output(page, "position 7");
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(overflow <= 0, `${overflow} px too wide`);
  const box = await slider.boundingBox();
  assert.ok(box.width >= 100, `${box.width} px`);
  await shot(page, "past-390", { fullPage: true });
  await leave(page);
});

test("a position that the journal has lost is said, and the way back stays", async () => {
  const app = recorded();
  const page = await open(app, { hash: "#w:train" });
  const slider = page.getByLabel("Time");
  await focus(slider);
  app.recorded.shift();
  await page.keyboard.press("Home");
  await output(page, "the journal begins after that");
  await page.getByRole("button", { name: "Back to now" }).click();
  await output(page, "now");
  await step(page, 72);
  await leave(page);
});

const changes = (page) => page.locator("#inspector section", { hasText: "Changed since" });

test("the panel of a Work shows what has changed since the moment, and follows the slider", async () => {
  const app = recorded();
  const page = await open(app, { hash: "#w:train" });
  const slider = page.getByLabel("Time");
  await focus(slider);
  assert.equal(await changes(page).isVisible(), false);
  await page.keyboard.press("Home");
  await changes(page).getByText("step70 → 72").waitFor();
  assert.match(app.compared, /from=7&limit=50&path=train$/);
  await changes(page).getByText(/up to .*, position 9/).waitFor();
  assert.equal(await changes(page).getByRole("listitem").count(), 1);
  await page.keyboard.press("ArrowRight");
  await changes(page).getByText("step71 → 72").waitFor();
  // The App goes on; it is compared with again when that is asked for.
  app.set("/state/train/step", 80);
  app.record(10);
  app.flush();
  await page.locator('#past-at[max="10"]').waitFor();
  assert.equal(await changes(page).getByText("80").count(), 0);
  await page.getByRole("button", { name: "Compare with now again" }).click();
  await changes(page).getByText("step71 → 80").waitFor();
  await shot(page, "past-changes");
  // A Work whose stage has changed, and one that has not.
  await card(page, "w:serving.canary").click();
  await changes(page).getByText("(stage)running → failed").waitFor();
  await card(page, "w:evaluate").click();
  await changes(page).getByText(/Nothing, up to .*, position 10/).waitFor();
  await page.getByRole("button", { name: "Back to now" }).click();
  await output(page, "now");
  await changes(page).waitFor({ state: "hidden" });
  await leave(page);
});

test("the panel of a Flow shows what has changed below it, the first of much", async () => {
  const app = recorded();
  const page = await open(app, { hash: "#f:" });
  const slider = page.getByLabel("Time");
  await focus(slider);
  await page.keyboard.press("ArrowLeft");
  await changes(page).getByText("train.step71 → 72").waitFor();
  await changes(page).getByText("serving.canary (stage)running → failed").waitFor();
  app.set("/state/many", Object.fromEntries(Array.from({ length: 120 }, (_, i) => [`n${i}`, i])));
  app.record(10);
  app.set("/state/many", {});
  app.record(11);
  app.flush();
  await page.locator('#past-at[max="11"]').waitFor();
  await page.keyboard.press("End");
  await page.keyboard.press("ArrowLeft");
  await changes(page).getByText("the first 50 of 120, up to").waitFor();
  assert.equal(await changes(page).getByRole("listitem").count(), 50);
  app.recorded = app.recorded.slice(-1);
  await page.getByRole("button", { name: "Compare with now again" }).click();
  await changes(page).getByText("the journal begins after that").waitFor();
  await leave(page);
});

test("why a run was requested is a chain whose positions move the slider", async () => {
  const app = recorded();
  const event = (position, path, words) => ({ position, path, time: `2026-11-24T${11 + position}:00:00Z`, event: "x", text: words });
  app.whys["serving.model 6"] = [
    { path: "serving.model", run: 6, request: event(8, "serving.model", "run requested with 60"), causes: [event(8, "data", "joined"), event(8, "train", "state: last_checkpoint = 60")], left_out: 2 },
    { path: "train", run: 1, request: event(7, "train", "run requested"), causes: [], left_out: 0 },
    { path: "data.fetch", run: 3, request: null, causes: [], left_out: 0 },
  ];
  const page = await open(app, { hash: "#w:serving.model" });
  await page.getByRole("button", { name: "Why run 6" }).click();
  const why = page.locator("#inspector section", { hasText: "Why run 6" }).filter({ has: page.locator("ol.why") });
  await why.getByText("Run 6 of serving.model").waitFor();
  const lines = await why.getByRole("paragraph").allTextContents();
  assert.deepEqual(lines.slice(0, 4), ["8 serving.model: run requested with 60", "8 because train: state: last_checkpoint = 60", "8 because data: joined", "and 2 other events"]);
  for (const name of ["Run 1 of train", "Run 3 of data.fetch"]) {
    await why.getByRole("button", { name: "More" }).click();
    await why.getByText(name).waitFor();
  }
  await why.getByText("before the history begins").waitFor();
  await why.getByRole("button", { name: "More" }).waitFor({ state: "hidden" });
  await shot(page, "why");
  // The chain stays while its positions are visited.
  await why.getByRole("button", { name: "Show position 7" }).click();
  await output(page, "position 7");
  assert.equal(await page.getByLabel("Time").inputValue(), "7");
  await step(await select(page, "w:train"), 70);
  await select(page, "w:serving.model");
  await page.getByRole("button", { name: "Back to now" }).click();
  await page.getByRole("button", { name: "Why run 6" }).click();
  await why.getByRole("button", { name: "Show position 8" }).last().click();
  await page.locator("#past-text", { hasText: /the past: .*position 8/ }).waitFor();
  await why.getByText("Run 6 of serving.model").waitFor();
  assert.equal(await why.locator('button.at[aria-pressed="true"]').count(), 3);
  await why.getByRole("button", { name: "Close" }).click();
  await page.locator("ol.why").waitFor({ state: "hidden" });
  await page.getByRole("button", { name: "Back to now" }).click();
  // What is not known is said.
  await page.getByRole("button", { name: "Why run 5" }).click();
  await page.getByText("the history has no such run").waitFor();
  await leave(page);
});

test("without a journal, no run has a why", async () => {
  const page = await open(demo(), { hash: "#w:serving.model" });
  await page.getByRole("button", { name: "Rerun run 6" }).waitFor();
  assert.equal(await page.getByRole("button", { name: "Why run 6" }).isVisible(), false);
  await leave(page);
});

test("there is no slider without a journal, and none before there is a past", async () => {
  const app = demo();
  const page = await open(app);
  await card(page, "w:train").waitFor();
  assert.equal(await page.getByLabel("Time").isVisible(), false);
  const asked = page.waitForResponse(/history/);
  app.record(1);
  app.flush();
  await asked;
  assert.equal(await page.getByLabel("Time").isVisible(), false);
  app.record(2);
  app.flush();
  await page.getByLabel("Time").waitFor();
  await leave(page);
});

test("a real App with a journal shows its own past", async () => {
  const directory = mkdtempSync(join(tmpdir(), "fw-page-past-"));
  left.add(() => rmSync(directory, { recursive: true, force: true }));
  const app = await Program.serve("continuous_deployment", { args: ["--journal", directory] });
  left.add(() => app.end());
  const page = await visit(browser, app.port, { hash: "#w:train" });
  await card(page, "w:model_deployment").filter({ hasText: "succeeded" }).waitFor();
  const slider = page.getByLabel("Time");
  await focus(slider);
  await page.keyboard.press("Home");
  await output(page, "the past:");
  // At the first position, nothing had been deployed.
  await card(page, "w:model_deployment").filter({ hasText: "not started" }).waitFor();
  // What became of it since.
  await card(page, "w:model_deployment").click();
  await changes(page).getByText(/\(stage\)not started → (succeeded|running|pending)/).waitFor();
  await focus(slider);
  await page.keyboard.press("End");
  await card(page, "w:model_deployment").filter({ hasText: /succeeded|running/ }).waitFor();
  // Its run was requested when a checkpoint was published by the run of another Work.
  await page.getByRole("button", { name: "Why run 1", exact: true }).click();
  const why = page.locator("ol.why");
  await why.getByText("Run 1 of model_deployment").waitFor();
  await why.getByText(/because train: state: .*last_checkpoint/).first().waitFor();
  await why.getByText("Run 1 of train").waitFor();
  await why.getByText(/because root: the App began/).waitFor();
  await why.getByRole("button", { name: /Show position/ }).first().click();
  await output(page, "the past:");
  await card(page, "w:model_deployment").filter({ hasText: /running|pending|up|not started/ }).waitFor();
  await leave(page);
});
