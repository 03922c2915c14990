"use strict";
// The icicle of a profile: rows of cells, each inside the one above it. A node in the page is
// [name, ms, layers, GMAC, colour, {class: ms}, children].
const NAME = 0, MS = 1, LAYERS = 2, GMAC = 3, COLOUR = 4, CLASSES = 5, CHILDREN = 6;
const ROW = 28, LEVELS = 4, THINNEST = 0.15, NARROW = 4; // px; rows below the opened one; %; % without room for letters
const CALLED = ["convolution", "linear", "attention", "normalisation", "elementwise", "data movement", "other"];

function time(ms) { return ms < 100 ? `${Number(ms.toPrecision(3))} ms` : `${ms.toFixed(0)} ms`; }

function linked(node, parent) {
  const made = { node, parent, path: parent ? [...parent.path, node[NAME]] : [node[NAME]] };
  made.children = node[CHILDREN].map((child) => linked(child, made));
  return made;
}

function told(item, root) {
  const [name, ms, layers, gmac, , classes] = item.node;
  const share = root.node[MS] ? (100 * ms / root.node[MS]).toFixed(1) : "0";
  const words = [`${item.path.slice(1).join(" › ") || name}: ${time(ms)}, ${share} % of the picture`];
  if (layers) words.push(`${layers} ${layers === 1 ? "layer" : "layers"}`);
  if (gmac) words.push(`${Number(gmac.toPrecision(3))} GMAC, ${Number((2000 * gmac / ms).toPrecision(3))} GOP/s`);
  const most = Object.entries(classes).sort((a, b) => b[1] - a[1]).slice(0, 3);
  if (most.length > 1) words.push(most.map(([index, took]) => `${CALLED[index]} ${time(took)}`).join(", "));
  return words.join("; ");
}

function icicle(box) {
  const root = linked(JSON.parse(document.getElementById(box.dataset.tree).textContent), null);
  const [crumbs, cells, line] = [".crumbs", ".cells", ".told"].map((name) => box.querySelector(name));
  let open = root, shown = new Map();

  function cell(item, left, width, level) {
    const made = document.createElement("div"), inside = item.children.length > 0;
    made.className = item.node[COLOUR] < 0 ? "left" : `c${item.node[COLOUR]}`;
    made.style.cssText = `left:${left}%;width:${width}%;top:${level * ROW}px`;
    if (width >= NARROW) made.textContent = item.node[NAME]; else made.classList.add("narrow");
    made.title = told(item, root);
    made.tabIndex = -1;
    made.setAttribute("role", "treeitem");
    made.setAttribute("aria-level", String(item.path.length));
    made.setAttribute("aria-label", made.title);
    if (inside) made.setAttribute("aria-expanded", String(level < LEVELS));
    made.addEventListener("click", () => enter(item));
    made.addEventListener("focus", () => { line.textContent = made.title; });
    made.addEventListener("mouseenter", () => { line.textContent = made.title; });
    cells.append(made);
    shown.set(item, made);
  }

  function place(item, left, width, level) {
    if (width < THINNEST) return level;
    cell(item, left, width, level);
    if (level === LEVELS) return level;
    let deepest = level, at = left;
    for (const child of item.children) {
      const wide = item.node[MS] ? width * child.node[MS] / item.node[MS] : 0;
      deepest = Math.max(deepest, place(child, at, wide, level + 1));
      at += wide;
    }
    return deepest;
  }

  function draw(focused) {
    cells.replaceChildren();
    shown = new Map();
    cells.style.height = `${(place(open, 0, 100, 0) + 1) * ROW}px`;
    const above = [];
    for (let item = open; item; item = item.parent) above.unshift(item);
    crumbs.replaceChildren(...above.flatMap((item, index) => {
      const button = document.createElement("button");
      button.textContent = item.node[NAME];
      button.disabled = item === open;
      button.addEventListener("click", () => enter(item, true));
      return index ? [document.createTextNode(" › "), button] : [button];
    }));
    (shown.get(focused) || shown.get(open)).tabIndex = 0;
    line.textContent = told(open, root);
  }

  function focus(item) {
    const wanted = shown.get(item);
    if (!wanted) return;
    for (const made of shown.values()) made.tabIndex = -1;
    wanted.tabIndex = 0;
    wanted.focus();
  }

  // Opens a node; the one that is open already, or one without insides, is left by its parent.
  function enter(item, back = false) {
    const next = !back && (item === open || !item.children.length) ? (item === open ? open.parent : item) : item;
    if (!next) return;
    if (next.children.length) open = next;
    draw(item);
    focus(shown.has(item) ? item : open);
  }

  function beside(item, by) {
    const level = item.path.length;
    const row = [...shown.keys()].filter((other) => other.path.length === level);
    return row[row.indexOf(item) + by];
  }

  cells.addEventListener("keydown", (event) => {
    const item = [...shown.keys()].find((key) => shown.get(key) === document.activeElement);
    if (!item) return;
    const going = {
      ArrowLeft: () => focus(beside(item, -1)),
      ArrowRight: () => focus(beside(item, 1)),
      ArrowDown: () => focus(item.children.find((child) => shown.has(child))),
      ArrowUp: () => (item === open ? enter(open) : focus(item.parent)),
      Home: () => enter(root, true),
      Enter: () => enter(item),
      " ": () => enter(item),
      Escape: () => enter(open),
      Backspace: () => enter(open),
    }[event.key];
    if (!going || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    going();
  });
  box.hidden = false;
  draw(root);
}

for (const box of document.querySelectorAll(".icicle")) icicle(box);
for (const cell of document.querySelectorAll(".verdicts td:last-child")) {
  const said = { slower: "worse", larger: "worse", worse: "worse", faster: "better", smaller: "better", better: "better" };
  if (said[cell.textContent]) cell.classList.add(said[cell.textContent]);
}
for (const box of document.querySelectorAll("details.outline > details")) box.open = true;
addEventListener("beforeprint", () => {
  for (const box of document.querySelectorAll("details:not(.outline, .outline *)")) box.open = true;
});
