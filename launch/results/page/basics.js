"use strict";
// What all parts of the page use: elements, numbers as people write them, colours, and the sweep's data.

const $ = id => document.getElementById(id);

// An element; children are text or elements, never markup: what runs say can't become code.
function el(tag, props = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.includes("-") || name === "role" || name === "for") e.setAttribute(name, value);
    else if (name === "style") e.style.cssText = value;
    else e[name] = value;
  }
  e.append(...children.filter(child => child !== null && child !== undefined));
  return e;
}

function svg(tag, props = {}) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) e.setAttribute(name, value);
  return e;
}

const isNumber = value => typeof value === "number" && Number.isFinite(value);

// A number with at most `digits` significant ones, as short as it can be written.
function shown(value, digits = 4) {
  if (value === null || value === undefined) return "";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (!isNumber(value)) return String(value);
  if (Number.isSafeInteger(value)) return String(value);
  return String(Number(value.toPrecision(digits)));
}

// Mean ± deviation, both rounded to two digits of the deviation.
function meanSd(values) {
  const n = values.length, mean = values.reduce((a, b) => a + b, 0) / n;
  if (n < 2) return n ? shown(mean) : "";
  const sd = Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / (n - 1));
  if (sd === 0) return `${shown(mean)} ± 0`;
  const digits = Math.min(8, Math.max(0, 1 - Math.floor(Math.log10(sd))));
  return `${mean.toFixed(digits)} ± ${sd.toFixed(digits)}`;
}

const mean = values => values.reduce((a, b) => a + b, 0) / values.length;
const thousands = value => value.toLocaleString("en");
const counted = (n, what) => `${thousands(n)} ${what}${n === 1 ? "" : "s"}`;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const by = get => (a, b) => { const x = get(a), y = get(b); return x < y ? -1 : x > y ? 1 : 0; };

// Colours that colour-blind people tell apart too: Okabe and Ito's for words, viridis for numbers.
const WORDS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f"];
const SCALE = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];

function scaled(share) {  // 0 … 1, less the end that can't be seen on the paper
  const at = (dark() ? 0.35 + 0.65 * share : 0.85 * share) * (SCALE.length - 1);
  const i = Math.min(SCALE.length - 2, Math.floor(at)), part = at - i;
  const mix = k => Math.round(parseInt(SCALE[i].slice(k, k + 2), 16) * (1 - part) + parseInt(SCALE[i + 1].slice(k, k + 2), 16) * part);
  return `rgb(${mix(1)},${mix(3)},${mix(5)})`;
}

const system = matchMedia("(prefers-color-scheme: dark)");
let isDark = null;  // null: to be looked up, which thousands of lines in a chart can't wait for
system.addEventListener("change", () => { isDark = null; });

function dark() {
  const theme = document.documentElement.dataset.theme;
  return isDark ??= theme ? theme === "dark" : system.matches;
}

// canvases need plain colours: light-dark() is resolved by an element that wears it
const probe = {};
function colourOf(name) {
  const key = name + dark();
  if (!probe[key]) {
    const e = el("i", {style: `color: var(--${name})`});
    document.body.append(e);
    probe[key] = getComputedStyle(e).color;
    e.remove();
  }
  return probe[key];
}

let waiting = 0;  // what is still to be done: at 0 the page shows what its state says

function debounced(fn, ms) {
  let timer = null;
  return (...args) => {
    if (timer === null) waiting++;
    else clearTimeout(timer);
    timer = setTimeout(() => { timer = null; waiting--; fn(...args); }, ms);
  };
}

// What may follow a little behind: while a brush is dragged, its own chart is drawn at once, all else when it rests.
const later = fn => debounced(fn, 40);

// One redraw a frame, however often it is asked for.
function framed(fn) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    waiting++;
    requestAnimationFrame(() => { asked = false; waiting--; fn(); });
  };
}

function download(name, blob) {
  const url = URL.createObjectURL(blob);
  const link = el("a", {href: url, download: name.replace(/[^\w.=-]+/g, "_").slice(0, 120)});
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

function section(id, title) {
  const s = el("section", {id, tabIndex: -1}, el("h2", {textContent: title}));
  s.setAttribute("aria-label", title);
  $("page").append(s);
  return s;
}

function field(text, control) {
  return el("label", {}, text, control);
}

function choice(options, value, onchange) {
  const select = el("select");
  for (const [key, text] of options) select.append(el("option", {value: key, textContent: text, selected: key === value}));
  select.onchange = () => onchange(select.value);
  return select;
}

// A menu of check boxes behind a button: [name, text] each; onchange(name, checked). Escape and a click elsewhere
// close it. Its `tick(names)` says which are checked.
function menu(title, items, onchange) {
  const list = el("div"), box = el("details", {className: "menu"}, el("summary", {textContent: title}), list);
  for (const [name, text] of items) {
    const tick = el("input", {type: "checkbox"});
    tick.dataset.name = name;
    tick.onchange = () => onchange(name, tick.checked);
    list.append(el("label", {}, tick, text));
  }
  document.addEventListener("click", event => { if (!box.contains(event.target)) box.open = false; });
  box.addEventListener("keydown", event => { if (event.key === "Escape") { box.open = false; box.firstElementChild.focus(); } });
  box.tick = names => { for (const tick of list.querySelectorAll("input")) tick.checked = names.includes(tick.dataset.name); };
  return box;
}

// Draw anew what is in a place. What had the focus there has it again: elements are known by their data-focus.
function drawnAnew(place, draw) {
  const had = document.activeElement, key = place.contains(had) ? had.dataset.focus : undefined;
  draw();
  if (key === undefined || place.contains(document.activeElement) && document.activeElement !== place) return;
  [...place.querySelectorAll("[data-focus]")].find(e => e.dataset.focus === key)?.focus({preventScroll: true});
}

function focusable(key, e) {
  e.dataset.focus = key;
  return e;
}

// What stands beside the pointer.
const tip = el("div", {className: "tip", hidden: true, "aria-hidden": "true"});
function tell(event, text) {
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const {offsetWidth: w, offsetHeight: h} = tip;
  tip.style.left = clamp(event.clientX + 14, 4, innerWidth - w - 4) + "px";
  tip.style.top = clamp(event.clientY + 14, 4, innerHeight - h - 4) + "px";
}
