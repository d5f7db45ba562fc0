// What mattered: the importance of each flag, where there are enough runs to tell, and the figure against it.

function makeMatter() {
  const numeric = figures(), some = flags().filter(c => c.name !== "seed");
  if (!numeric.length || !some.length) return;
  const s = section("matter", "What mattered");
  const filled = c => runs.some(run => isNumber(value(run, c.name)));
  const first = (numeric.find(c => c.name === headline() && filled(c)) || numeric.find(filled) || numeric[0]).name;
  const figure = () => columnAt.has(state.figure) ? state.figure : first;
  const pick = choice(numeric.map(c => [c.name, c.label]), figure(), name => set({figure: name}));
  s.append(el("div", {className: "bar"}, field("Figure", pick)));
  const found = sweep.matter;
  s.append(el("p", {className: "verdict", textContent: `${found.of}: ${found.verdict === "matters" ? "" : `${found.verdict}; `}${found.why}.`}));
  const judged = found.flags.filter(f => isNumber(f.importance));
  if (judged.length) {
    const widest = Math.max(0.05, ...judged.map(f => f.importance));
    const cellOf = (value, low, high) => el("td", {className: "num", textContent: isNumber(value) ? `${value.toFixed(2)}${isNumber(low) ? ` (${low.toFixed(2)} to ${high.toFixed(2)})` : ""}` : ""});
    const rows = [...judged].sort((a, b) => b.importance - a.importance).map(f => el("tr", {}, el("th", {scope: "row", textContent: f.flag}),
      el("td", {}, el("span", {className: "meter", style: `width:${clamp(120 * f.importance / widest, 0, 120)}px`})),
      cellOf(f.importance, f.low, f.high), cellOf(f.spearman, f.spearman_low, f.spearman_high), el("td", {textContent: f.verdict + (f.better ? `; ${f.better} is better` : "")})));
    s.append(el("div", {className: "scroll", tabIndex: 0, role: "region", "aria-label": "importance of flags"}, el("table", {},
      el("thead", {}, el("tr", {}, ...["flag", "", "importance", "rank correlation", "verdict"].map(text => el("th", {scope: "col", textContent: text})))), el("tbody", {}, ...rows))),
      el("p", {className: "note", textContent: `Computed from ${thousands(found.n_used)} finished runs, regardless of the filter above. Importance: the share of the variation in the figure's ranks that a random forest can no longer predict, on runs that it has not seen, when this flag's values are shuffled; in brackets a 95 % bootstrap interval. The seed is listed as a yardstick.`}));
  }
  const place = el("div", {className: "charts"});
  s.append(place);
  const plots = some.map(c => {
    let drawn = [];
    const plot = chart({title: `${c.label} and the figure`, label: `the figure against ${c.label}, one dot per run`, height: () => innerWidth > 2200 ? 380 : 250, draw: (pen, w, h) => {
      const name = figure(), colours = colourBy(), with_ = active.filter(run => isNumber(value(run, name)));
      drawn = [];
      if (!with_.length) { pen.text(w / 2, h / 2, "no value here", {align: "center", colour: colourOf("soft")}); return; }
      const ys = with_.map(run => value(run, name));
      const x = scaleOf(c.name, 5), inner = x.words ? {...x, at: v => { const a = x.at(v); return a === null ? null : 0.08 + 0.84 * a; }} : {...x, at: v => { const a = x.at(v); return a === null ? null : 0.04 + 0.92 * a; }};
      const g = frame(pen, w, h, inner, numberScale(Math.min(...ys), Math.max(...ys), false, 5), c.label, column(name).label);
      const byValue = new Map();
      for (const run of with_) {
        const at = [g.x(value(run, c.name)), g.y(value(run, name))];
        if (at[0] === null) continue;
        const key = word(value(run, c.name));
        if (!byValue.has(key)) byValue.set(key, []);
        byValue.get(key).push(at);
        drawn.push([run, at]);
        pen.dot(at[0], at[1], 3.6, {colour: colours.of(run), alpha: with_.length > 100 ? 0.5 : 0.85});
      }
      if (byValue.size <= 12) for (const dots of byValue.values()) if (dots.length > 1) { const m = mean(dots.map(d => d[1])); pen.line([[dots[0][0] - 12, m], [dots[0][0] + 12, m]], {colour: colourOf("ink"), width: 2}); }
    }});
    plot.canvas.onpointermove = event => {
      const box = plot.canvas.getBoundingClientRect(), px = event.clientX - box.left, py = event.clientY - box.top;
      const near = drawn.map(([run, at]) => [Math.hypot(at[0] - px, at[1] - py), run]).sort((a, b) => a[0] - b[0])[0];
      plot.near = near && near[0] < 12 ? near[1] : null;
      tell(event, plot.near ? `${plot.near.label}\n${shown(value(plot.near, figure()), 5)}` : "");
    };
    plot.canvas.onpointerleave = () => tell(null, "");
    plot.canvas.onclick = () => { if (plot.near) select([plot.near.id], true); };
    place.append(plot.figure);
    return plot;
  });
  s.append(el("p", {className: "note", textContent: "Each dot is a run; each short line is the mean of the runs with this value."}));
  const draw = () => { pick.value = figure(); for (const plot of plots) plot.redraw(); };
  watch("filter brush sel", later(draw));
  watch("colour figure", draw);
}
