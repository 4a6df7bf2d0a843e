// What every part uses: finding and making elements, the reader's scheme, colours, the table of contents.

const find = (selector, within = document) => within.querySelector(selector);
const findAll = (selector, within = document) => [...within.querySelectorAll(selector)];

// An element with properties and children. Text goes in as text, so that nothing a run wrote is ever markup.
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "role" || name.startsWith("aria-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

function makeSvg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const swatch = (color) =>
  makeSvg("svg", { class: "swatch", viewBox: "0 0 10 10", "aria-hidden": "true" },
    makeSvg("rect", { width: 10, height: 10, rx: 2, fill: color }));

// What a part's element says it is drawn from.
const dataOf = (part) => JSON.parse(find(`#${CSS.escape(part.id)}-data`).textContent);

function toldNumber(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-5) return value.toExponential(1).replace("e+", "e").replace("-", "−");
  const digits = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : size >= 1 ? 3 : size >= 1e-2 ? 4 : 6;
  return value.toFixed(digits).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "").replace("-", "−");
}

function toldPercent(share) {
  const percent = 100 * share;
  if (percent > 0 && percent < 0.05) return "< 0.1 %";
  return `${percent === 0 || percent >= 9.95 ? percent.toFixed(0) : percent.toFixed(1)} %`;
}

const toldCount = (count) => count.toLocaleString("en");

// ------------------------------------------------------------------------------------------------ light and dark

const KEY = "aras-report-scheme";
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.scheme ?? (prefersDark.matches ? "dark" : "light")) === "dark";
const onScheme = []; // what is drawn by hand and must be drawn anew

function schemeChanged() {
  find("#scheme").textContent = isDark() ? "Light" : "Dark";
  find("#scheme").setAttribute("aria-label", isDark() ? "Switch to light colours" : "Switch to dark colours");
  for (const redraw of onScheme) redraw();
}

function startScheme() {
  find("#scheme").hidden = false;
  find("#scheme").addEventListener("click", () => {
    document.documentElement.dataset.scheme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem(KEY, document.documentElement.dataset.scheme);
    } catch {
      document.documentElement.dataset.storage = "none"; // holds until the page is closed
    }
    schemeChanged();
  });
  prefersDark.addEventListener("change", schemeChanged);
  schemeChanged();
}

// A custom property as the colour it is in the scheme at hand: canvases cannot read light-dark().
function colorOf(name) {
  const probe = make("span", { hidden: true });
  document.body.append(probe);
  probe.style.color = `var(${name})`;
  const color = getComputedStyle(probe).color;
  probe.remove();
  return color;
}

// ------------------------------------------------------------------------------------------------ contents and commands

function startContents() {
  const links = new Map(findAll(".contents a[href^='#']").map((link) => [link.hash.slice(1), link]));
  const strip = find(".contents ol");
  const mark = (id) => {
    for (const [other, link] of links) {
      if (other === id) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    const link = links.get(id); // on narrow screens the contents are a strip of one line
    if (strip.scrollWidth > strip.clientWidth && link) strip.scrollLeft = link.offsetLeft - strip.clientWidth / 3;
  };
  const sections = findAll("main > section");
  const current = () => {
    const line = innerHeight * 0.3;
    const seen = sections.filter((section) => section.getBoundingClientRect().top <= line);
    mark(seen.length ? seen[seen.length - 1].id : "top");
  };
  let waits = false;
  addEventListener("scroll", () => {
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => { waits = false; current(); });
  }, { passive: true });
  current();
}

function startCommands() {
  for (const block of findAll(".command")) {
    const button = find("button", block);
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(find("code", block).textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(find("code", block));
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
}
