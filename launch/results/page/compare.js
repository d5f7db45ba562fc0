// One picture large, and beside or over it another: a wipe between two runs or two steps. Texts stand side by
// side with equal lines marked.

let overlay = null;

function dialog(title, ...content) {
  overlay?.close();
  const close = el("button", {type: "button", textContent: "Close", onclick: () => box.close()});
  const box = el("dialog", {"aria-label": title}, el("div", {className: "headed"}, el("h2", {textContent: title, style: "border:0;margin:0;padding:0"}), close), ...content);
  document.body.append(box);
  box.addEventListener("close", () => { box.remove(); if (overlay === box) overlay = null; });
  box.addEventListener("click", event => { if (event.target === box) box.close(); });
  box.showModal();
  overlay = box;
  return box;
}

function compare(key, run, step) {
  const place = el("div", {className: "shown"});
  const having = order(active.includes(run) ? active : runs).filter(one => sweep.media.of[key]?.[one.index]);
  let [otherRun, otherStep, share] = [null, step, 0.5];
  const runChoice = choice([["", "nothing"], ...having.map(one => [one.id, one.label])], "", id => { otherRun = having.find(one => one.id === id) || null; draw(); });
  const mine = choice(stepsOf(key, [run]).map(one => [String(one), thousands(one)]), String(step), text => { step = Number(text); draw(); });
  const theirs = choice([[String(step), thousands(step)]], String(step), text => { otherStep = Number(text); draw(); });
  const wipe = el("input", {type: "range", min: 0, max: 1, step: 0.01, value: share, "aria-label": "position of the wipe"});
  const wiped = field("wipe", wipe);
  const save = el("button", {type: "button", className: "quiet", textContent: "Save"});
  const caption = el("p", {className: "note"});
  dialog(`${key}`, el("div", {className: "bar"}, el("span", {textContent: run.label}), field("step", mine), field("compare with", runChoice), field("step of the other", theirs), wiped, save), place, caption);

  const draw = () => {
    if (otherRun) {
      const steps = stepsOf(key, [otherRun]);
      if (!steps.includes(otherStep)) otherStep = steps.findLast(one => one <= otherStep) ?? steps[0];
      theirs.replaceChildren(...steps.map(one => el("option", {value: String(one), textContent: thousands(one), selected: one === otherStep})));
    }
    const left = fileAt(key, run, step), right = otherRun && fileAt(key, otherRun, otherStep);
    theirs.parentElement.hidden = !otherRun;
    const text = left && isText(left[1]);
    wiped.hidden = !otherRun || text;
    caption.textContent = !otherRun ? left?.[2] || "" : text ? "Equal lines are marked." : `Left of the edge: ${run.label}, step ${thousands(step)}. Right of it: ${otherRun.label}, step ${thousands(otherStep)}.`;
    if (!left) { place.replaceChildren(el("div", {className: "none", textContent: "nothing at this step"})); return; }
    if (!right) { place.replaceChildren(shownBlob(left[1], `${key}, ${run.label}`, true)); return; }
    if (text) { place.replaceChildren(sideBySide([run.label, step, left[1]], [otherRun.label, otherStep, right[1]])); return; }
    const edge = el("div", {className: "edge"}), over = shownBlob(right[1], `${key}, ${otherRun.label}`);
    const box = el("div", {className: "wipe"}, shownBlob(left[1], `${key}, ${run.label}`), over, edge);
    const put = () => { over.style.clipPath = `inset(0 0 0 ${100 * share}%)`; edge.style.left = `${100 * share}%`; wipe.value = share; };
    const follow = event => { if (!event.buttons && event.type !== "pointerdown") return; const b = box.getBoundingClientRect(); share = clamp((event.clientX - b.left) / b.width, 0, 1); put(); event.preventDefault(); };
    box.onpointerdown = follow;
    box.onpointermove = follow;
    wipe.oninput = () => { share = Number(wipe.value); put(); };
    put();
    place.replaceChildren(box);
    for (const video of box.querySelectorAll("video")) video.addEventListener("loadeddata", () => { for (const v of box.querySelectorAll("video")) { v.currentTime = 0; v.play().catch(() => {}); } });
  };
  save.onclick = () => {
    const images = [...place.querySelectorAll("img, video")];
    if (!images.length) { download(`${key}-${run.label}-${step}.txt`, new Blob([linesOf(fileAt(key, run, step)[1]).join("\n")], {type: "text/plain"})); return; }
    const [w, h] = [images[0].naturalWidth || images[0].videoWidth, images[0].naturalHeight || images[0].videoHeight], k = Math.max(1, Math.ceil(600 / w));
    const sheet = el("canvas", {width: w * k, height: h * k}), c = sheet.getContext("2d");
    c.imageSmoothingEnabled = false;
    c.drawImage(images[0], 0, 0, w * k, h * k);
    if (images[1]) { c.beginPath(); c.rect(w * k * share, 0, w * k, h * k); c.clip(); c.drawImage(images[1], 0, 0, w * k, h * k); }
    const name = `${key}-${run.label}-${step}`;
    try { sheet.toBlob(blob => download(name + ".png", blob)); }
    catch { el("a", {href: images[0].src, download: name}).click(); }  // it lies beside the page: the file as it is
  };
  draw();
}

// The lines of a text sample, as a reader sees them.
function linesOf(name) {
  const {mime, text} = sweep.media.blobs[name];
  if (mime !== "text/html") return text.split("\n");
  const page = new DOMParser().parseFromString(text, "text/html");  // inert: nothing in it runs or loads
  for (const e of page.querySelectorAll("style, script, title")) e.remove();
  for (const e of page.querySelectorAll("p, div, tr, li, br, pre, h1, h2, h3, td, th")) e.append("\n");
  return page.body.textContent.split("\n").map(line => line.trim()).filter(Boolean);
}

function sideBySide(...sides) {
  const texts = sides.map(([, , name]) => linesOf(name)), box = el("div", {className: "lines"});
  box.append(...sides.map(([label, step]) => el("div", {className: "head", textContent: `${label}, step ${thousands(step)}`})));
  const common = new Set(texts[0].filter(line => texts[1].includes(line)));
  for (let i = 0; i < Math.max(texts[0].length, texts[1].length); i++)
    for (const lines of texts) box.append(el("div", {className: i < lines.length && common.has(lines[i]) ? "same" : "", textContent: lines[i] ?? ""}));
  return box;
}
