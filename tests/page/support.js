// A browser, and programs whose pages it opens.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { join } from "node:path";
import { chromium } from "playwright-core";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const BROWSER = process.env.CHROMIUM ?? "/usr/bin/chromium";
const SHOTS = join(ROOT, "target/page");
mkdirSync(SHOTS, { recursive: true });

export async function launch() {
  if (!existsSync(BROWSER)) throw new Error(`there is no browser at ${BROWSER}: apt-get install chromium, or name one in CHROMIUM`);
  return chromium.launch({
    executablePath: BROWSER,
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
}

/** Opens a page. `complaints` collects its console messages and violations of its content security policy. */
export async function visit(browser, port, { hash = "", width = 1280, height = 900, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, ...options });
  const page = await context.newPage();
  page.complaints = [];
  page.on("pageerror", (error) => page.complaints.push(error.stack));
  page.on("console", (message) => {
    // Some tests stop the server or make it require a token.
    if (["error", "warning"].includes(message.type()) && !/Failed to load resource/.test(message.text())) page.complaints.push(message.text());
  });
  page.foreign = [];
  page.on("request", (request) => {
    if (new URL(request.url()).port !== String(port)) page.foreign.push(request.url());
  });
  await page.goto(`http://127.0.0.1:${port}/view${hash}`);
  return page;
}

export async function leave(page) {
  assert.deepEqual(page.complaints, []);
  assert.deepEqual(page.foreign, []);
  await page.context().close();
}

export const shot = (page, name, options) => page.screenshot({ path: join(SHOTS, `${name}.png`), ...options });

let binary;
/** Returns the binary of tests/app, which starts itself again as its child processes. */
function testBinary() {
  if (binary) return binary;
  const built = spawnSync("cargo", ["test", "--no-run", "--test", "app", "--message-format=json"], { cwd: ROOT, encoding: "utf8", maxBuffer: 1 << 28 });
  if (built.status !== 0) throw new Error(`tests/app could not be built:\n${built.stderr}`);
  for (const line of built.stdout.split("\n")) {
    if (!line.startsWith("{")) continue;
    const message = JSON.parse(line);
    if (message.target?.name === "app" && message.executable) binary = message.executable;
  }
  return binary;
}

/** A program of the repository, as a process. */
export class Program {
  lines = [];
  #waiting = [];

  constructor(name, args = [], env = {}) {
    const file = env.FLOWRIGHT_TEST_PROGRAM ? testBinary() : join(ROOT, "target/debug/examples", name);
    if (!existsSync(file)) throw new Error(`there is no ${file}: cargo build --examples`);
    this.child = spawn(file, args, { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
    this.ended = new Promise((resolve) => this.child.on("exit", resolve));
    for (const stream of [this.child.stdout, this.child.stderr]) {
      createInterface({ input: stream }).on("line", (line) => {
        this.lines.push(line);
        for (const look of this.#waiting) look(line);
      });
    }
  }

  /** The first line that contains `part`. */
  expect(part) {
    const there = this.lines.find((line) => line.includes(part));
    if (there) return Promise.resolve(there);
    return new Promise((resolve, reject) => {
      this.#waiting.push((line) => line.includes(part) && resolve(line));
      this.ended.then((code) => reject(new Error(`it ended (${code}) before it wrote ${JSON.stringify(part)}:\n${this.lines.join("\n")}`)));
    });
  }

  /** Starts an example; with `test`, one of the programs in tests/app/programs.rs. */
  static async serve(name, { args = [], test = false, port = 0 } = {}) {
    const program = new Program(name, ["--open-ui=false", "--port", String(port), ...args], test ? { FLOWRIGHT_TEST_PROGRAM: name } : {});
    const line = await program.expect("/view");
    program.port = Number(line.match(/:(\d+)\/view/)[1]);
    return program;
  }

  async end(signal = "SIGKILL") {
    this.child.kill(signal);
    return this.ended;
  }
}

export const card = (page, id) => page.locator(`[id="n-${id}"]`);
