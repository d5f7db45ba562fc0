// Scales: where a value lies on an axis, from 0 to 1, and which ticks it has.

function linearTicks(low, high, n) {
  if (!(high - low > 1e-12 * Math.max(Math.abs(low), Math.abs(high)))) return [low];
  const raw = (high - low) / Math.max(1, n), power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(k => k * power).find(k => k >= raw * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9 && ticks.length < 50; i++) ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

function logTicks(low, high, n) {
  const ticks = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
    for (const k of [1, 2, 5]) { const v = k * 10 ** e; if (v >= low * 0.999 && v <= high * 1.001) ticks.push(Number(v.toPrecision(3))); }
  const tens = ticks.filter(v => Math.abs(Math.log10(v) % 1) < 1e-9);
  let few = ticks.length <= n + 2 ? ticks : tens.length >= 2 ? tens : ticks;
  while (few.length > n + 2) few = few.filter((_, i) => i % 2 === 0);
  return few.length ? few : [low, high];
}

function numberScale(low, high, log, n = 5) {
  if (high - low <= 1e-12 * Math.max(Math.abs(low), Math.abs(high))) { const d = log ? 1.5 : Math.abs(low) / 10 || 1; [low, high] = log ? [low / d, high * d] : [low - d, high + d]; }
  const f = log ? Math.log : v => v, back = log ? Math.exp : v => v;
  const [a, b] = [f(low), f(high)];
  return {
    words: null, low, high, log,
    at: v => isNumber(v) && (!log || v > 0) ? (f(v) - a) / (b - a) : null,
    back: share => back(a + share * (b - a)),
    ticks: (log ? logTicks : linearTicks)(low, high, n).map(v => [v, shown(v)]),
  };
}

function wordScale(words) {
  const n = words.length;
  const at = text => { const i = words.indexOf(text); return i < 0 ? null : n === 1 ? 0.5 : i / (n - 1); };
  return {words, at: v => at(word(v)), back: share => words[clamp(Math.round(share * (n - 1)), 0, n - 1)], ticks: words.map(text => [text, text])};
}

// The scale of a column, over all runs: it stays where it is when runs are filtered.
function scaleOf(name, n = 5) {
  const c = column(name);
  const values = runs.map(run => value(run, name));
  const numbers = values.filter(isNumber);
  if (c.numeric && numbers.length) {
    const low = Math.min(...numbers), high = Math.max(...numbers);
    const log = c.log && low > 0;
    const distinct = new Set(numbers).size;
    const scale = numberScale(low, high, log, n);
    if (c.kind === "flag" && distinct <= 8) scale.ticks = [...new Set(numbers)].sort((a, b) => a - b).map(v => [v, shown(v, 6)]);
    return scale;
  }
  return wordScale(c.order || [...new Set(values.map(word))].sort());
}

// The frame of a plot: ticks, grid and names of both axes. Returns where values come to lie.
function frame(pen, w, h, xs, ys, xName, yName) {
  const soft = colourOf("soft"), line = colourOf("line");
  const longest = Math.max(...ys.ticks.map(([, text]) => text.length));
  const k = enlarged(), left = Math.min(w * 0.35, 16 + 6.6 * k * longest), right = 12, top = 8, bottom = 36 * k;
  const x = v => { const s = xs.at(v); return s === null ? null : left + s * (w - left - right); };
  const y = v => { const s = ys.at(v); return s === null ? null : h - bottom - s * (h - top - bottom); };
  for (const [v, text] of ys.ticks) {
    const at = y(v);
    pen.line([[left, at], [w - right, at]], {colour: line, width: 1});
    pen.text(left - 6, at + 4, text, {align: "right", colour: soft, size: 11});
  }
  let end = -Infinity;
  for (const [v, text] of xs.ticks) {
    const at = x(v), half = text.length * 3.7 * k;
    if (at - half < end + 6) continue;  // no room
    end = at + half;
    pen.line([[at, h - bottom], [at, h - bottom + 4]], {colour: soft, width: 1});
    pen.text(clamp(at, left, w - half), h - bottom + 16 * k, text, {align: "center", colour: soft, size: 11});
  }
  pen.line([[left, h - bottom], [w - right, h - bottom]], {colour: soft, width: 1});
  pen.text((left + w - right) / 2, h - 4, xName, {align: "center", colour: soft, size: 11.5});
  if (yName) pen.text(left, top + 2, yName, {colour: soft, size: 11});
  return {x, y, left, right: w - right, top, bottom: h - bottom};
}
