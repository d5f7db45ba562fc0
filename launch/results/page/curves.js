// Learning curves: several keys side by side; seeds as a mean and a band; by step, epoch or training time.

function makeCurves() {
  const all = sweep.curves.keys;
  if (!all.length) return;
  const s = section("curves", "Learning curves");
  const first = [headline(), sweep.metric?.name, sweep.headline.name, "train/loss", all[0]].filter(key => all.includes(key));
  const picked = () => { const some = state.keys.filter(key => all.includes(key)); return some.length ? some : [...new Set(first)].slice(0, 2); };
  const choose = menu("Keys", all.map(key => [key, key]), (key, shown) => set({keys: shown ? [...picked(), key] : picked().filter(other => other !== key)}));
  const clocks = Object.values(sweep.curves.clocks);
  const xs = [["step", "step"], ...(clocks.some(c => c.epoch) ? [["epoch", "epoch"]] : []), ...(clocks.some(c => c.seconds) ? [["seconds", "training time, s"]] : [])];
  const tick = (name, text) => { const box = el("input", {type: "checkbox", checked: state[name]}); box.onchange = () => set({[name]: box.checked}); box.dataset.state = name; return field(box, text); };
  const smooth = el("input", {type: "range", min: 0, max: 0.98, step: 0.02, value: state.smooth, "aria-label": "smoothing"});
  smooth.oninput = () => set({smooth: Number(smooth.value)});
  const xChoice = choice(xs, state.x, x => set({x}));
  s.append(el("div", {className: "bar"}, choose, field("x", xChoice), tick("logx", "log x"), tick("logy", "log y"),
    flags().some(c => c.name === "seed") ? tick("band", "mean and band over seeds") : null, field("smoothing", smooth)));
  const place = el("div", {className: "charts"});
  s.append(place, el("p", {className: "note", textContent: "A gap is a value that was not finite. At each step, a mean over seeds includes every run that has reached it, finished or not. Click a curve to select its run."}));

  const xName = () => (xs.find(([name]) => name === state.x) || xs[0])[0];
  const xOf = (run, steps) => {
    if (xName() === "step") return steps;
    const clock = sweep.curves.clocks[run.index]?.[xName()];
    return clock ? steps.map(step => interpolated(sweep.curves.steps[clock[0]], clock[1], step)) : null;
  };
  // Curves of a key: [{label, colour, run or null, points: [[x, y or null]], low, high}]
  const curvesOf = key => {
    const colours = colourBy(), found = [];
    const one = run => {
      const raw = sweep.curves.of[key][run.index];
      const x = raw && xOf(run, sweep.curves.steps[raw[0]]);
      return x && {xs: x, ys: smoothed(raw[1], state.smooth)};
    };
    const groups = state.band && flags().some(c => c.name === "seed") ? settings(active) : active.map(run => ({label: run.label, runs: [run]}));
    for (const {label, runs: members} of groups) {
      const some = members.map(run => [run, one(run)]).filter(([, c]) => c);
      if (!some.length) continue;
      const base = {label, run: members[0], members, colour: colours.of(members[0])};
      if (some.length === 1) { const c = some[0][1]; found.push({...base, run: some[0][0], points: c.xs.map((x, i) => [x, c.ys[i]])}); continue; }
      const longest = some.map(([, c]) => c).reduce((a, b) => (a.xs.length >= b.xs.length ? a : b));
      const points = [], low = [], high = [];
      for (const x of longest.xs) {
        const ys = some.map(([, c]) => x <= c.xs[c.xs.length - 1] ? interpolated(c.xs, c.ys, x) : null).filter(isNumber);
        const m = ys.length ? mean(ys) : null;
        points.push([x, m]);
        const sd = ys.length > 1 ? Math.sqrt(ys.reduce((a, y) => a + (y - m) ** 2, 0) / (ys.length - 1)) : 0;
        if (m !== null) { low.push([x, m - sd]); high.push([x, m + sd]); }
      }
      found.push({...base, label: `${label} (mean of ${some.length})`, points, low, high});
    }
    return found;
  };

  const charts = new Map();
  function make(key) {
    let drawn = [], g = null, hover = null;
    const plot = chart({title: key, label: `${key} against ${xName()}`, height: () => innerWidth > 2200 ? 420 : 280, draw: (pen, w, h) => {
      drawn = curvesOf(key);
      const positive = (v, log) => isNumber(v) && (!log || v > 0);
      let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
      for (const {points} of drawn) for (const [x, y] of points) {
        if (!positive(x, state.logx) || !positive(y, state.logy)) continue;
        if (x < x0) x0 = x; if (x > x1) x1 = x;
        if (y < y0) y0 = y; if (y > y1) y1 = y;
      }
      if (x0 > x1) { pen.text(w / 2, h / 2, active.length ? "no value here" : "no run is left", {align: "center", colour: colourOf("soft")}); g = null; return; }
      const xScale = numberScale(x0, x1, state.logx, Math.floor(w / 90)), yScale = numberScale(y0, y1, state.logy, 5);
      g = frame(pen, w, h, xScale, yScale, xs.find(([name]) => name === xName())[1]);
      const at = ([x, y]) => { const a = g.x(x), b = y === null ? null : g.y(y); return a === null || b === null ? null : [a, clamp(b, g.top - 4, g.bottom + 4)]; };
      const many = drawn.length > 40;
      for (const {low, high, colour} of drawn) if (low) {
        const edge = [...high.map(at), ...low.map(at).reverse()].filter(Boolean);
        if (edge.length > 2) pen.area(edge, {colour, alpha: many ? 0.06 : 0.16});
      }
      for (const curve of drawn) {
        curve.at = curve.points.map(at);
        pen.line(curve.at, {colour: curve.colour, width: curve === hover ? 3 : 1.7, alpha: many && curve !== hover ? 0.5 : 1});
        if (curve.points.length <= 30) for (const p of curve.at) if (p) pen.dot(p[0], p[1], 2.4, {colour: curve.colour});
      }
      if (hover) { const again = drawn.find(c => c.label === hover.label); if (again) pen.line(again.at, {colour: colourOf("ink"), width: 2.5}); }
    }});
    plot.canvas.onpointermove = event => {
      if (!g) return;
      const box = plot.canvas.getBoundingClientRect(), px = event.clientX - box.left, py = event.clientY - box.top;
      let best = null, least = 16, where = 0;
      for (const curve of drawn) for (let i = 0; i < (curve.at?.length || 0); i++) {
        const p = curve.at[i], q = curve.at[i + 1] || p;
        if (!p || !q || px < p[0] - 6 || px > q[0] + 6) continue;
        const part = q[0] > p[0] ? clamp((px - p[0]) / (q[0] - p[0]), 0, 1) : 0;
        const d = Math.abs(p[1] + part * (q[1] - p[1]) - py);
        if (d < least) { least = d; best = curve; where = part > 0.5 ? i + 1 : i; }
      }
      if (best?.label !== hover?.label) { hover = best; plot.redraw(); }
      tell(event, best ? `${best.label}\n${xName()} ${shown(best.points[where][0], 6)}   ${shown(best.points[where][1], 5)}` : "");
    };
    plot.canvas.onpointerleave = () => { hover = null; tell(null, ""); plot.redraw(); };
    plot.canvas.onclick = () => { if (hover) select(hover.low ? hover.members.map(run => run.id) : [hover.run.id], true); };
    return plot;
  }
  const draw = () => {
    const keys = picked();
    xChoice.value = xName();
    smooth.value = state.smooth;
    choose.tick(keys);
    for (const box of s.querySelectorAll("input[data-state]")) box.checked = state[box.dataset.state];
    for (const key of keys) if (!charts.has(key)) charts.set(key, make(key));
    const wanted = keys.map(key => charts.get(key).figure);
    if (wanted.length !== place.children.length || wanted.some((f, i) => f !== place.children[i])) place.replaceChildren(...wanted);
    for (const key of keys) charts.get(key).redraw();
  };
  watch("filter brush sel", later(draw));
  watch("keys x logx logy smooth band colour", draw);
  draw();
}

// The value at x of a curve through (xs, ys), xs rising; null beside a gap.
function interpolated(xs, ys, x) {
  let low = 0, high = xs.length - 1;
  if (x <= xs[0]) return ys[0];
  if (x >= xs[high]) return ys[high];
  while (high - low > 1) { const mid = (low + high) >> 1; if (xs[mid] <= x) low = mid; else high = mid; }
  if (xs[low] === x) return ys[low];
  if (ys[low] === null || ys[high] === null) return null;
  return ys[low] + (ys[high] - ys[low]) * (x - xs[low]) / (xs[high] - xs[low]);
}

// Exponential moving average, without the pull to 0 at its beginning; gaps stay.
function smoothed(ys, weight) {
  if (!weight) return ys;
  let average = 0, n = 0;
  return ys.map(y => {
    if (!isNumber(y)) return y;
    average = weight * average + (1 - weight) * y;
    n++;
    return average / (1 - weight ** n);
  });
}
