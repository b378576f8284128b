// Measures the size of the page of a running App, and the time until it shows something:
//
//     cd benches/compare && cargo run --release --bin http app 1000      # prints its address
//     node tests/page/measure.js 127.0.0.1:PORT
//
// First paint is the figure of the browser; "all there" is the time at which the graph has been drawn.

import { launch } from "./support.js";

const ROUNDS = 7;
const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];

const [address] = process.argv.slice(2);
const { works } = await (await fetch(`http://${address}/api/v1/status`)).json();
const wanted = Object.keys(works).length;
const browser = await launch();
const paints = [];
const complete = [];
let weight = 0;
try {
  for (let round = 0; round < ROUNDS; round++) {
    // A new context with an empty cache.
    const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
    const page = await context.newPage();
    await page.addInitScript((wanted) => {
      const look = () => {
        // Many Works are squares on one canvas.
        const drawn = document.querySelector("#graph .dots") !== null || document.querySelectorAll("#graph .node.work").length >= wanted;
        if (drawn) window.complete = performance.now();
        else requestAnimationFrame(look);
      };
      requestAnimationFrame(look);
    }, wanted);
    await page.goto(`http://${address}/view`);
    await page.waitForFunction(() => window.complete, null, { timeout: 20_000 });
    const paint = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0].startTime);
    paints.push(paint);
    complete.push(await page.evaluate(() => window.complete));
    weight = await page.evaluate(() => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
      .filter((entry) => new URL(entry.name).pathname.startsWith("/view"))
      .reduce((sum, entry) => sum + entry.decodedBodySize, 0));
    await context.close();
  }
} finally {
  await browser.close();
}
console.log(`${wanted} Works: the page weighs ${(weight / 1000).toFixed(1)} KB; first paint after ${median(paints).toFixed(0)} ms, all there after ${median(complete).toFixed(0)} ms (medians of ${ROUNDS})`);
