// Charts are drawn with a pen that has two forms: on a canvas, which is fast, and as SVG, to be saved.

class CanvasPen {
  constructor(canvas, width, height, ratio = devicePixelRatio || 1) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = height + "px";
    this.c = canvas.getContext("2d");
    this.c.scale(ratio, ratio);
  }
  line(points, {colour, width = 1.5, dash = [], alpha = 1}) {
    const c = this.c;
    c.strokeStyle = colour; c.lineWidth = width; c.globalAlpha = alpha; c.setLineDash(dash);
    c.beginPath();
    let down = false;
    for (const p of points) {  // null is a gap
      if (!p) down = false;
      else if (down) c.lineTo(p[0], p[1]);
      else { c.moveTo(p[0], p[1]); down = true; }
    }
    c.stroke();
    c.globalAlpha = 1; c.setLineDash([]);
  }
  area(points, {colour, alpha = 0.2}) {
    const c = this.c;
    c.fillStyle = colour; c.globalAlpha = alpha;
    c.beginPath();
    points.forEach((p, i) => i ? c.lineTo(p[0], p[1]) : c.moveTo(p[0], p[1]));
    c.fill();
    c.globalAlpha = 1;
  }
  rect(x, y, w, h, {colour, alpha = 1, edge}) {
    const c = this.c;
    c.globalAlpha = alpha;
    if (colour) { c.fillStyle = colour; c.fillRect(x, y, w, h); }
    if (edge) { c.strokeStyle = edge; c.lineWidth = 1; c.strokeRect(x, y, w, h); }
    c.globalAlpha = 1;
  }
  dot(x, y, r, {colour, alpha = 1, hollow = false}) {
    const c = this.c;
    c.globalAlpha = alpha; c.beginPath(); c.arc(x, y, r, 0, 7);
    if (hollow) { c.strokeStyle = colour; c.lineWidth = 1.5; c.stroke(); } else { c.fillStyle = colour; c.fill(); }
    c.globalAlpha = 1;
  }
  text(x, y, text, {align = "left", colour, size = 12, weight = "normal", halo = false} = {}) {
    const c = this.c;
    c.save(); c.translate(x, y);
    c.textAlign = align; c.font = `${weight} ${size * enlarged()}px ${FONT}`;
    if (halo) { c.strokeStyle = colourOf("paper"); c.lineWidth = 4; c.lineJoin = "round"; c.strokeText(text, 0, 0); }
    c.fillStyle = colour || colourOf("ink");
    c.fillText(text, 0, 0);
    c.restore();
  }
}

// Charts on very large screens are looked at from further away.
const enlarged = () => innerWidth > 2200 ? 1.4 : 1;
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif';

class SvgPen {
  constructor(width, height) {
    this.size = [width, height];
    this.parts = [];
  }
  add(tag, props, text) {
    const e = svg(tag, props);
    if (text !== undefined) e.textContent = text;
    this.parts.push(e);
  }
  line(points, {colour, width = 1.5, dash = [], alpha = 1}) {
    let d = "", down = false;
    for (const p of points) {
      if (!p) down = false;
      else { d += `${down ? "L" : "M"}${p[0].toFixed(1)} ${p[1].toFixed(1)}`; down = true; }
    }
    if (d) this.add("path", {d, fill: "none", stroke: colour, "stroke-width": width, "stroke-dasharray": dash.join(" ") || "none", opacity: alpha});
  }
  area(points, {colour, alpha = 0.2}) {
    this.add("polygon", {points: points.map(p => p.map(v => v.toFixed(1)).join(",")).join(" "), fill: colour, opacity: alpha});
  }
  rect(x, y, width, height, {colour, alpha = 1, edge}) {
    this.add("rect", {x, y, width, height, fill: colour || "none", stroke: edge || "none", opacity: alpha});
  }
  dot(cx, cy, r, {colour, alpha = 1, hollow = false}) {
    this.add("circle", {cx, cy, r, fill: hollow ? "none" : colour, stroke: hollow ? colour : "none", opacity: alpha});
  }
  text(x, y, text, {align = "left", colour, size = 12, weight = "normal", halo = false} = {}) {
    const anchor = {left: "start", center: "middle", right: "end"}[align];
    this.add("text", {x, y, fill: colour || colourOf("ink"), "font-size": size * enlarged(), "font-weight": weight, "font-family": FONT,
      "text-anchor": anchor, ...(halo ? {stroke: colourOf("paper"), "stroke-width": 4, "paint-order": "stroke"} : {})}, text);
  }
  toString() {
    const [width, height] = this.size;
    const root = svg("svg", {xmlns: "http://www.w3.org/2000/svg", width, height, viewBox: `0 0 ${width} ${height}`});
    root.append(svg("rect", {width, height, fill: colourOf("paper")}), ...this.parts);
    return new XMLSerializer().serializeToString(root);
  }
}

// A chart that fills its place: `draw(pen, width, height)`; redrawn when the place or the theme changes, and
// saved as PNG or SVG. Returns {figure, canvas, redraw, size}.
function chart({title, label, height, draw}) {
  const canvas = el("canvas", {role: "img", "aria-label": label || title});
  const save = el("div", {className: "save"});
  const figure = el("figure", {className: "chart"}, el("div", {className: "headed"}, el("span", {textContent: title}), save), canvas);
  const size = () => [canvas.clientWidth, typeof height === "function" ? height() : height];
  let seen = false, old = true;  // what is out of view is drawn when it comes into view
  const drawNow = () => {
    const [w, h] = size();
    old = false;
    if (w > 20) draw(new CanvasPen(canvas, w, h), w, h);
  };
  const redraw = framed(() => { if (seen) drawNow(); else old = true; });
  new IntersectionObserver(entries => {
    seen = entries.at(-1).isIntersecting;
    if (seen && old) redraw();
  }, {rootMargin: "300px"}).observe(figure);
  addEventListener("beforeprint", drawNow);
  save.append(
    el("button", {type: "button", textContent: "PNG", title: `Save ${title} as PNG`, "aria-label": `Save ${title} as PNG`, onclick: () => {
      const [w, h] = size(), copy = el("canvas"), pen = new CanvasPen(copy, w, h, 2);
      pen.rect(0, 0, w, h, {colour: colourOf("paper")});
      draw(pen, w, h);
      copy.toBlob(blob => download(`${sweep.name}-${title}.png`, blob));
    }}),
    el("button", {type: "button", textContent: "SVG", title: `Save ${title} as SVG`, "aria-label": `Save ${title} as SVG`, onclick: () => {
      const [w, h] = size(), pen = new SvgPen(w, h);
      draw(pen, w, h);
      download(`${sweep.name}-${title}.svg`, new Blob([pen.toString()], {type: "image/svg+xml"}));
    }}));
  new ResizeObserver(redraw).observe(canvas);
  watch("theme", redraw);
  system.addEventListener("change", redraw);
  return {figure, canvas, redraw, size};
}
