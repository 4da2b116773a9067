// The parts of the page in their order, and the functions that draw them.
const PARTS = [
  ["runs", "Runs", runsSection],
  ["front", "Perplexity and sparsity", scatter],
  ["matrix", "Method × corrector", matrix],
  ["seeds", "Seeds", seedsSection],
  ["two", "Two runs", twoRuns],
  ["pairs", "All pairs", allPairs],
  ["run", "One run", oneRun],
  ["layers", "Layers", layersSection],
  ["texts", "Text", textsSection],
  ["cost", "Time and memory", costs],
];
const places = {};

function redraw(id) {
  const [, title, draw] = PARTS.find(([part]) => part === id);
  const content = draw();
  places[id].hidden = content === null;
  if (content === null) return;
  const inside = places[id].contains(document.activeElement) && document.activeElement;
  const again = inside && inside.tagName === "SELECT" ? [...places[id].querySelectorAll("select")].indexOf(inside) : -1;
  places[id].replaceChildren(h("h2", {}, title), ...[content].flat(Infinity).filter(Boolean));
  if (again >= 0) places[id].querySelectorAll("select")[again]?.focus();  // redrawing must not lose the keyboard focus
}

function warnings() {
  const leaking = data.runs.filter((run) => run.leakage);
  return [
    data.problems.length > 0 && h("div", { class: "warn", id: "problems" }, h("details", { open: data.problems.length <= 4 },
      h("summary", { class: "warn-head" }, `${data.problems.length} folders are not, or not completely, in this report`),
      h("ul", {}, data.problems.map(([where, what]) => h("li", {}, h("code", {}, where), `: ${what}`))))),
    leaking.length > 0 && h("div", { class: "warn", id: "leakage" }, "The evaluation text contains parts of the calibration text, so these perplexities may be too low:",
      h("ul", {}, leaking.map((run) => h("li", {}, `${run.label}: ${run.leakage.shared} of ${run.leakage.tokens} tokens`)))),
  ];
}

function protocols() {
  const several = data.groups.length > 1;
  const conditions = Object.entries(group().conditions);
  const buttons = data.groups.map((one, i) => h("button", { type: "button", "aria-pressed": String(i === state.group), onclick: () => choose(i) },
    `${one.name}: ${one.members.length} run${one.members.length > 1 ? "s" : ""}`));
  return [
    several && [h("p", {}, "These runs were measured under different protocols, so their results cannot be compared. Everything below shows one protocol at a time."),
      h("div", { class: "row" }, h("span", {}, "Protocol"), buttons),
      h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, ""), data.differ.map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, data.groups.map((one, i) => h("tr", { class: i === state.group && "on" }, h("th", { scope: "row" }, one.name), data.differ.map((name) => h("td", {}, one.conditions[name])))))))],
    h("details", { open: !several }, h("summary", {}, several ? `All conditions of protocol ${group().name}` : "The protocol of all runs"),
      h("dl", { class: "facts" }, conditions.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]))),
  ];
}

// The pruned run with the lowest perplexity.
function foremost(i) {
  const rank = (run) => (data.runs[run].numbers["sparsity.found"] > 0.001 ? data.runs[run].numbers["perplexity.pruned"] ?? Infinity : Infinity);
  return data.groups[i].members.reduce((best, run) => (rank(run) < rank(best) ? run : best));
}

function choose(i) {
  state.group = i;
  Object.assign(state, { filters: [], search: "", pair: [null, null], run: foremost(i) });
  drawAll();
}

function drawAll() {
  places.protocol.replaceChildren(h("h2", {}, "Protocol"), ...protocols().flat(Infinity).filter(Boolean));
  PARTS.forEach(([id]) => redraw(id));
  document.getElementById("nav").replaceChildren(...PARTS.filter(([id]) => !places[id].hidden).map(([id, title]) => h("a", { href: `#${id}` }, title)));
}

function theme() {
  const button = document.getElementById("theme");
  const dark = () => document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const name = () => { button.textContent = dark() ? "Light" : "Dark"; button.setAttribute("aria-label", `Switch to ${dark() ? "light" : "dark"} colours`); };
  button.addEventListener("click", () => { document.documentElement.dataset.theme = dark() ? "light" : "dark"; name(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  name();
}

const main = document.getElementById("main");
places.protocol = h("section", { id: "protocol" });
main.append(...warnings().filter(Boolean), places.protocol);
PARTS.forEach(([id, title]) => main.append(places[id] = h("section", { id, "aria-label": title })));
state.run = foremost(0);
theme();
drawAll();
