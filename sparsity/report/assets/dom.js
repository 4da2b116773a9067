// Building blocks. Text becomes text nodes and attributes only, never markup.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

function element(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(node.style, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}
const h = (tag, attributes, ...children) => element(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => element(document.createElementNS(SVG, tag), attributes, children);

const known = (value) => typeof value === "number" && Number.isFinite(value);
const plain = (value, digits) => value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const signed = (value, digits) => (value < 0 ? "−" : value > 0 ? "+" : "±") + plain(Math.abs(value), digits);

// A number as a person reads it, by the unit that its measure declares; the same rules as measures.py's.
function show(value, { unit, digits }) {
  if (!known(value)) return "–";
  if (unit === "fraction") return plain(100 * value, digits) + " %";
  if (unit === "change") return signed(100 * value, digits) + " %";
  if (unit === "bytes") return bytes(value);
  if (unit === "s") return seconds(value, digits);
  return plain(value, Math.abs(value) >= 1000 ? 0 : digits) + (unit && ` ${unit}`);
}
function bytes(value) {
  const power = Math.min(Math.max(Math.floor(Math.log2(Math.max(Math.abs(value), 1)) / 10), 0), 4);
  return `${plain(value / 1024 ** power, power ? 2 : 0)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}
// Of some values of one measure the best, as it declares; null where it declares no direction, or all are the same.
function bestOf(values, { better }) {
  const present = values.filter(known);
  const [low, high] = [Math.min(...present), Math.max(...present)];
  return !better || !present.length || low === high ? null : better === "smaller" ? low : high;
}
function seconds(value, digits = 0) {
  if (value < 120) return plain(value, digits || (value < 10 ? 1 : 0)) + " s";
  return value < 7200 ? plain(value / 60, 1) + " min" : plain(value / 3600, 1) + " h";
}
const chance = (p) => (p < 0.001 ? "< 0.001" : plain(p, 3));

const series = (i) => `var(--s${i % 10})`;
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
function deviation(values) {
  const centre = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - centre) ** 2, 0) / (values.length - 1));
}

const tip = document.getElementById("tip");
// The event handlers that show a text when a mark of a chart is pointed at or focused.
function tipped(text) {
  const place = (x, y) => {
    tip.textContent = text;
    tip.hidden = false;
    tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.max(4, Math.min(y + 14, innerHeight - tip.offsetHeight - 8))}px`;
  };
  const away = () => { tip.hidden = true; };
  return {
    onmousemove: (event) => place(event.clientX, event.clientY),
    onmouseleave: away,
    onfocus: (event) => { const box = event.target.getBoundingClientRect(); place(box.right, box.bottom); },
    onblur: away,
  };
}
const reached = (act) => ({
  tabindex: 0, role: "button", onclick: act,
  onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); act(); } },
});

function chooser(label, options, chosen, change) {
  const menu = h("select", { "aria-label": label, onchange: (event) => change(Number(event.target.value)) });
  for (const [value, text, group] of options) {
    let parent = menu;
    if (group) {
      parent = [...menu.children].find((child) => child.label === group) || menu.appendChild(h("optgroup", { label: group }));
    }
    parent.append(h("option", { value, selected: value === chosen }, text));
  }
  menu.value = String(chosen);
  return h("label", {}, label, menu);
}

function copied(text, what) {
  const button = h("button", { type: "button", "aria-label": `Copy ${what}`, onclick: async () => {
    let done = true;
    try { await navigator.clipboard.writeText(text); } catch { done = selected(text); }
    button.textContent = done ? "Copied" : "Select and copy by hand";
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
  } }, "Copy");
  return button;
}
function selected(text) {  // for browsers that refuse the clipboard to a page from disk
  const area = h("textarea", {}, text);
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

const state = { group: 0, run: 0, pair: [null, null], layer: null, filters: [], search: "", columns: {}, open: {} };
const group = () => data.groups[state.group];
const label = (i) => data.runs[i].label;
const named = (i) => (data.groups.length > 1 ? `${data.groups[data.runs[i].group].name}: ` : "") + label(i);
const everyRun = () => data.runs.map((run, i) => [i, run.label, data.groups.length > 1 ? `Protocol ${data.groups[run.group].name}` : ""]);
