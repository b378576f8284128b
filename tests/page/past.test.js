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

const output = (page, part) => page.locator("#past-text", { hasText: part }).waitFor();
const step = (page, value) => page.locator("#inspector .field", { hasText: "step" }).first().filter({ hasText: String(value) }).waitFor();

test("the slider shows the past by the keyboard, and live updates do not change it", async () => {
  const app = recorded();
  const page = await open(app, { hash: "#w:train" });
  const slider = page.getByLabel("Time");
  await slider.waitFor();
  await step(page, 72);
  assert.equal(await page.locator("#past-now").isVisible(), false);
  await slider.focus();
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
  await slider.focus();
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
  await slider.focus();
  app.recorded.shift();
  await page.keyboard.press("Home");
  await output(page, "the journal begins after that");
  await page.getByRole("button", { name: "Back to now" }).click();
  await output(page, "now");
  await step(page, 72);
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
  await slider.focus();
  await page.keyboard.press("Home");
  await output(page, "the past:");
  // At the first position, nothing had been deployed.
  await card(page, "w:model_deployment").filter({ hasText: "not started" }).waitFor();
  await page.keyboard.press("End");
  await card(page, "w:model_deployment").filter({ hasText: /succeeded|running/ }).waitFor();
  await leave(page);
});
