// Parallel coordinates: a line a run, an axis a flag or figure. Drag along an axis, or type bounds, to brush.

function makeParallel() {
  const s = section("parallel", "Parallel coordinates");
  const picked = () => (state.axes.length ? state.axes : sweep.axes).filter(name => columnAt.has(name));
  const possible = columns.filter(c => c.kind === "flag" || c.kind === "status" || c.numeric);
  const choose = menu("Axes", possible.map(c => [c.name, c.label]), (name, shown) => set({
    axes: shown ? [...picked(), name] : picked().filter(other => other !== name),
    brush: Object.fromEntries(Object.entries(state.brush).filter(([other]) => other !== name)),
  }));
  s.append(el("div", {className: "bar"}, choose, el("span", {className: "note", textContent: "Drag along an axis to select a range; click the axis to remove the selection. Dashed lines are diverged or failed runs; such a line ends below an axis on which the run has no value."})));

  const geometry = {};
  const scales = new Map();
  const scale = name => { if (!scales.has(name)) scales.set(name, scaleOf(name, 6)); return scales.get(name); };
  const plot = chart({
    title: "parallel coordinates", label: "Parallel coordinates of all runs; the table above has the same figures", height: () => innerWidth > 2200 ? 520 : 360,
    draw: (pen, w, h) => {
      const names = picked(), top = 40, bottom = h - 34, left = 52, right = w - 52, colours = colourBy();
      const x = i => names.length === 1 ? w / 2 : left + i * (right - left) / (names.length - 1);
      const y = (name, v) => { const at = scale(name).at(v); return at === null ? bottom + 18 : bottom - at * (bottom - top); };
      Object.assign(geometry, {names, x, top, bottom});
      const bright = new Set(active), filtered = runs.filter(run => predicate(run));
      const faint = filtered.length > bright.size ? filtered.filter(run => !bright.has(run)) : [];
      const path = run => names.map((name, i) => [x(i), y(name, value(run, name))]);
      const some = faint.length > 1500 ? faint.filter((_, i) => i % Math.ceil(faint.length / 1500) === 0) : faint;
      for (const run of some) pen.line(path(run), {colour: colourOf("line"), width: 1, alpha: 0.7});
      const alpha = active.length > 300 ? 0.35 : active.length > 60 ? 0.6 : 0.9;
      for (const run of active) pen.line(path(run), {colour: colours.of(run), width: 1.6, alpha, dash: ["diverged", "failed", "unreadable"].includes(run.state) ? [4, 3] : []});
      if (hovered) pen.line(path(hovered), {colour: colourOf("ink"), width: 3});
      const room = names.length > 1 ? (right - left) / (names.length - 1) : w;
      const tight = names.some(name => column(name).label.length * 6.6 > 0.62 * room);  // then every other name stands higher
      names.forEach((name, i) => {
        const at = x(i), sc = scale(name), brush = state.brush[name];
        pen.line([[at, top], [at, bottom]], {colour: colourOf("soft"), width: 1.5});
        const align = i === names.length - 1 && i > 0 ? "right" : "left", side = align === "left" ? 6 : -6;
        let last = Infinity;
        for (const [v, text] of sc.ticks) {
          const ty = y(name, v);
          pen.line([[at - 3, ty], [at + 3, ty]], {colour: colourOf("soft"), width: 1});
          if (Math.abs(last - ty) < 12) continue;
          last = ty;
          pen.text(at + side, ty + 4, text.length > 16 ? text.slice(0, 15) + "…" : text, {align, colour: colourOf("ink"), size: 11, halo: true});
        }
        if (brush && !brush.words) {
          const low = isNumber(brush.low) ? sc.at(brush.low) : 0, high = isNumber(brush.high) ? sc.at(brush.high) : 1;
          const [a, b] = [bottom - clamp(high ?? 1, 0, 1) * (bottom - top), bottom - clamp(low ?? 0, 0, 1) * (bottom - top)];
          pen.rect(at - 7, a, 14, Math.max(2, b - a), {colour: colourOf("accent"), alpha: 0.3, edge: colourOf("accent")});
        } else if (brush) for (const word of brush.words) pen.rect(at - 7, y(name, word) - 7, 14, 14, {colour: colourOf("accent"), alpha: 0.3, edge: colourOf("accent")});
        const label = column(name).label;
        const text = label.length * 6.6 > room - 8 ? label.slice(0, Math.max(4, Math.floor((room - 8) / 6.6) - 1)) + "…" : label;
        pen.text(clamp(at, 4, w - 4), i % 2 && tight ? 12 : 26, text, {align: i === 0 ? "left" : i === names.length - 1 ? "right" : "center", weight: "600", size: 12});
      });
    },
  });
  s.append(el("div", {className: "scroll", tabIndex: 0, role: "region", "aria-label": "parallel coordinates"}, plot.figure));

  let hovered = null, dragged = null, atEnd = false;  // atEnd: the click that follows a drag selects nothing
  const axisAt = event => {
    const box = plot.canvas.getBoundingClientRect(), px = event.clientX - box.left, py = event.clientY - box.top;
    const i = geometry.names.findIndex((_, k) => Math.abs(geometry.x(k) - px) < 16);
    return {i, name: geometry.names[i], px, py, share: clamp((geometry.bottom - py) / (geometry.bottom - geometry.top), 0, 1)};
  };
  const brushFor = (name, a, b) => {
    const sc = scale(name), [low, high] = [Math.min(a, b), Math.max(a, b)];
    if (!sc.words) {  // as fine as the axis is drawn; at its ends there is no bound
      const digits = share => Math.max(1, 4 + Math.ceil(Math.log10(Math.max(1e-300, Math.abs(sc.back(share))) / (sc.high - sc.low))));
      const rounded = share => Number(sc.back(share).toPrecision(clamp(sc.log ? 4 : digits(share), 4, 15)));
      const bounds = {};
      if (low > 0) bounds.low = rounded(low);
      if (high < 1) bounds.high = rounded(high);
      return bounds;
    }
    const words = sc.words.filter(word => { const at = sc.at(word); return at >= low - 0.02 && at <= high + 0.02; });
    return words.length ? {words} : null;
  };
  plot.canvas.style.touchAction = "pan-x";
  plot.canvas.onpointerdown = event => {
    const hit = axisAt(event);
    if (hit.i < 0) return;
    dragged = {name: hit.name, from: hit.share, moved: false};
    plot.canvas.setPointerCapture(event.pointerId);
    event.preventDefault();
  };
  plot.canvas.onpointermove = event => {
    const hit = axisAt(event);
    plot.canvas.style.cursor = hit.i >= 0 ? "ns-resize" : "default";
    if (dragged) {
      if (Math.abs(hit.share - dragged.from) > 0.015) dragged.moved = true;
      const brush = dragged.moved && brushFor(dragged.name, dragged.from, hit.share);
      if (brush) set({brush: {...state.brush, [dragged.name]: brush}});
      return;
    }
    const near = nearest(hit.px, hit.py);
    if (near !== hovered) { hovered = near; plot.redraw(); }
    tell(event, near ? `${near.label}\n${geometry.names.filter(n => column(n).kind !== "flag").map(n => `${column(n).label} ${shownValue(near, column(n))}`).join("\n")}${near.state === "finished" ? "" : `\n${near.state}`}` : "");
  };
  plot.canvas.onpointerup = event => {
    if (dragged && !dragged.moved) {
      const {[dragged.name]: _, ...others} = state.brush;
      set({brush: others});
    }
    atEnd = dragged !== null;
    dragged = null;
  };
  plot.canvas.onclick = event => {
    if (hovered && !atEnd && axisAt(event).i < 0) select([hovered.id], true);
    atEnd = false;
  };
  plot.canvas.onpointercancel = () => { dragged = null; };
  plot.canvas.onpointerleave = () => { hovered = null; tell(null, ""); plot.redraw(); };
  function nearest(px, py) {
    const {names, x} = geometry;
    if (!names || names.length < 2) return null;
    let best = null, least = 8;
    for (let i = 0; i + 1 < names.length; i++) {
      if (px < x(i) || px > x(i + 1)) continue;
      const part = (px - x(i)) / (x(i + 1) - x(i)), span = geometry.bottom - geometry.top;
      for (const run of active) {
        const [a, b] = [names[i], names[i + 1]].map(name => { const at = scale(name).at(value(run, name)); return at === null ? geometry.bottom + 18 : geometry.bottom - at * span; });
        const d = Math.abs(a + part * (b - a) - py);
        if (d < least) { least = d; best = run; }
      }
    }
    return best;
  }

  const bounds = el("div", {className: "bounds"});
  s.append(el("details", {}, el("summary", {textContent: "Bounds by keyboard"}), bounds));
  const drawBounds = () => {
    if (bounds.contains(document.activeElement) && document.activeElement.matches("input[type=text]")) return;
    drawnAnew(bounds, () => bounds.replaceChildren(...picked().map(fieldset)));
  };
  const fieldset = name => {
    const c = column(name), brush = state.brush[name] || {};
    const box = el("fieldset", {}, el("legend", {textContent: c.label}));
    const put = next => { const {[name]: _, ...others} = state.brush; set({brush: next ? {...others, [name]: next} : others}); };
    if (scale(name).words) {
      for (const word of scale(name).words.slice(0, 40)) {
        const tick = focusable(`${name}=${word}`, el("input", {type: "checkbox", checked: !brush.words || brush.words.includes(word)}));
        tick.onchange = () => {
          const now = new Set(brush.words || scale(name).words);
          if (tick.checked) now.add(word); else now.delete(word);
          put(now.size === scale(name).words.length ? null : {words: [...now]});
        };
        box.append(field(tick, word));
      }
      return box;
    }
    for (const [side, text] of [["low", "from"], ["high", "to"]]) {
      const input = el("input", {type: "text", inputMode: "decimal", value: isNumber(brush[side]) ? brush[side] : "", "aria-label": `${c.label} ${text}`, placeholder: shown(side === "low" ? scale(name).low : scale(name).high)});
      input.onchange = () => {
        const number = input.value.trim() === "" ? null : Number(input.value);
        if (Number.isNaN(number)) { input.setCustomValidity("a number"); input.reportValidity(); return; }
        input.setCustomValidity("");
        const next = {...(state.brush[name] || {}), [side]: number};
        put(isNumber(next.low) || isNumber(next.high) ? next : null);
      };
      box.append(field(text, input));
    }
    return box;
  };
  const draw = () => {
    choose.tick(picked());
    plot.figure.style.minWidth = `${90 * picked().length}px`;  // on a telephone the plot is wider than the screen
    plot.redraw();
  };
  watch("filter brush sel colour axes", draw);
  watch("brush axes", drawBounds);
  draw();
  drawBounds();
}
