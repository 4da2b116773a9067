// The charts, as SVG.
const SHAPES = [
  (r) => `M0,${-r}A${r},${r} 0 1 1 0,${r}A${r},${r} 0 1 1 0,${-r}Z`,
  (r) => `M${-r},${-r}H${r}V${r}H${-r}Z`,
  (r) => `M0,${-1.25 * r}L${1.2 * r},${0.9 * r}H${-1.2 * r}Z`,
  (r) => `M0,${-1.35 * r}L${1.35 * r},0L0,${1.35 * r}L${-1.35 * r},0Z`,
  (r) => `M0,${1.25 * r}L${1.2 * r},${-0.9 * r}H${-1.2 * r}Z`,
];
function mark(shape, colour, x, y, r = 5, more = {}) {
  return s("path", { class: "mark", d: SHAPES[shape % SHAPES.length](r), transform: `translate(${x},${y})`, fill: colour, stroke: colour, ...more });
}
const swatch = (shape, colour) => s("svg", { width: 14, height: 14, "aria-hidden": true }, mark(shape, colour, 7, 7, 4.5));
const distinct = (values) => [...new Set(values)];

// Round values for an axis from low to high: at most `most` of them.
function ticks(low, high, most = 7, log = false) {
  if (log) {
    for (const steps of [[1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
      const found = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
        for (const step of steps) {
          const value = step * 10 ** power;
          if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
        }
      }
      if (found.length <= most || steps.length === 1) return found;
    }
  }
  const rough = (high - low) / most || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((one) => one * power >= rough);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) found.push(value);
  return found;
}
// Numbers from a million on are shortened to fit beside the axis: 1M.
const axisNumber = (value) => value.toLocaleString("en", { maximumSignificantDigits: 4, notation: value < 1e6 ? "standard" : "compact" });

function scatter() {
  const here = group();
  const every = here.members.map((i) => [i, data.runs[i].numbers]).filter(([, n]) => known(n["perplexity.pruned"]) && known(n["sparsity.found"]))
    .map(([i, n]) => ({ i, x: n["sparsity.found"], y: n["perplexity.pruned"] }));
  const points = every.some((p) => p.x > 0.001) ? every.filter((p) => p.x > 0.001) : every;  // a dense run is the dotted line
  if (!points.length) return [h("p", { class: "soft" }, "No run here has both a perplexity and a sparsity.")];
  const dense = data.runs[points[0].i].numbers["perplexity.dense"];
  const [W, H, left, right, top, bottom] = [1120, 400, 64, 24, 16, 46];
  const xs = points.map((p) => p.x);
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  const pad = Math.max(0.02, 0.5 * (x1 - x0) / Math.max(1, distinct(xs.map((x) => x.toFixed(2))).length - 1));
  const [xLow, xHigh] = [Math.max(0, x0 - pad), Math.min(1, x1 + pad)];
  const ys = points.map((p) => p.y).concat(known(dense) ? [dense] : []);
  const reach = Math.max(1.02, (Math.max(...ys) / Math.min(...ys)) ** 0.06);
  const [yLow, yHigh] = [Math.min(...ys) / reach ** 1.4, Math.max(...ys) * reach];
  const X = (x) => left + ((x - xLow) / (xHigh - xLow)) * (W - left - right);
  const Y = (y) => H - bottom - (Math.log(y / yLow) / Math.log(yHigh / yLow)) * (H - top - bottom);

  const column = (p) => p.x.toFixed(2);
  const columns = distinct(points.map(column));
  const methods = distinct(points.map((p) => data.runs[p.i].choices.method ?? "runs"));
  const [method, corrector] = ["method", "corrector"].map((name) => (i) => data.runs[i].choices[name] ?? { method: "runs", corrector: "none" }[name]);
  const correctors = distinct(points.map((p) => data.runs[p.i].choices.corrector ?? "none"));
  // The Pareto front: no other run has at least the same sparsity (to half a percent) and a lower perplexity.
  const round = (x) => Math.round(200 * x);
  const front = points.filter((p) => !points.some((q) => round(q.x) >= round(p.x) && q.y <= p.y && (round(q.x) > round(p.x) || q.y < p.y || q.i > p.i)))
    .sort((a, b) => a.x - b.x || a.y - b.y);
  // With few different sparsities, the marks of one sparsity stand side by side, one lane per method.
  const lanes = Object.fromEntries(columns.map((at) => [at, methods.filter((name) => points.some((p) => column(p) === at && method(p.i) === name))]));
  const widest = Math.max(...Object.values(lanes).map((names) => names.length));
  const lane = Math.min(48, (0.75 * (W - left - right)) / (columns.length + 0.4) / widest);
  const aside = (p) => (columns.length > 6 ? 0 : (lanes[column(p)].indexOf(method(p.i)) - (lanes[column(p)].length - 1) / 2) * lane);
  const short = (i) => [method(i), corrector(i)].filter((word) => word !== "none").join(" + ");
  const path = front.map((p, k) => (k ? `V${Y(p.y).toFixed(1)}H${(X(p.x) + aside(p)).toFixed(1)}` : `M${(X(p.x) + aside(p)).toFixed(1)},${Y(p.y).toFixed(1)}`)).join("");

  const chart = s("svg", { viewBox: `0 0 ${W} ${H}`, role: "group", "aria-label": "Perplexity against sparsity" },
    ticks(yLow, yHigh, 9, yHigh > 3 * yLow).map((y) => [s("line", { class: "axis", x1: left, x2: W - right, y1: Y(y), y2: Y(y) }),
      s("text", { x: left - 8, y: Y(y) + 4, "text-anchor": "end" }, axisNumber(y))]),
    (columns.length > 6 ? ticks(xLow, xHigh, 8) : columns.map(Number)).map((x) => [s("line", { class: "axis", x1: X(x), x2: X(x), y1: top, y2: H - bottom }),
      s("text", { x: X(x), y: H - bottom + 18, "text-anchor": "middle" }, axisNumber(Number((100 * x).toFixed(6))) + " %")]),
    s("text", { x: (left + W - right) / 2, y: H - 6, "text-anchor": "middle" }, "sparsity found (weights that are zero in the pruned layers)"),
    s("text", { x: left, y: top - 4 }, "perplexity, logarithmic"),
    known(dense) && [s("line", { class: "zero", x1: left, x2: W - right, y1: Y(dense), y2: Y(dense) }),
      s("text", { x: W - right - 4, y: Y(dense) - 5, "text-anchor": "end" }, `dense ${plain(dense, 2)}`)],
    front.length > 1 && s("path", { class: "front", d: path }),
    points.map((p) => mark(correctors.indexOf(corrector(p.i)), series(methods.indexOf(method(p.i))), X(p.x) + aside(p), Y(p.y), 5.5, { "fill-opacity": 0.75, "aria-label": `${label(p.i)}: perplexity ${plain(p.y, 2)}`, ...reached(() => openRun(p.i)),
        ...tipped(`${label(p.i)}\nperplexity ${plain(p.y, 2)}, sparsity ${plain(100 * p.x, 2)} %${front.includes(p) ? "\non the Pareto front" : ""}`) })),
    front.slice(0, 12).map((p) => s("text", { class: "ink halo", x: X(p.x) + aside(p), y: Y(p.y) + 19, "text-anchor": "middle" }, short(p.i))));
  return [
    h("p", { class: "soft" }, "Every run of this protocol. Dashed steps: the Pareto front, that is, the runs for which no other run has a lower perplexity and at least the same sparsity (to half a percent). Select a mark to open its run.", columns.length <= 6 && methods.length > 1 && " Marks of one sparsity stand side by side, by method; the grid line between them shows their sparsity."),
    h("div", { class: "legend" }, methods.map((name, k) => h("span", {}, swatch(0, series(k)), name))),
    correctors.length > 1 && h("div", { class: "legend" }, "corrector:", correctors.map((name, k) => h("span", {}, swatch(k, "var(--soft)"), name))),
    chart,
    h("p", { class: "small" }, h("strong", {}, "Pareto front: "), front.map((p) => `${label(p.i)} (${plain(p.y, 2)})`).join("; "), "."),
  ];
}

// Tables of method x corrector, one for each sparsity and pattern. Other options that differ are part of the row's name.
function matrix() {
  const here = group();
  const columns = here.columns.filter((column) => !column.seed).map((column) => column.key);
  const pruned = here.seeds.filter((one) => !(one.sparsity < 0.001));
  if (!pruned.length || !columns.includes("method") || !columns.includes("corrector")) return null;
  const across = columns.filter((key) => key === "corrector" || key.startsWith("corrector.")), apart = ["sparsity", "pattern", "pattern.n", "pattern.m", "pattern.sparsity"].filter((key) => columns.includes(key));
  const down = columns.filter((key) => ![...across, ...apart].includes(key));
  const said = (one, keys) => here.columns.filter(({ key, usual }) => keys.includes(key) && ![undefined, usual].includes(one.options[key]))
    .map(({ key, heading, plain: bare }) => (bare ? one.options[key] : `${heading} ${one.options[key]}`)).join(" · ");
  return [h("p", { class: "soft" }, "Mean perplexity over seeds ± standard deviation. A stronger shade is a lower perplexity. Bold: the lowest mean; the difference may be chance."),
    ...distinct(pruned.map((one) => said(one, apart))).sort().map((title) => {
    const cells = pruned.filter((one) => said(one, apart) === title);
    const heads = distinct(cells.map((one) => said(one, across))).sort((a, b) => (b === "none") - (a === "none") || a.localeCompare(b));
    const rows = distinct(cells.map((one) => said(one, down)));
    const logs = cells.map((one) => Math.log(one.mean));
    const low = Math.min(...logs), high = Math.min(Math.max(...logs), low + Math.log(4));  // four times the lowest perplexity or more: no shade
    return [title && h("h3", {}, title), h("div", { class: "scroll matrix" }, h("table", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "method"), heads.map((name) => h("th", { scope: "col", class: "num" }, name)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row), heads.map((head) => {
        const one = cells.find((cell) => said(cell, down) === row && said(cell, across) === head);
        if (!one) return h("td", { class: "soft" }, "–");
        const share = high > low ? Math.max(0, high - Math.log(one.mean)) / (high - low) : 0;
        return h("td", { style: { background: `color-mix(in srgb, var(--accent) ${Math.round(38 * share)}%, transparent)` } },
          h("span", { class: one.mean === Math.min(...cells.map((cell) => cell.mean)) && "best" }, plain(one.mean, 2)),
          h("small", {}, one.values.length > 1 ? `± ${plain(one.deviation, 2)}, ${one.values.length} seeds` : `seed ${one.values[0][0] || "–"}`));
      }))))))];
    })];
}

// Seconds by stage, and peak memory.
function costs() {
  const here = group();
  const stages = here.stages;  // as the results say, in their order
  const colour = (k) => series([6, 4, 5, 0, 3, 2, 8, 7, 1, 9][k % 10]);
  const runs = here.members.filter((i) => known(data.runs[i].numbers["seconds.total"]))
    .sort((a, b) => data.runs[b].numbers["seconds.total"] - data.runs[a].numbers["seconds.total"]);
  if (!runs.length) return [h("p", { class: "soft" }, "No run here recorded its time.")];
  const shown = state.open.costs ? runs : runs.slice(0, 25);
  const device = runs.some((i) => data.runs[i].numbers.peak_device_memory_bytes);
  const memory = device ? "peak_device_memory_bytes" : "peak_memory_bytes";
  const [W, left, step, top] = [1120, 400, 22, 26];
  const split = 790, end = W - 90;
  const longest = Math.max(...runs.map((i) => data.runs[i].numbers["seconds.total"]));
  const largest = Math.max(...runs.map((i) => data.runs[i].numbers[memory] || 0));
  const H = top + step * shown.length + 6;
  const chart = s("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "Seconds by stage and peak memory of each run" },
    s("text", { x: left, y: 14 }, "time, by stage"), s("text", { x: split + 70, y: 14 }, device ? "peak device memory" : "peak memory"),
    shown.map((i, row) => {
      const numbers = data.runs[i].numbers, y = top + step * row;
      let x = left;
      const name = label(i).length > 60 ? label(i).slice(0, 59) + "…" : label(i);
      const parts = stages.map((stage, k) => {
        const width = ((numbers[`seconds.${stage}`] || 0) / longest) * (split - left - 70);
        const bar = s("rect", { x, y, width, height: step - 7, fill: colour(k), ...tipped(`${label(i)}\n${stage} ${seconds(numbers[`seconds.${stage}`] || 0)}`) });
        x += width;
        return bar;
      });
      const held = numbers[memory] || 0;
      return [s("text", { class: "ink", x: left - 10, y: y + 12, "text-anchor": "end" }, s("title", {}, label(i)), name), parts,
        s("text", { x: x + 6, y: y + 12 }, seconds(numbers["seconds.total"])),
        held > 0 && [s("rect", { x: split + 70, y, width: (held / largest) * (end - split - 70), height: step - 7, fill: series(2) }),
          s("text", { x: split + 76 + (held / largest) * (end - split - 70), y: y + 12 }, bytes(held))]];
    }));
  return [
    h("p", { class: "soft" }, "As the runs measured it, on a machine that may have been busy with other things: compare with care."),
    h("div", { class: "legend" }, stages.map((stage, k) => h("span", {}, swatch(1, colour(k)), stage))),
    chart,
    runs.length > 25 && h("button", { type: "button", onclick: () => { state.open.costs = !state.open.costs; redraw("cost"); } },
      state.open.costs ? "Show the 25 slowest" : `Show all ${runs.length}`),
  ];
}
