// Opens a page in Chromium, light and dark, wide and on a phone, and prints what is drawn as JSON.
const puppeteer = require("puppeteer-core");

const [browserPath, profile, url] = process.argv.slice(2);

function drawn() {
  document.querySelectorAll("details").forEach((e) => (e.open = true));
  const count = (selector) => document.querySelectorAll(selector).length;
  const style = (selector, name) => getComputedStyle(document.querySelector(selector))[name];
  const seen = [...document.querySelectorAll("svg.chart, table, img")];
  return {
    paper: style("body", "backgroundColor"),
    ink: style("body", "color"),
    muted: style(".note", "color"),
    known: style("polyline.known", "stroke"),
    width: document.documentElement.scrollWidth,
    window: innerWidth,
    beyond: seen.filter((e) => e.getBoundingClientRect().right > innerWidth + 0.5).length,
    smallest: Math.min(
      ...[...document.querySelectorAll("svg text")].map((e) => {
        const { a, b } = e.getScreenCTM();
        return parseFloat(getComputedStyle(e).fontSize) * Math.hypot(a, b);
      }),
    ),
    right_cells: count(".map td.right:not(:empty)"),
    wrong_cells: count(".map td.wrong:not(:empty)"),
    shades: new Set(
      [...document.querySelectorAll(".map td")].map((e) => getComputedStyle(e).backgroundColor),
    ).size,
    thin: count("polyline.thin"),
    curves: count("polyline.known, polyline.unknown"),
    pictures: [...document.images].map((e) => [e.complete, e.naturalWidth, e.naturalHeight]),
    scripts: count("script"),
    headings: [...document.querySelectorAll("h1, h2")].map((e) => e.textContent),
  };
}

(async () => {
  const browser = await puppeteer.launch({
    executablePath: browserPath,
    userDataDir: profile,
    args: ["--no-sandbox"],
  });
  const page = await browser.newPage();
  const requests = [];
  const said = [];
  page.on("request", (request) => requests.push(request.url().slice(0, 80)));
  page.on("console", (message) => said.push(message.text()));
  page.on("pageerror", (error) => said.push(String(error)));
  const looks = {};
  for (const scheme of ["light", "dark"]) {
    for (const width of [360, 1200]) {
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      await page.setViewport({ width, height: 800 });
      await page.goto(url);
      looks[`${scheme} ${width}`] = await page.evaluate(drawn);
    }
  }
  await browser.close();
  console.log(JSON.stringify({ looks, requests, said }));
})();
