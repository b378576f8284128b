// Takes the pictures of the README from real Apps, into docs/:
//
//     cargo build --examples
//     cd benches/compare && cargo run --release --bin http app 1000      # prints its address
//     node tests/page/pictures.js 127.0.0.1:PORT

import { fileURLToPath } from "node:url";
import { join } from "node:path";
import { Program, card, launch, visit } from "./support.js";

const DOCS = fileURLToPath(new URL("../../docs/", import.meta.url));
const LARGE = { width: 1280, height: 860 };

/** Takes a picture once the plots of the last minute have data. */
async function picture(page, name, seconds) {
  await page.waitForTimeout(seconds * 1000);
  await page.screenshot({ path: join(DOCS, `page-${name}.png`) });
  await page.context().close();
}

const [crowd] = process.argv.slice(2);
const browser = await launch();
const programs = [];
try {
  // Training continues, and each checkpoint is deployed on a node that serves it.
  const app = await Program.serve("continuous_deployment", { args: ["--listen", "127.0.0.1:0", "--place", "model_deployment=gpu-1"] });
  programs.push(app);
  const join = (await app.expect("nodes join at")).match(/nodes join at (\S+)/)[1];
  const node = new Program("continuous_deployment", ["node", "--join", join, "--name", "gpu-1", "--label", "zone=west"]);
  programs.push(node);
  const page = await visit(browser, app.port, { ...LARGE, hash: "#w:train" });
  await card(page, "w:model_deployment").filter({ hasText: "succeeded" }).waitFor();
  await picture(page, "overview", 25);

  // A version was rolled back, and the next one is being rolled out.
  const service = await Program.serve("model_service");
  programs.push(service);
  const rollout = await visit(browser, service.port, { ...LARGE, hash: "#f:server" });
  await service.expect("version 5 is Serving");
  await service.expect("checkpoint at step 120");
  await picture(rollout, "service", 0.3);

  const dark = { ...LARGE, colorScheme: "dark" };
  const desk = await Program.serve("desk", { test: true });
  programs.push(desk);
  const failing = await visit(browser, desk.port, { ...dark, hash: "#w:adder" });
  const panel = failing.locator("#inspector");
  for (const input of ["35", "-50"]) {
    await panel.locator(".stage-line", { hasText: "succeeded" }).waitFor();
    await panel.getByRole("button", { name: "Run with an input" }).click();
    await panel.getByLabel("Input (JSON)").fill(input);
    await panel.getByRole("button", { name: "Run", exact: true }).click();
    await panel.locator(".run", { hasText: input }).first().waitFor();
  }
  await panel.locator(".stage-line", { hasText: "failed" }).waitFor();
  await picture(failing, "failed", 8);

  const port = crowd.split(":")[1];
  await picture(await visit(browser, port, LARGE), "crowd", 4);
} finally {
  await Promise.all(programs.map((program) => program.end()));
  await browser.close();
}
