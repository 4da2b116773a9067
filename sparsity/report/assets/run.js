// One run: its command, its layers, its text.
const CIVIDIS = [[0, 32, 77], [47, 71, 107], [98, 100, 111], [142, 135, 119], [190, 172, 104], [235, 213, 82], [255, 234, 70]];
function shade(share) {
  const place = Math.min(Math.max(share, 0), 1) * (CIVIDIS.length - 1);
  const k = Math.min(Math.floor(place), CIVIDIS.length - 2);
  return `rgb(${CIVIDIS[k].map((from, i) => Math.round(from + (place - k) * (CIVIDIS[k + 1][i] - from))).join(",")})`;
}

function openRun(i) {
  state.run = i;
  redraw("run");
  redraw("layers");
  redraw("texts");
  document.getElementById("run").scrollIntoView();
}
const picker = (name) => h("div", { class: "row controls" }, chooser("run", everyRun(), state.run, (i) => {
  state.run = i;
  ["run", "layers", "texts"].forEach(redraw);
}));

function oneRun() {
  const run = data.runs[state.run];
  const facts = [["folder", run.where], ["compared with", run.reference], ...Object.entries(run.composition), ...Object.entries(run.facts), ...Object.entries(run.circumstances)];
  const command = (text, what) => text && [h("h3", {}, what), h("div", { class: "row" }, h("code", {}, text), copied(text, what))];
  return [
    picker("run"),
    run.leakage && h("p", { class: "warn" }, `${run.leakage.shared} of ${run.leakage.tokens} calibration tokens lie in a span of ${run.leakage.span} tokens that also occurs in the evaluation text. The perplexity of this run may be too low.`),
    command(run.command, "Its command"),
    run.point && run.point !== run.command && command(run.point, "The command of this run alone"),
    h("dl", { class: "facts" }, facts.filter(([, value]) => value).map(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))])),
    run.config && h("details", {}, h("summary", {}, "Its configuration, resolved"), h("pre", {}, run.config)),
  ];
}

function layersSection() {
  const run = data.runs[state.run];
  if (!run.layers) return [picker("layers"), h("p", { class: "soft" }, "This run has no layers.csv.")];
  const { blocks, names, values, units } = run.layers;
  const measures = Object.keys(values);
  const preferred = ["relative_error", "sparsity_found", ...measures];
  const chosen = measures.includes(state.layer) ? state.layer : preferred.find((one) => measures.includes(one));
  const numbers = values[chosen];
  const present = numbers.filter(known);
  const [low, high] = [Math.min(...present), Math.max(...present)];
  const text = (value) => (units[chosen] === "fraction" ? show(value, { unit: "fraction", digits: 2 }) : axisNumber(value) + (units[chosen] ? ` ${units[chosen]}` : ""));
  const [cell, left, top] = [Math.max(12, Math.min(30, Math.floor(960 / blocks.length))), 190, 8];
  const tall = 26, W = left + cell * blocks.length + 20, H = top + tall * names.length + 34;
  const every = Math.ceil(28 / cell);
  const map = s("svg", { viewBox: `0 0 ${W} ${H}`, width: W, role: "img", "aria-label": `${chosen} by block and layer` },
    names.map((name, row) => s("text", { class: "ink", x: left - 8, y: top + row * tall + 17, "text-anchor": "end" }, name)),
    blocks.map((block, column) => column % every === 0 && s("text", { x: left + (column + 0.5) * cell, y: H - 20, "text-anchor": "middle" }, block)),
    s("text", { x: left + (cell * blocks.length) / 2, y: H - 4, "text-anchor": "middle" }, "block"),
    blocks.map((block, column) => names.map((name, row) => {
      const value = numbers[column * names.length + row];
      return s("rect", { x: left + column * cell, y: top + row * tall, width: cell - 1, height: tall - 1, rx: 2,
        fill: known(value) ? shade(high > low ? (value - low) / (high - low) : 0.5) : "var(--wash)",
        ...tipped(`block ${block}, ${name}\n${chosen.replaceAll("_", " ")} ${known(value) ? text(value) : "not known"}`) });
    })));
  const scale = h("span", { class: "row small soft" }, text(low),
    h("span", { "aria-hidden": true, style: { width: "12rem", height: "0.8rem", borderRadius: "3px", background: `linear-gradient(to right, ${CIVIDIS.map((_, k) => shade(k / (CIVIDIS.length - 1))).join(",")})` } }),
    text(high), " of this run's layers");
  const rows = names.map((name, row) => [name, blocks.map((_, column) => numbers[column * names.length + row]).filter(known)]).filter(([, found]) => found.length);
  return [
    picker("layers"),
    h("div", { class: "row controls" }, chooser("measure", measures.map((one, i) => [i, one.replaceAll("_", " "), ""]), measures.indexOf(chosen), (i) => { state.layer = measures[i]; redraw("layers"); })),
    chosen === "relative_error" && h("p", { class: "soft small" }, "Relative error of a layer: ||X (W − W0)'|| / ||X W0'|| on the calibration text; 0 is the dense layer, 1 a layer of zeros."),
    high > low ? [scale, map] : h("p", {}, `${chosen.replaceAll("_", " ")} is ${text(low)} in every layer.`),
    high > low && h("details", {}, h("summary", {}, "Means by layer name"), sortable("layer-means", "Means by layer name", [
      { heading: "layer", value: ([name]) => name },
      { heading: "mean", num: true, value: ([, found]) => mean(found), cell: ([, found]) => text(mean(found)) },
      { heading: "smallest", num: true, value: ([, found]) => Math.min(...found), cell: ([, found]) => text(Math.min(...found)) },
      { heading: "largest", num: true, value: ([, found]) => Math.max(...found), cell: ([, found]) => text(Math.max(...found)) },
    ], rows)),
  ];
}

function textsSection() {
  const run = data.runs[state.run];
  return [
    picker("texts"),
    run.texts.length ? h("div", { class: "scroll" }, h("table", {},
      h("thead", {}, h("tr", {}, ["prompt", "dense", "pruned"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, run.texts.map((row) => h("tr", {}, row.map((cell) => h("td", { class: "text" }, cell)))))))
      : h("p", { class: "soft" }, "This run has no generated text; evaluation=[perplexity,generation] adds it."),
    run.more_texts > 0 && h("p", { class: "soft small" }, `${run.more_texts} more are in its generations.csv.`),
  ];
}
