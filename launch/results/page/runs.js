// The bar on top, the table of runs, the means over seeds, and what differs between selected runs.

const ROWS = 100;  // of the table at first: thousands would take seconds to draw

function makeTools() {
  const filter = el("input", {type: "text", placeholder: "filter, such as beta > 1 and status == finished", "aria-label": "filter the runs", spellcheck: false, value: state.filter});
  filter.setAttribute("list", "names");
  filter.oninput = debounced(() => set({filter: filter.value}), 150);
  const count = el("span", {className: "count", role: "status"}), problem = el("span", {className: "problem", role: "alert"});
  const clear = el("button", {type: "button", textContent: "Show all", onclick: () => { filter.value = ""; set({filter: "", brush: {}, sel: []}); }});
  const colour = el("select", {"aria-label": "colour by"});
  for (const c of columns.filter(c => c.kind !== "text")) colour.append(el("option", {value: c.name, textContent: c.label}));
  colour.onchange = () => set({colour: colour.value});
  const legend = el("span", {className: "legend"});
  const nav = el("nav", {"aria-label": "parts of the page"});
  const bar = el("div", {className: "bar"}, count, filter, field("Colour", colour), legend, clear, nav, problem);
  $("page").append(el("div", {className: "tools"}, bar), el("datalist", {id: "names"}, ...columns.map(c => el("option", {value: c.name}))));
  const draw = () => {
    const by = colourBy();
    colour.value = by.name;
    legend.replaceChildren(...by.marks.map(([text, c]) => el("span", {}, el("i", {className: "swatch", style: `background:${c}`}), text + " ")));
    const selected = state.sel.length && active.length < passing.length ? `, ${thousands(active.length)} selected` : "";
    count.textContent = `${thousands(passing.length)} of ${thousands(runs.length)} runs${selected}`;
    problem.textContent = filterProblem && `Filter: ${filterProblem}.`;
    clear.disabled = !(state.filter || Object.keys(state.brush).length || state.sel.length);
    if (document.activeElement !== filter) filter.value = state.filter;
  };
  watch("filter brush sel colour theme", draw);
  draw();
  return () => nav.replaceChildren(...[...document.querySelectorAll("main > section")].map(s => el("a", {href: "#" + s.id, textContent: s.querySelector("h2").textContent,
    onclick: event => { event.preventDefault(); s.scrollIntoView(); s.focus({preventScroll: true}); }})));
}

const visibleColumns = () => columns.filter(c => (state.columns[c.name] ?? !c.hidden) && c.name !== "key");

function order(some) {
  const [name, down] = state.sort.length && columnAt.has(state.sort[0]) ? state.sort : [headline(), !sweep.ascending];
  const rank = v => isNumber(v) ? 0 : v !== null && v !== "" ? 1 : 2;
  return [...some].sort((a, b) => {
    const x = value(a, name), y = value(b, name), r = rank(x) - rank(y);
    if (r || rank(x) === 2) return r || a.index - b.index;
    const o = rank(x) ? String(x).localeCompare(String(y), undefined, {numeric: true}) : x - y;
    return (down ? -o : o) || a.index - b.index;
  });
}

const STATES = {finished: "#2a8a4a", running: "#1a5fb4", preempted: "#1a5fb4", diverged: "#c77700", stopped: "#c77700"};

function makeRuns() {
  const s = section("runs", "Runs");
  const all = columns.filter(c => c.name !== "key");
  const choose = menu("Columns", all.map(c => [c.name, c.label]), (name, shown) => set({columns: {...state.columns, [name]: shown}}));
  const group = el("input", {type: "checkbox"}), differ = el("button", {type: "button", textContent: "What differs"});
  group.onchange = () => set({group: group.checked});
  const hasSeeds = flags().some(c => c.name === "seed");
  const csv = el("button", {type: "button", className: "quiet", textContent: "Save as CSV", onclick: saveCsv});
  s.append(el("div", {className: "bar"}, choose, hasSeeds ? field(group, "mean over seeds") : null, differ, csv));
  const place = el("div", {className: "scroll tall", tabIndex: 0, role: "region", "aria-label": "table of runs"}), more = el("p", {className: "note"});
  const note = el("p", {className: "note"});
  const metric = sweep.metric ? `The runs are judged by ${sweep.metric.name} (goal: ${sweep.metric.goal}). ` : "";
  note.textContent = sweep.foreign ? `“best ${sweep.headline.name}” is the best value that a run has logged (goal: ${sweep.headline.goal}). The other figures are the last values that a run has logged, or those of its summary. Click a heading to sort; click a run's name to open its own page; tick runs to show only these below.` : `${metric}“best ${sweep.headline.name}” is the running best (goal: ${sweep.headline.goal}). test/… is measured once, at the end, with the best weights; val/… is from the last evaluation. Click a heading to sort; click a run's name to open its own page; tick runs to show only these below.`;
  s.append(place, more, note);
  let limit = ROWS;

  const heading = (c, text) => {
    const [name, down] = state.sort.length ? state.sort : [headline(), !sweep.ascending];
    const button = focusable(`sort ${c.name}`, el("button", {type: "button", textContent: text}));
    button.onclick = () => set({sort: [c.name, name === c.name && !down]});
    const th = el("th", {scope: "col"}, button);
    if (name === c.name) th.setAttribute("aria-sort", down ? "descending" : "ascending");
    return th;
  };
  const cellOf = (run, c) => {
    if (c.name === "status") return el("td", {}, el("i", {className: "swatch", style: `background:${STATES[run.state] || "#c01c28"};border-radius:50%`}), run.state);
    const text = shownValue(run, c), wide = c.name === "reason";
    return el("td", {className: c.numeric ? "num" : wide ? "wide" : "", textContent: text});
  };
  const draw = framed(() => {
    const shownColumns = visibleColumns(), chosen = new Set(state.sel), colours = colourBy();
    choose.tick(shownColumns.map(c => c.name));
    group.checked = state.group;
    const table = el("table"), head = el("tr"), body = el("tbody");
    const all = focusable("all", el("input", {type: "checkbox", "aria-label": "select all shown runs", checked: passing.length > 0 && passing.every(run => chosen.has(run.id))}));
    all.onchange = () => set({sel: all.checked ? passing.map(run => run.id) : []});
    head.append(el("th", {}, all), el("th", {scope: "col", className: "pinned", textContent: state.group ? "setting" : "run"}));
    if (state.group && hasSeeds) {
      const numeric = shownColumns.filter(c => c.numeric && ["figure", "task"].includes(c.kind));
      const others = shownColumns.filter(c => c.kind === "flag" && c.name !== "seed");
      head.append(...others.map(c => heading(c, c.label)), el("th", {scope: "col", textContent: "n"}), ...numeric.map(c => heading(c, c.label)));
      const counted = passing.filter(run => !sweep.confirmed.includes(run.id));
      const [by, down] = state.sort.length ? state.sort : [headline(), !sweep.ascending];
      const meanOf = group => { const vs = group.runs.filter(run => run.state === "finished").map(run => value(run, by)).filter(isNumber); return vs.length ? mean(vs) : null; };
      const found = settings(order(counted));
      if (column(by)?.numeric && column(by).kind !== "flag") found.sort((a, b) => { const x = meanOf(a), y = meanOf(b); return x === null ? (y === null ? 0 : 1) : y === null ? -1 : down ? y - x : x - y; });
      for (const {label, runs: members} of found.slice(0, limit)) {
        const done = members.filter(run => run.state === "finished"), picked = members.every(run => chosen.has(run.id));
        const box = focusable(`select ${label}`, el("input", {type: "checkbox", checked: picked, "aria-label": `select ${label}`}));
        box.onchange = () => set({sel: box.checked ? [...new Set([...state.sel, ...members.map(r => r.id)])] : state.sel.filter(id => !members.some(r => r.id === id))});
        const row = el("tr", {"aria-selected": picked}, el("td", {}, box), el("th", {scope: "row", className: "pinned"}, el("i", {className: "swatch", style: `background:${colours.of(members[0])}`}), label));
        row.append(...others.map(c => el("td", {className: c.numeric ? "num" : "", textContent: shownValue(members[0], c)})), el("td", {className: "num", textContent: `${done.length} of ${members.length}`}));
        row.append(...numeric.map(c => el("td", {className: "num", textContent: meanSd(done.map(run => value(run, c.name)).filter(isNumber))})));
        body.append(row);
      }
      note.hidden = false;
      more.textContent = (found.length > limit ? `Only the first ${limit} of ${found.length} settings are shown. ` : "") + "Mean ± sample standard deviation of finished runs; n is how many of the setting's runs have finished. " + (sweep.confirmed.length ? "A trial that further seeds confirm is left out, because it was chosen for its value." : "");
    } else {
      head.append(...shownColumns.map(c => heading(c, c.label)));
      const listed = order(passing);
      for (const run of listed.slice(0, limit)) {
        const box = focusable(`select ${run.id}`, el("input", {type: "checkbox", checked: chosen.has(run.id), "aria-label": `select ${run.label}`}));
        box.onchange = () => select([run.id], true);
        const open = focusable(`open ${run.id}`, el("button", {type: "button", className: "link", textContent: run.label, onclick: () => set({run: run.id})}));
        body.append(el("tr", {"aria-selected": chosen.has(run.id)}, el("td", {}, box),
          el("th", {scope: "row", className: "pinned"}, el("i", {className: "swatch", style: `background:${colours.of(run)}`}), open), ...shownColumns.map(c => cellOf(run, c))));
      }
      more.textContent = "";
      if (listed.length > limit) more.append(`${thousands(limit)} of ${thousands(listed.length)} runs are listed. `, el("button", {type: "button", textContent: "List all", onclick: () => { limit = Infinity; draw(); }}));
      if (!listed.length) more.textContent = "No run passes the filter.";
    }
    table.append(el("thead", {}, head), body);
    const {scrollLeft, scrollTop} = place;
    drawnAnew(place, () => place.replaceChildren(table));
    place.scrollLeft = scrollLeft; place.scrollTop = scrollTop;
    // it keeps its height when runs are filtered out: what is dragged below must not move away
    if (place.offsetHeight > (parseFloat(place.style.minHeight) || 0)) place.style.minHeight = place.offsetHeight + "px";
    differ.disabled = state.sel.length < 2;
    differ.title = state.sel.length < 2 ? "tick two runs or more" : "";
    differ.setAttribute("aria-pressed", state.diff);
  });
  differ.onclick = () => set({diff: !state.diff});
  watch("brush", later(draw));
  watch("filter sel sort columns group colour diff theme", draw);
  draw();

  const diff = el("div", {id: "diff"});
  s.append(diff);
  const drawDiff = () => {
    const chosen = new Set(state.sel), some = runs.filter(run => chosen.has(run.id)).slice(0, 12);
    diff.replaceChildren();
    if (!state.diff || some.length < 2) return;
    const parts = [["flags", run => run.detail.flags], ["run", run => ({status: run.state, reason: run.reason, commit: run.detail.commit, "source hash": run.detail.source, machine: run.detail.machines.join("; ")})],
      ["figures", run => Object.fromEntries(figures().map(c => [c.name, value(run, c.name)]))]];
    const table = el("table", {}, el("thead", {}, el("tr", {}, el("th", {scope: "col", textContent: ""}), ...some.map(run => el("th", {scope: "col", textContent: run.label})))));
    for (const [title, get] of parts) {
      const all = some.map(get), names = [...new Set(all.flatMap(Object.keys))];
      const different = names.filter(name => new Set(all.map(values => JSON.stringify(values[name] ?? null))).size > 1);
      if (!different.length) continue;
      table.append(el("tbody", {}, el("tr", {}, el("th", {scope: "rowgroup", colSpan: some.length + 1, className: "soft", textContent: title})),
        ...different.map(name => el("tr", {}, el("th", {scope: "row", textContent: name}), ...all.map(values => el("td", {textContent: shown(values[name], 6)}))))));
    }
    diff.append(el("h3", {textContent: `What differs between ${some.length} runs`}), el("div", {className: "scroll", tabIndex: 0, role: "region", "aria-label": "what differs"}, table));
    if (state.sel.length > 12) diff.append(el("p", {className: "note", textContent: "Only the first twelve selected runs are shown."}));
  };
  watch("diff sel", drawDiff);
  drawDiff();
}

function saveCsv() {
  const shownColumns = visibleColumns(), quote = text => /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  const line = cells => cells.map(quote).join(",");
  const rows = order(active).map(run => line(["" + run.id, ...shownColumns.map(c => { const v = value(run, c.name); return v === null ? "" : typeof v === "boolean" ? shown(v) : String(v); })]));
  download(`${sweep.name}.csv`, new Blob([[line(["key", ...shownColumns.map(c => c.name)]), ...rows].join("\n") + "\n"], {type: "text/csv"}));
}
