// Opens pages in headless Chromium and prints what they show, as JSON.
// Standard input: {"package": FILE, "chromium": FILE, "visits": [{"url", "steps": [{...}]}]}.
// A step is {"sample": i}, {"model": i}, {"upload": FILE}, {"invert": bool} or {"screenshot": FILE}.

import { createRequire } from "node:module";
import { text } from "node:stream/consumers";

const task = JSON.parse(await text(process.stdin));
const { chromium } = createRequire(task.package)("playwright-core");

const browser = await chromium.launch({
  executablePath: task.chromium,
  args: ["--no-sandbox", "--disable-dev-shm-usage"],
});

async function visit({ url, steps = [], viewport = { width: 1240, height: 900 } }) {
  const page = await browser.newPage({ viewport });
  const problems = [];
  const hosts = new Set();
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("console", (line) => line.type() === "error" && problems.push(line.text()));
  page.on("request", (request) => hosts.add(new URL(request.url()).host));
  await page.goto(url);
  const seen = [await waitUntilIdle(page)];
  for (const step of steps) {
    if ("sample" in step) await page.locator("#samples button").nth(step.sample).click();
    if ("model" in step) await page.selectOption("#model", String(step.model));
    if ("upload" in step) await page.setInputFiles("#file", step.upload);
    if ("invert" in step) await page.setChecked("#invert", step.invert);
    if ("screenshot" in step) await page.screenshot({ path: step.screenshot, fullPage: true });
    seen.push(await waitUntilIdle(page));
  }
  await page.close();
  return { seen, problems, hosts: [...hosts].filter(Boolean) };
}

/** Waits until the page is idle and returns what it shows. */
async function waitUntilIdle(page) {
  await page.waitForFunction(() => document.body.ariaBusy === "false", null, { timeout: 60000 });
  return page.evaluate(() => {
    const shown = (id) => {
      const node = document.getElementById(id);
      return node.checkVisibility() ? node.textContent.trim() : null;
    };
    const rows = [...document.querySelectorAll("#bars tr")];
    return {
      name: shown("name"),
      error: shown("error-message"),
      code: document.getElementById("error").dataset.code ?? null,
      headline: shown("headline"),
      truth: shown("truth"),
      score: shown("score"),
      golden: shown("golden"),
      goldenLogits: JSON.parse(document.getElementById("golden").dataset.logits ?? "null"),
      formula: shown("formula"),
      noSamples: shown("no-samples"),
      models: [...document.querySelectorAll("#model option")].map((option) => option.text),
      logits: rows.map((row) => Number(row.dataset.logit)),
      cells: rows.map((row) => [...row.cells].map((cell) => cell.textContent.trim())),
      marks: [...document.querySelectorAll("#samples button")].map((button) => button.className),
      chips: [...document.querySelectorAll("#tasks .chip")].map((chip) => chip.className),
      files: [...document.querySelectorAll("#files tr")].map((row) => row.dataset.path),
    };
  });
}

const visits = [];
for (const each of task.visits) visits.push(await visit(each));
await browser.close();
process.stdout.write(JSON.stringify(visits));
