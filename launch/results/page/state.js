// What the reader has chosen. All of it stands in the address behind #, so that a view can be sent or kept.
// Text, numbers, lists and objects as JSON; what is as it was at first is left out.

const FIRST_STATE = {
  filter: "", sort: [], columns: {}, sel: [], only: true, group: false, colour: "", axes: [], brush: {},
  keys: [], x: "step", logx: false, logy: false, smooth: 0, band: true,
  pic: "", rows: "", across: "", step: null, size: 210, run: "", diff: false, theme: "", figure: "",
};
const state = structuredClone(FIRST_STATE);
const watchers = [];

// Call fn when one of these parts of the state has changed.
function watch(names, fn) {
  watchers.push([names.split(" "), fn]);
}

function set(changes, keep = true) {
  const changed = Object.keys(changes).filter(name => JSON.stringify(changes[name]) !== JSON.stringify(state[name]));
  if (!changed.length) return;
  for (const name of changed) state[name] = changes[name];
  if (keep) writeAddress();
  notify(changed);
}

function notify(changed) {
  for (const [names, fn] of watchers) if (names.some(name => changed.includes(name))) fn();
}

const writeAddress = debounced(() => {
  const parts = [];
  for (const [name, value] of Object.entries(state)) {
    const text = typeof value === "string" ? value : JSON.stringify(value);
    const first = typeof value === "string" ? FIRST_STATE[name] : JSON.stringify(FIRST_STATE[name]);
    if (text !== first) parts.push(`${name}=${encodeURIComponent(text)}`);
  }
  const hash = "#" + parts.join("&");
  if (hash !== location.hash) history.replaceState(null, "", hash === "#" ? location.pathname + location.search : hash);
}, 150);

// The state that an address tells. What is damaged in it is left out: it may have been cut in an e-mail.
function readAddress() {
  const found = structuredClone(FIRST_STATE);
  for (const part of location.hash.slice(1).split("&")) {
    const at = part.indexOf("="), name = part.slice(0, at);
    if (at < 0 || !Object.hasOwn(FIRST_STATE, name)) continue;
    try {
      const text = decodeURIComponent(part.slice(at + 1)), first = FIRST_STATE[name];
      const value = typeof first === "string" ? text : JSON.parse(text);
      const fits = first === null ? isNumber(value) : typeof value === typeof first && Array.isArray(value) === Array.isArray(first) && value !== null;
      if (fits && (name !== "brush" || Object.values(value).every(isBrush)) && (name !== "smooth" || value >= 0 && value < 1)) found[name] = value;
    } catch { /* damaged */ }
  }
  return found;
}

const isBrush = b => b !== null && typeof b === "object" && (Array.isArray(b.words) || b.words === undefined && [b.low, b.high].every(v => v === undefined || v === null || isNumber(v)));

// ---- the sweep, and which of its runs are looked at --------------------------------------------------

let sweep, runs, columns, columnAt;

function takeData(data) {
  sweep = data;
  ({runs, columns} = data);
  columnAt = new Map(columns.map((column, i) => [column.name, i]));
  for (const c of columns) if (c.order) c.order = c.order.map(word);
  runs.forEach((run, i) => { run.index = i; });
}

// A flag as its column and its axis write it: None is a value too.
const word = v => v === null ? "None" : shown(v, 6);
const value = (run, name) => run.values[columnAt.get(name)] ?? null;
const column = name => columns[columnAt.get(name)];
const flags = () => columns.filter(c => c.kind === "flag");
const figures = () => columns.filter(c => c.numeric && ["figure", "task"].includes(c.kind));
const headline = () => sweep.by;
const shownValue = (run, c) => c.kind === "flag" ? word(value(run, c.name)) : shown(value(run, c.name));

let passing = [], active = [];  // runs that filter and brushes let through; of these the selected ones, or all
let predicate = () => true, filterProblem = "";

function passesBrush(run, besides) {
  for (const [name, bounds] of Object.entries(state.brush)) {
    if (name === besides || !columnAt.has(name)) continue;
    const v = value(run, name);
    if (bounds.words) { if (!bounds.words.includes(word(v))) return false; continue; }
    if (!isNumber(v)) return false;
    if (isNumber(bounds.low) && v < bounds.low) return false;
    if (isNumber(bounds.high) && v > bounds.high) return false;
  }
  return true;
}

function chooseRuns() {
  try {
    predicate = parseFilter(state.filter, columns);
    filterProblem = "";
  } catch (error) {
    predicate = () => true;
    filterProblem = error.message;
  }
  passing = runs.filter(run => predicate(run) && passesBrush(run));
  const chosen = new Set(state.sel);
  const selected = passing.filter(run => chosen.has(run.id));
  active = selected.length ? selected : passing;
}

// Runs that differ in nothing but their seed: [{label, runs}], in the order of the given runs.
function settings(some) {
  const others = flags().filter(c => c.name !== "seed"), found = new Map();
  for (const run of some) {
    const key = JSON.stringify(others.map(c => value(run, c.name)));
    if (!found.has(key)) found.set(key, {label: others.map(c => `${c.name}=${shownValue(run, c)}`).join(" · ") || sweep.name, runs: []});
    found.get(key).runs.push(run);
  }
  return [...found.values()];
}

// A colour for each run, by the column that was chosen; grey without a value.
function colourBy() {
  const name = state.colour && columnAt.has(state.colour) ? state.colour : (flags()[0] || {name: headline()}).name;
  const c = column(name), grey = "#8a949d";
  if (!c) return {name: "", of: () => WORDS[0], marks: []};
  if (c.numeric) {
    const all = runs.map(run => value(run, name)).filter(isNumber), distinct = [...new Set(all)].sort((a, b) => a - b);
    const f = c.log ? Math.log : v => v;
    const [low, high] = [f(distinct[0]), f(distinct[distinct.length - 1])];
    if (distinct.length > 2 || c.kind !== "flag") {
      const of = v => isNumber(v) ? scaled(high > low ? (f(v) - low) / (high - low) : 0.5) : grey;
      const marks = [...new Set([distinct[0], distinct[Math.floor(distinct.length / 2)], distinct[distinct.length - 1]])];
      return {name, of: run => of(value(run, name)), marks: marks.filter(isNumber).map(v => [shown(v), of(v)])};
    }
  }
  const words = c.order || [...new Set(runs.map(run => word(value(run, name))))].sort(by(v => Number(v)));
  const of = text => words.includes(text) ? WORDS[words.indexOf(text) % WORDS.length] : grey;
  return {name, of: run => of(word(value(run, name))), marks: words.slice(0, 12).map(text => [text, of(text)])};
}

function select(ids, also) {
  const before = new Set(also ? state.sel : []);
  for (const id of ids) if (also && before.has(id)) before.delete(id); else before.add(id);
  set({sel: [...before]});
}
