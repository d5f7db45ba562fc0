// Unpack the data, draw all parts, follow the address.

async function unpacked() {
  const text = $("data").textContent, packed = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  $("data").remove();
  media.text = $("files").textContent;
  $("files").remove();
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function makeAgain() {
  const s = section("again", "How to reproduce");
  const {text, command, file} = sweep.sweep;
  if (command) s.append(el("p", {textContent: "This command runs the whole sweep; it skips what is already there:"}), el("pre", {textContent: command}));
  s.append(el("p", {textContent: "The command for a single run is on its own page: click the run's name in the table of runs."}));
  if (sweep.open.length) s.append(el("details", {}, el("summary", {textContent: `${counted(sweep.open.length, "trial")} not started`}), el("pre", {textContent: sweep.open.map(flags => Object.entries(flags).map(([name, v]) => `--${name}=${shown(v, 12)}`).join(" ")).join("\n")})));
  if (text) s.append(el("details", {}, el("summary", {textContent: file}), el("pre", {textContent: text})));
  s.append(el("p", {className: "note", textContent: `Written ${sweep.written} from ${sweep.name}.`}));
}

function applyTheme() {
  if (state.theme) document.documentElement.dataset.theme = state.theme;
  else delete document.documentElement.dataset.theme;
  isDark = null;
}

async function start() {
  document.body.append(tip);
  Object.assign(state, readAddress());
  applyTheme();
  $("theme").onclick = () => set({theme: dark() ? "light" : "dark"});
  watch("theme", applyTheme);
  takeData(await unpacked());
  if (sweep.warning) { $("warning").textContent = sweep.warning; $("warning").hidden = false; }
  chooseRuns();
  watch("filter brush sel", chooseRuns);  // before all parts, which read what it finds
  const listParts = makeTools();
  makeRuns();
  makeParallel();
  makeCurves();
  makeMatter();
  makePictures();
  makeAgain();
  listParts();
  watch("run", () => { if (state.run) showRun(); else if (overlay) overlay.close(); });
  if (state.run) showRun();
  document.querySelector(".skip").onclick = event => { event.preventDefault(); $("runs").scrollIntoView(); $("runs").focus({preventScroll: true}); };
  addEventListener("hashchange", () => { if (!location.hash || location.hash.includes("=")) set(readAddress(), false); });
  document.body.dataset.ready = "true";
}

start().catch(error => {
  $("warning").hidden = false;
  $("warning").textContent = `This page could not be drawn: ${error.message}`;
  throw error;
});
