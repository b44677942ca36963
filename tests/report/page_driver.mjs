// Opens pages in headless Chromium and prints what is wrong with them, as JSON.
// Standard input: {"package": FILE, "chromium": FILE, "visits": [{"url", "width", "dark",
// "screenshot", "sort": column}]}.

import { createRequire } from "node:module";
import { text } from "node:stream/consumers";

const task = JSON.parse(await text(process.stdin));
const { chromium } = createRequire(task.package)("playwright-core");
const browser = await chromium.launch({
  executablePath: task.chromium,
  args: ["--no-sandbox", "--disable-dev-shm-usage"],
});

async function visit({ url, width = 1200, height = 900, dark = false, screenshot, sort }) {
  const page = await browser.newPage({
    viewport: { width, height },
    colorScheme: dark ? "dark" : "light",
    deviceScaleFactor: width < 600 ? 2 : 1,
  });
  const problems = [];
  const requests = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("console", (line) => ["error", "warning"].includes(line.type()) && problems.push(line.text()));
  page.on("request", (request) => requests.push(request.url()));
  await page.goto(url);
  if (screenshot) await page.screenshot({ path: screenshot, fullPage: true });
  const found = await page.evaluate(inspect);
  const sorted = [];
  if (sort !== undefined) {
    const head = page.locator("table.sortable thead th").nth(sort);
    for (let i = 0; i < 2; i += 1) {
      await head.click();
      sorted.push(await page.locator("table.sortable").first().locator("tbody th").allTextContents());
    }
  }
  await page.close();
  return { problems, requests: requests.filter((r) => !r.startsWith("data:")), sorted, ...found };
}

/** Returns whether the page is wider than the window, texts that overlap, and its colors. */
function inspect() {
  const boxes = [];
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const words = node.textContent.trim();
    const parent = node.parentElement;
    if (!words || !parent.checkVisibility() || parent.closest("title, style, script")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    // What scrolled out of a table or lies under its fixed first column is not seen.
    const scroller = parent.closest(".scroll")?.getBoundingClientRect();
    const fixed = parent.closest(".wide") && parent.closest("tr")?.cells[0];
    const edge = fixed && !fixed.contains(parent) ? fixed.getBoundingClientRect().right : -Infinity;
    for (const { left, right, top, bottom } of range.getClientRects()) {
      if (scroller && (left > scroller.right || right < scroller.left)) continue;
      if (left < edge - 1) continue;
      boxes.push({ words, left, right, top, bottom });
    }
  }
  boxes.sort((a, b) => a.top - b.top);
  const overlapping = [];
  boxes.forEach((a, i) => {
    for (let j = i + 1; j < boxes.length && boxes[j].top < a.bottom; j += 1) {
      const b = boxes[j];
      const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const height = Math.min(a.bottom, b.bottom) - b.top;
      // Line boxes touch; glyphs do not fill them.
      if (width > 1 && height > 4) overlapping.push([a.words, b.words]);
    }
  });
  const style = getComputedStyle(document.documentElement);
  return {
    overlapping,
    overflow: document.documentElement.scrollWidth - innerWidth,
    background: style.backgroundColor,
    color: style.color,
    texts: boxes.length,
    charts: document.querySelectorAll(".chart .series").length,
    headings: [...document.querySelectorAll("h3")].map((h) => h.textContent),
  };
}

const visits = [];
for (const each of task.visits) visits.push(await visit(each));
await browser.close();
process.stdout.write(JSON.stringify(visits));
