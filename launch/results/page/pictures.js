// The picture browser: one key, a flag down and a flag across, the step on one slider for all.

const media = {urls: new Map(), text: ""};

// The bytes of an embedded file: its place in the page's text is [from, to].
function bytesOf(blob) {
  return Uint8Array.from(atob(media.text.slice(...blob.at)), c => c.charCodeAt(0));
}

// The address of a picture or video: of bytes in memory, or of a file beside this page.
function urlOf(name) {
  const blob = sweep.media.blobs[name];
  if (blob.path) return blob.path.split("/").map(encodeURIComponent).join("/");
  if (!media.urls.has(name)) media.urls.set(name, URL.createObjectURL(new Blob([bytesOf(blob)], {type: blob.mime})));
  return media.urls.get(name);
}

const isText = name => sweep.media.blobs[name].kind === "text";

// An element that shows a blob. A text sample has no rights at all inside: what a model wrote must not run.
// scrolls: whether the Tab key reaches a text, so that the arrow keys scroll it.
function shownBlob(name, alt, scrolls = false) {
  const {kind, mime, text} = sweep.media.blobs[name];
  if (kind === "text") {
    const box = el("iframe", {title: alt, tabIndex: scrolls ? 0 : -1});
    box.setAttribute("sandbox", "");
    const plain = s => `<pre style="white-space:pre-wrap">${s.replaceAll("&", "&amp;").replaceAll("<", "&lt;")}</pre>`;
    box.srcdoc = mime === "text/html" ? text : plain(text);  // under this page's own policy
    return box;
  }
  if (kind === "video") {
    const video = el("video", {loop: true, muted: true, playsInline: true, src: urlOf(name)});
    video.setAttribute("aria-label", alt);
    video.addEventListener("loadeddata", inStep);
    return video;
  }
  const image = el("img", {alt, loading: "lazy"});
  image.onload = () => { if (image.naturalWidth < image.clientWidth) image.style.imageRendering = "pixelated"; };
  image.onerror = () => image.replaceWith(el("div", {className: "none", textContent: "this file can't be shown"}));
  image.src = urlOf(name);
  return image;
}

// All videos of the board begin together, as soon as one more can be played.
const inStep = debounced(() => {
  for (const video of document.querySelectorAll("#tiles video")) {
    video.currentTime = 0;
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) video.play().catch(() => {});
  }
}, 200);

// What a run shows of a key at a step: [step, blob] of that step or the last before it.
function fileAt(key, run, step) {
  const files = sweep.media.of[key]?.[run.index] || [];
  let found = null;
  for (const file of files) if (file[0] <= step || files.length === 1 && key.includes(": ")) found = file;
  return found;
}

const stepsOf = (key, some = runs) => [...new Set(some.flatMap(run => (sweep.media.of[key]?.[run.index] || []).map(file => file[0])))].sort((a, b) => a - b);
const captionOf = (run, file, step) => run.label + (file && file[2] ? ` · ${file[2]}` : "") + (file && file[0] !== step ? ` · step ${thousands(file[0])}` : "") + (run.state === "finished" ? "" : ` · ${run.state}`);

function makePictures() {
  const {keys, note, logged} = sweep.media;
  if (!keys.length) return;
  const s = section("pictures", "Pictures and texts");
  const key = () => keys.includes(state.pic) ? state.pic : keys[0];
  const tabs = el("div", {className: "tabs", role: "group", "aria-label": "kind of picture"});
  for (const name of keys) tabs.append(el("button", {type: "button", textContent: name, onclick: () => set({pic: name})}));
  const slider = el("input", {type: "range", min: 0, "aria-label": "step"}), at = el("output");
  const play = el("button", {type: "button", textContent: "Play"});
  const varied = flags();
  const options = [["", "automatic"], ["-", "nothing"], ...varied.map(c => [c.name, c.label])];
  const rows = choice(options, state.rows, rows => set({rows})), across = choice(options, state.across, across => set({across}));
  const size = el("input", {type: "range", min: 90, max: 700, step: 10, value: state.size, "aria-label": "size of a picture"});
  size.oninput = () => set({size: Number(size.value)});
  const png = el("button", {type: "button", className: "quiet", textContent: "Save all as PNG", onclick: () => saveBoard()});
  s.append(tabs, el("div", {className: "bar"}, field("Step", slider), at, play, field("down", rows), field("across", across), field("size", size), png));
  const board = el("div", {id: "tiles"});
  s.append(el("div", {className: "scroll", tabIndex: 0, role: "region", "aria-label": "pictures, arrow keys change the step"}, board), el("p", {className: "note", textContent: `${note}← and → change the step. Click a picture to enlarge it and to compare it with another.`}));

  let slots = [], steps = [], playing = null;
  const step = () => state.step === null ? steps[steps.length - 1] ?? 0 : steps.findLast(one => one <= state.step) ?? steps[0] ?? 0;
  const watcher = new IntersectionObserver(entries => {
    for (const entry of entries) { const slot = entry.target.shows; slot.seen = entry.isIntersecting; if (slot.seen) fill(slot); }
  }, {rootMargin: "300px"});

  function fill(slot) {
    const file = fileAt(key(), slot.run, step()), name = file ? file[1] : "";
    slot.caption.textContent = captionOf(slot.run, file, step());
    if (slot.name === name) return;
    slot.name = name;
    drawnAnew(slot.box, () => put(slot, file));
  }
  function put(slot, file) {
    const open = () => compare(key(), slot.run, file[0]);
    if (!file) { slot.box.replaceChildren(el("div", {className: "none", textContent: sweep.media.of[key()]?.[slot.run.index] ? "not yet" : "nothing"})); return; }
    const content = shownBlob(file[1], `${key()}, ${slot.run.label}, step ${file[0]}`);
    if (isText(file[1])) slot.box.replaceChildren(content, focusable("enlarge", el("button", {type: "button", className: "link", textContent: "enlarge", "aria-label": `enlarge ${slot.run.label}`, onclick: open})));
    else slot.box.replaceChildren(focusable("enlarge", el("button", {type: "button", className: "opens", "aria-label": `enlarge ${key()} of ${slot.run.label}`, onclick: open}, content)));
  }
  const update = () => {
    const now = step(), i = steps.indexOf(now), many = logged[key()] > steps.length ? ` shown; ${thousands(logged[key()])} were logged` : "";
    slider.max = Math.max(0, steps.length - 1);
    slider.value = i;
    slider.disabled = play.disabled = steps.length < 2;
    at.textContent = steps.length ? `${thousands(now)} (${i + 1} of ${steps.length}${many})` : "";
    for (const slot of slots) if (slot.seen) fill(slot);
  };
  const go = by => { const i = clamp(steps.indexOf(step()) + by, 0, steps.length - 1); set({step: steps[i]}); };
  slider.oninput = () => set({step: steps[slider.value]});
  s.addEventListener("keydown", event => {
    if (!["ArrowLeft", "ArrowRight"].includes(event.key) || event.target.matches("input, select")) return;
    go(event.key === "ArrowLeft" ? -1 : 1);
    event.preventDefault();
  });
  const stop = () => { clearInterval(playing); playing = null; play.textContent = "Play"; };
  play.onclick = () => {
    if (playing) return stop();
    play.textContent = "Stop";
    if (step() === steps[steps.length - 1]) set({step: steps[0]});
    playing = setInterval(() => { if (step() === steps[steps.length - 1]) stop(); else go(1); }, 700);
  };

  function layout() {
    const some = order(active).filter(run => sweep.media.of[key()]?.[run.index]);
    const others = varied.filter(c => new Set(some.map(run => value(run, c.name))).size > 1).map(c => c.name);
    const manual = state.rows || state.across;
    const known = name => columnAt.has(name) ? name : "";  // an address may name a flag of another sweep
    const column = state.across === "-" ? null : known(state.across) || others.find(name => name !== state.rows) || null;
    const row = state.rows === "-" ? null : known(state.rows) || others.find(name => name !== column) || null;
    const words = name => name ? [...new Map([...some].sort(by(run => { const v = value(run, name); return isNumber(v) ? v : Infinity; })).map(run => [word(value(run, name)), 1])).keys()] : [""];
    const [down, over] = [words(row), words(column)];
    // what the reader asks for is obeyed, and scrolls where it is wide
    const grid = manual ? column || row : column && over.length <= 14 && over.length * down.length <= 2 * some.length && down.length <= 60;
    return {some, column, row, down, over, grid};
  }
  const build = () => {
    watcher.disconnect();
    steps = stepsOf(key());
    for (const tab of tabs.children) tab.setAttribute("aria-pressed", tab.textContent === key());
    const {some, column, row, down, over, grid} = layout();
    slots = [];
    board.replaceChildren();
    const add = run => {
      const box = el("div", {className: "box"}), caption = el("figcaption"), tile = el("figure", {className: "tile"}, box, caption);
      box.style.minHeight = "60px";
      const slot = {run, box, caption, name: null, seen: false};
      tile.shows = slot;
      slots.push(slot);
      watcher.observe(tile);
      return tile;
    };
    const wide = `minmax(${Math.min(state.size, 90)}px, ${state.size * (over.length < 3 && grid ? 1.6 : 1.2)}px)`;
    const text = Object.values(sweep.media.of[key()] || {}).some(files => files.some(([, name]) => isText(name)));
    png.hidden = text;
    size.value = state.size;
    const least = text ? Math.max(260, state.size) : state.size;
    board.style.gridTemplateColumns = grid && !column ? "minmax(60px, max-content) 1fr" : grid ? `${row ? "minmax(60px, max-content) " : ""}repeat(${over.length}, ${text ? `minmax(220px, ${least * 1.6}px)` : wide})` : `repeat(auto-fill, minmax(min(${least}px, 100%), 1fr))`;
    if (!grid) { board.append(...some.map(add)); }
    else {
      if (row && column) board.append(el("div"));
      if (column) board.append(...over.map(text => el("div", {className: "column", textContent: `${column}=${text}`})));
      const has = (run, name, text) => !name || word(value(run, name)) === text;
      const cells = down.map(r => over.map(c => some.filter(run => has(run, column, c) && has(run, row, r))));
      const most = Math.max(...cells.flat().map(cell => cell.length)), room = state.size * (over.length < 3 ? 1.6 : 1.2);
      const beside = clamp(Math.floor(room / 100), 1, most);  // pictures of a cell that stand side by side
      for (const [i, r] of down.entries()) {
        if (row) board.append(el("div", {className: "row", textContent: `${row}=${r}`}));
        for (const cell of cells[i]) {
          const stack = el("div", {className: "stack"}, ...cell.map(add));
          if (column && !text) stack.style.gridTemplateColumns = `repeat(${beside}, minmax(0, 1fr))`;
          if (!column) stack.style.gridTemplateColumns = `repeat(auto-fill, minmax(min(${least}px, 100%), ${least * 1.2}px))`;
          board.append(stack);
        }
      }
    }
    if (!some.length) board.append(el("div", {className: "none", textContent: "None of the runs shown has this."}));
    rows.value = state.rows; across.value = state.across;
    update();
  };

  // Settles when a picture or a video can be drawn, or never will.
  const drawable = e => new Promise(done => {
    if (e.tagName === "VIDEO" ? e.readyState >= 2 : e.complete) return done();
    for (const name of ["load", "loadeddata", "error"]) e.addEventListener(name, done, {once: true});
    if (e.tagName === "IMG") e.loading = "eager"; else e.preload = "auto";
  });

  // The whole board at this step as one PNG, also what was not in view yet.
  async function saveBoard() {
    png.disabled = true;
    const [saved, name] = [slots, `${sweep.name}-${key()}-${step()}.png`];
    saved.forEach(fill);
    await Promise.all([...board.querySelectorAll("img, video")].map(drawable));
    const [w, h] = [board.scrollWidth, board.scrollHeight], origin = board.getBoundingClientRect();
    const ratio = Math.min(2, 16000 / w, 16000 / h, Math.sqrt(2e8 / (w * h)));  // what browsers can draw on
    const sheet = el("canvas", {width: Math.ceil(w * ratio), height: Math.ceil(h * ratio)}), c = sheet.getContext("2d");
    c.scale(ratio, ratio);
    c.fillStyle = colourOf("paper"); c.fillRect(0, 0, w, h);
    c.fillStyle = colourOf("ink"); c.font = `12px ${FONT}`; c.imageSmoothingEnabled = false;
    for (const heading of board.querySelectorAll(".column, .row")) { const b = heading.getBoundingClientRect(); c.fillText(heading.textContent, b.left - origin.left, b.top - origin.top + 14); }
    for (const slot of saved) {
      const image = slot.box.querySelector("img, video");
      if (!image?.isConnected) continue;  // another kind has been chosen meanwhile
      const b = image.getBoundingClientRect(), t = slot.caption.getBoundingClientRect();
      try { c.drawImage(image, b.left - origin.left, b.top - origin.top, b.width, b.height); } catch { continue; }  // a broken file
      c.fillText(slot.caption.textContent, t.left - origin.left, t.top - origin.top + 13, t.width);
    }
    png.disabled = false;
    try { sheet.toBlob(blob => blob && download(name, blob)); }
    catch { at.textContent = "The browser does not let this page read pictures that are kept beside it; save each of them on its own."; }
  }
  addEventListener("beforeprint", () => slots.forEach(fill));
  const rebuild = later(build);
  watch("filter brush sel", rebuild);
  watch("pic rows across size sort", build);
  watch("step", update);
  build();
}
