// The filter: `beta > 1 and status == finished`, `not (seed in [0, 1])`, `arch contains conv`. No eval: a small
// recursive-descent parser that gives a function of a run. A column is called by its name or by its heading, in
// quotes where that has blanks. Throws Error with what is wrong, in words.

function parseFilter(text, columns) {
  const names = new Map([...columns.map(c => [c.label, c.name]), ...columns.map(c => [c.name, c.name])]);
  const token = /\s*(?:(`[^`]*`|"[^"]*"|'[^']*')|(==|!=|<=|>=|<|>|=|\(|\)|\[|\]|,)|(-?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?(?![\w/]))|((?:--)?[\p{L}_][\p{L}\d_./:-]*)|(\S))/giuy;
  const tokens = [];
  while (token.lastIndex < text.length) {
    const m = token.exec(text);
    if (!m) break;  // blanks at the end
    const [, quoted, sign, number, word, odd] = m;
    if (odd) throw new Error(`“${odd}” can't be read here; put words that contain it in quotes: "…"`);
    if (quoted) tokens.push({kind: quoted[0] === "`" ? "word" : "text", text: quoted.slice(1, -1)});
    else if (sign) tokens.push({kind: "sign", text: sign});
    else if (number) tokens.push({kind: "number", text: number});
    else tokens.push({kind: "word", text: word});
  }
  if (!tokens.length) return () => true;
  let at = 0;
  const peek = () => tokens[at] || {kind: "end", text: "the end"};
  const is = text => peek().kind !== "text" && peek().text.toLowerCase() === text;
  const take = text => is(text) && (at++, true);

  function either() {
    let left = both();
    while (take("or")) { const a = left, b = both(); left = run => a(run) || b(run); }
    return left;
  }
  function both() {
    let left = one();
    while (take("and")) { const a = left, b = one(); left = run => a(run) && b(run); }
    return left;
  }
  function one() {
    if (take("not")) { const inner = one(); return run => !inner(run); }
    if (take("(")) {
      const inner = either();
      if (!take(")")) throw new Error(`a “)” is missing before ${peek().text}`);
      return inner;
    }
    return comparison();
  }
  function comparison() {
    const name = peek();
    if (!["word", "text"].includes(name.kind)) throw new Error(`a column's name is missing before ${name.text}`);
    at++;
    if (!names.has(name.text)) throw new Error(`there is no column ${name.text}${near(name.text, columns.map(c => c.name))}`);
    const get = run => value(run, names.get(name.text));
    const sign = peek().text.toLowerCase();
    if (peek().kind !== "text" && ["in", "contains"].includes(sign) || peek().kind === "sign" && /^[=<>!]/.test(sign)) at++;
    else throw new Error(`a comparison is missing after ${name.text}: ==, !=, <, <=, >, >=, in or contains`);
    if (sign === "in") {
      if (!take("[")) throw new Error(`“in” needs a list: ${name.text} in [1, 2]`);
      const list = [];
      while (!is("]")) { list.push(literal()); if (!take(",") && !is("]")) throw new Error(`a “]” is missing before ${peek().text}`); }
      at++;
      return run => list.some(v => same(get(run), v));
    }
    const wanted = literal();
    if (sign === "contains") return run => shown(get(run), 12).toLowerCase().includes(String(wanted).toLowerCase());
    if (sign === "==" || sign === "=") return run => same(get(run), wanted);
    if (sign === "!=") return run => !same(get(run), wanted);
    if (typeof wanted !== "number") throw new Error(`${sign} needs a number; ${shown(wanted)} is not one`);
    const compare = {"<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b}[sign];
    return run => { const v = get(run); return isNumber(v) && compare(v, wanted); };
  }
  function literal() {
    const t = peek();
    if (!["number", "text", "word"].includes(t.kind)) throw new Error(`a value is missing before ${t.text}`);
    at++;
    if (t.kind === "number") return Number(t.text);
    if (t.kind === "word" && /^(none|null)$/i.test(t.text)) return null;
    if (t.kind === "word" && /^(true|false)$/i.test(t.text)) return t.text.toLowerCase() === "true";
    return t.text;
  }
  const found = either();
  if (at < tokens.length) throw new Error(`an “and” or an “or” is missing before ${peek().text}`);
  return found;
}

function same(a, b) {
  if (b === null) return a === null || a === "";  // an empty cell
  if (a === null) return false;
  if (typeof a === "number" && typeof b === "number") return a === b;
  return shown(a, 12).toLowerCase() === shown(b, 12).toLowerCase();
}

// The name that is most like a mistyped one, as a question; nothing where none is like it.
function near(text, names) {
  const distance = (a, b) => {
    let row = Array.from({length: b.length + 1}, (_, j) => j);
    for (let i = 1; i <= a.length; i++) {
      const next = [i];
      for (let j = 1; j <= b.length; j++) next[j] = Math.min(next[j - 1] + 1, row[j] + 1, row[j - 1] + (a[i - 1] !== b[j - 1]));
      row = next;
    }
    return row[b.length];
  };
  const best = names.map(name => [distance(text.toLowerCase(), name.toLowerCase()), name]).sort((a, b) => a[0] - b[0])[0];
  const ends = names.filter(name => name.endsWith("/" + text));
  if (ends.length) return `; did you mean ${ends[0]}?`;
  return best && best[0] <= Math.max(1, text.length / 3) ? `; did you mean ${best[1]}?` : "";
}
