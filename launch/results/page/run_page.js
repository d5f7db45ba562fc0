// The page of one run: flags, machines, the command that makes it again, its log, and all of its media.

function showRun() {
  const run = runs.find(one => one.id === state.run);
  if (!run) { if (state.run) set({run: ""}); return; }
  const {detail} = run, rows = (object, digits) => Object.entries(object).map(([name, v]) => el("tr", {}, el("th", {scope: "row", textContent: name}), el("td", {className: "wide", textContent: v === null ? "None" : shown(v, digits)})));
  const table = (object, digits = 6) => el("div", {className: "scroll"}, el("table", {}, el("tbody", {}, ...rows(object, digits))));
  const parts = [el("p", {}, el("i", {className: "swatch", style: `background:${STATES[run.state] || "#c01c28"}`}), run.state, run.reason ? `: ${run.reason}` : "")];
  if (run.url) parts.push(el("p", {}, el("a", {href: run.url, target: "_blank", rel: "noopener noreferrer", textContent: "This run in W&B"})));
  if (detail.command) parts.push(el("h3", {textContent: "How to reproduce it"}), el("pre", {textContent: detail.command}));
  if (detail.commit) parts.push(el("p", {className: "note", textContent: `Commit ${detail.commit}${detail.commit.endsWith("-dirty") ? `, with the changes in ${sweep.diff_file} of its folder` : ""}${detail.source ? `; source ${detail.source}` : ""}.`}));
  for (const text of detail.machines) parts.push(el("p", {className: "note", textContent: `On ${text}.`}));
  const own = Object.fromEntries(figures().map(c => [c.label, value(run, c.name)]).filter(([, v]) => v !== null));
  const varied = new Set(flags().map(c => c.name.replace(/^--/, "")));
  parts.push(el("h3", {textContent: "Figures"}), table(own, 5));
  for (const task of detail.tasks) if (task.problem) parts.push(el("p", {className: "note", textContent: task.problem}));
  const some = Object.fromEntries(Object.entries(detail.flags).filter(([name]) => varied.has(name))), others = Object.fromEntries(Object.entries(detail.flags).filter(([name]) => !varied.has(name)));
  parts.push(el("h3", {textContent: "Flags"}), table(some), el("details", {}, el("summary", {textContent: `${counted(Object.keys(others).length, "flag")} that all runs share`}), table(others)));
  const tiles = el("div", {className: "charts"});
  for (const key of sweep.media.keys) {
    const files = sweep.media.of[key]?.[run.index];
    if (!files) continue;
    const last = files[files.length - 1], name = last[1], text = isText(name);
    const open = el("button", {type: "button", className: "link", textContent: `${key}, step ${thousands(last[0])}`, onclick: () => { set({run: ""}); compare(key, run, last[0]); }});
    tiles.append(el("figure", {className: "tile"}, shownBlob(name, `${key}, step ${last[0]}`), el("figcaption", {}, open, text ? "" : ` (${files.length} steps)`)));
  }
  if (tiles.children.length) parts.push(el("h3", {textContent: "Pictures and texts"}), tiles);
  if (detail.log) parts.push(el("h3", {textContent: "End of the log"}), el("pre", {textContent: detail.log}));
  const box = dialog(run.label, ...parts);
  box.addEventListener("close", () => { if (state.run === run.id) set({run: ""}); });
}
