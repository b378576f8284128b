// The page before real Apps: the three programs of the README, one that fails, and nodes.

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { Program, card, launch, leave, shot, visit } from "./support.js";

let browser;
before(async () => { browser = await launch(); });
after(async () => { await browser?.close(); });

const running = new Set();
afterEach(async () => {
  for (const program of running) await program.end();
  running.clear();
});

async function open(name, options = {}) {
  const app = await Program.serve(name, options);
  running.add(app);
  const page = await visit(browser, app.port, options);
  return { app, page, panel: page.locator("#inspector") };
}

test("a variable from a Flow to a Work: its run is there with its input", async () => {
  const { page, panel } = await open("share_variable");
  await card(page, "w:component").filter({ hasText: "succeeded" }).click();
  await panel.locator(".run", { hasText: "hello from machine 0" }).waitFor();
  await page.locator(".lane", { hasText: "component" }).locator("rect.s-succeeded").waitFor();
  await shot(page, "share-variable");
  await leave(page);
});

test("continuous deployment: checkpoints arrive, are deployed, and are seen", async () => {
  const { page, panel } = await open("continuous_deployment");
  await card(page, "w:train").filter({ hasText: "running" }).click();
  await panel.locator(".state", { hasText: "/some/path/step=0_fake_loss=100000.0" }).waitFor();
  await card(page, "w:model_deployment").filter({ hasText: "succeeded" }).click();
  await panel.locator(".run", { hasText: "/some/path/step=0_fake_loss=100000.0" }).waitFor();
  await shot(page, "continuous-deployment");
  // Shown in the order of declaration.
  const names = await page.locator(".node.work .name").allInnerTexts();
  assert.deepEqual(names, ["train", "model_deployment"]);
  await leave(page);
});

test("a large variable: the reference is in the state, the payload in the list", async () => {
  const { page, panel } = await open("payload");
  await card(page, "w:server").filter({ hasText: "succeeded" }).waitFor();
  await card(page, "w:processor").click();
  await panel.locator(".state", { hasText: "embeddings" }).waitFor();
  await page.locator("#payloads-body tbody tr", { hasText: "processor" }).first().waitFor();
  await shot(page, "payload");
  await leave(page);
});

test("a Work fails, and its error is there in full; stop, rerun and ask by button", async () => {
  const { page, panel } = await open("desk", { test: true, hash: "#w:adder" });
  await panel.locator(".stage-line", { hasText: "succeeded" }).waitFor();
  await panel.getByRole("button", { name: "Run with an input" }).click();
  await panel.getByLabel("Input (JSON)").fill("-8");
  await panel.getByRole("button", { name: "Run", exact: true }).click();
  await panel.locator(".stage-line", { hasText: "failed (error)" }).waitFor();
  assert.equal(await panel.locator(".error pre").innerText(), "7 and -8 is less than nothing");
  await page.getByRole("button", { name: "1 failed" }).waitFor();
  await shot(page, "desk-failed");
  await panel.getByRole("button", { name: "Rerun run 1" }).click();
  await panel.locator(".stage-line", { hasText: "succeeded" }).waitFor();
  await panel.locator(".field", { hasText: "total" }).filter({ hasText: "14" }).waitFor();
  await panel.getByLabel("Content (JSON)").fill("5");
  await panel.getByRole("button", { name: "Ask" }).click();
  await panel.locator(".answer", { hasText: "19" }).waitFor();
  await panel.getByRole("button", { name: "Stop", exact: true }).click();
  await panel.getByRole("button", { name: "Start", exact: true }).waitFor();
  await panel.getByRole("button", { name: "Start", exact: true }).click();
  await panel.getByRole("button", { name: "Stop", exact: true }).waitFor();
  await panel.locator(".log-line", { hasText: "the total is 14" }).waitFor();
  await leave(page);
});

test("a service: versions with the reason of a rollback, replicas and messages, in 390 px", async () => {
  const { app, page, panel } = await open("deployment", { test: true, hash: "#f:server", width: 390, height: 844 });
  const post = (path, body, signal) => fetch(`http://127.0.0.1:${app.port}/api/v1/${path}`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
  });
  const deploy = (slope) => post("works/desk/messages/Deploy", slope);
  const version = (number, stage) => panel.locator(".version").filter({ has: page.locator("b", { hasText: number }) }).filter({ hasText: stage }).waitFor();
  const replicas = (what) => panel.locator(".replica", { hasText: what });
  await panel.getByText("No version serves.").waitFor();
  await deploy(3);
  await version("1", "serving");
  await panel.getByText("Version 1 serves, with 2 of 2 replicas.").waitFor();
  // One message for each replica, and one that waits.
  const held = new AbortController();
  for (let i = 0; i < 3; i++) post("services/server/messages/Hold", null, held.signal).catch(() => {});
  await panel.getByText("1 message waits, 2 with replicas").waitFor();
  assert.equal(await replicas("version 1ready · 1 message").count(), 2);
  await deploy(-1);
  await version("2", "rolled back");
  assert.equal(await panel.locator(".version pre:visible").innerText(), "a slope of -1 is damaged");
  await deploy(5);
  await version("3", "serving");
  await version("1", "replaced");
  await panel.getByText("0 messages wait, 3 with replicas").waitFor();
  await replicas("version 1finishes · 1 message").nth(1).waitFor();
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(overflow <= 0, `${overflow} px too wide`);
  const box = await panel.boundingBox();
  for (const row of await panel.locator(".version, .replica").all()) {
    const { x, width } = await row.boundingBox();
    assert.ok(x >= box.x && x + width <= box.x + box.width, await row.innerText());
  }
  await shot(page, "service-390", { fullPage: true });
  held.abort();
  await panel.getByText("0 messages wait, 0 with replicas").waitFor();
  await replicas("version 1").first().waitFor({ state: "detached" });
  await replicas("version 3ready").first().getByRole("button").click();
  await panel.locator(".state", { hasText: "slope" }).filter({ hasText: "5" }).waitFor();
  await leave(page);
});

test("a node dies and returns", async () => {
  const args = ["--listen", "127.0.0.1:0", "--place", "train=gpu-1"];
  const { app, page } = await open("continuous_deployment", { args });
  await card(page, "w:train").filter({ hasText: "no node" }).or(card(page, "w:train").filter({ hasText: "pending" })).first().waitFor();
  const status = await (await fetch(`http://127.0.0.1:${app.port}/api/v1/status`)).json();
  const join = () => {
    const node = new Program("continuous_deployment", ["node", "--join", status.app.listening, "--name", "gpu-1"]);
    running.add(node);
    return node;
  };
  const first = join();
  const train = card(page, "w:train").filter({ hasText: "gpu-1" }).filter({ hasText: "running" });
  await train.waitFor();
  await page.locator(".machine", { hasText: "gpu-1" }).waitFor();
  await first.end();
  await card(page, "w:train").filter({ hasText: "pending" }).waitFor();
  await shot(page, "node-dead");
  join();
  await train.waitFor();
  await leave(page);
});

test("an App that ends is stale, and its successor is found", async () => {
  const { app, page } = await open("share_variable");
  await page.locator('#connection[data-phase="live"]').waitFor();
  await app.end("SIGINT");
  await page.locator("#connection-text", { hasText: "stale" }).waitFor();
  running.add(await Program.serve("share_variable", { port: app.port }));
  await page.getByRole("button", { name: "Retry now" }).click().catch(() => {});
  await page.locator('#connection[data-phase="live"]').waitFor();
  await leave(page);
});
