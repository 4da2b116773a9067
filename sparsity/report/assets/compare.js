// The comparison of two runs, and of methods. The intervals were computed when the page was made.
const MODELS = "Windows and documents compare two pruned models. A claim about a method needs several seeds: see Seeds.";

// The difference b - a in the unit of its kind: a ratio from its logarithm, a fraction in percentage points, or the number itself.
function amount({ unit }, value) {
  if (unit === "ratio") return `${signed(100 * (Math.exp(value) - 1), 2)} %`;
  return unit === "fraction" ? `${signed(100 * value, 2)} pp` : `${signed(value, 4)} ${unit}`;
}
const between = (kind, low, high) => `${amount(kind, low)} to ${amount(kind, high)}`;

function pairRows(here, a, b) {
  return here.pairs.rows.filter((row) => (row[0] === a && row[1] === b) || (row[0] === b && row[1] === a)).map((row) => {
    const [first, , what, estimate, low, high, p, units, adjusted, winner, alone, family, size] = row;
    const turned = first !== a;
    const turn = (name) => (name === null ? null : (name === "a") !== turned ? a : b);
    return { what, kind: here.pairs.kinds[what], estimate: turned ? -estimate : estimate, low: turned ? -high : low, high: turned ? -low : high,
      p, units, adjusted, family, size, winner: turn(winner), alone: turn(alone) };
  });
}

function refusal(a, b) {
  const [one, other] = [data.runs[a], data.runs[b]];
  const [here, there] = [data.groups[one.group], data.groups[other.group]];
  if (one.group !== other.group) {
    const reasons = Object.keys(here.conditions).filter((name) => here.conditions[name] !== there.conditions[name])
      .map((name) => h("li", {}, `${name}: ${here.conditions[name]} and ${there.conditions[name]}`));
    return h("div", { class: "warn", id: "refusal" }, "Not compared: the two were measured under different protocols.", h("ul", {}, reasons));
  }
  if (!one.windows.length || !other.windows.length) return h("p", { class: "warn", id: "refusal" },
    `Not compared: ${(one.windows.length ? [b] : [a]).map(label).join()} has no windows.csv.`);
  if (one.windows.length !== other.windows.length) return h("p", { class: "warn", id: "refusal" },
    `Not compared: ${one.windows.length} and ${other.windows.length} windows.`);
  return h("p", { class: "warn", id: "refusal" }, here.pairs.compared < here.pairs.possible
    ? `Not computed: only the first ${here.pairs.compared} of ${here.pairs.possible} pairs were. Make a report of fewer folders to compare these two. Of several runs with the same options and seed, only the latest is compared.`
    : "Not computed: a later run has the same options and seed as one of the two. Only the latest run is compared.");
}

function twoRuns() {
  const members = group().members;
  const foremost = group().pairs.rows[0] || members;
  const first = state.pair[0] ?? (state.pair[1] === foremost[0] ? foremost[1] : foremost[0]);
  const second = state.pair[1] ?? [foremost[1], foremost[0], ...members].find((i) => i !== undefined && i !== first) ?? first;
  const choose = (place) => (i) => { state.pair = place ? [first, i] : [i, second]; redraw("two"); redraw("runs"); };
  const pick = h("div", { class: "row controls" }, chooser("a", everyRun(), first, choose(0)), chooser("b", everyRun(), second, choose(1)));
  const [a, b] = [data.runs[first], data.runs[second]];
  if (first === second) return [pick, h("p", { class: "soft" }, "Choose two different runs.")];
  const here = data.groups[a.group];
  const rows = a.group === b.group ? pairRows(here, first, second) : [];
  const options = here.columns.map(({ key }) => [key, a.options[key] ?? "–", b.options[key] ?? "–"]).filter(([, x, y]) => x !== y);
  const aside = Object.keys(a.circumstances).filter((name) => a.circumstances[name] !== b.circumstances[name]);
  return [
    h("p", { class: "soft" }, `Paired differences b − a with 95 % intervals. ${MODELS}`),
    pick,
    a.group === b.group && h("p", { class: "small" }, options.length ? ["The two runs differ in ", options.map(([key, x, y], i) => [i ? "; " : "", `${key}: `, h("strong", {}, x), " and ", h("strong", {}, y)]), "."] : "They have the same options."),
    aside.length > 0 && h("p", { class: "soft small" }, "Other differences, which may change the last digits: ", aside.map((name) => `${name} ${a.circumstances[name]} and ${b.circumstances[name]}`).join("; "), "."),
    rows.length ? rows.map((row) => said(row, first, second)) : refusal(first, second),
    rows.some((row) => row.kind.unit === "ratio") && windowChart(first, second),
    a.group === b.group && documentNotes(first, second, rows),
  ];
}

function said(row, first, second) {
  const name = (i) => h("strong", {}, i === first ? "a" : "b", " (", label(i), ")");
  const many = row.size > 1 && row.alone !== null && [` Among the ${row.size} pairs of ${row.family} (Holm's adjustment: p ${chance(row.adjusted)}) `,
    row.winner === null ? "that is not certain." : "that still holds."];
  const measure = `${row.kind.heading}, ${row.units} ${row.kind.units}`;
  return h("div", { class: "verdict" },
    h("h3", {}, measure),
    h("p", {}, h("span", { class: "best" }, amount(row.kind, row.estimate)), ` (${between(row.kind, row.low, row.high)}), p ${chance(row.p)}. `,
      row.alone === null ? "No winner." : ["Taken alone, ", name(row.alone), " is better."], many),
    row.kind.unit === "ratio" && h("p", { class: "soft small" }, `In nats per token: ${signed(row.estimate, 4)} (${signed(row.low, 4)} to ${signed(row.high, 4)}).`));
}

// The difference of each window, in the order of the text.
function windowChart(first, second) {
  const [a, b] = [data.runs[first].windows, data.runs[second].windows];
  const differences = a.map((value, i) => b[i] - value);
  const [W, H, left, right, top, bottom] = [1120, 220, 64, 16, 22, 40];
  const [low, high] = [Math.min(0, ...differences), Math.max(0, ...differences)];
  if (low === high) return h("p", { class: "soft small" }, "Every window has the same NLL in both runs.");
  const pad = 0.06 * (high - low);
  const Y = (y) => top + ((high + pad - y) / (high - low + 2 * pad)) * (H - top - bottom);
  const width = (W - left - right) / differences.length;
  return s("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "Difference of the NLL in each window" },
    ticks(low - pad, high + pad, 5).map((y) => [s("line", { class: "axis", x1: left, x2: W - right, y1: Y(y), y2: Y(y) }),
      s("text", { x: left - 8, y: Y(y) + 4, "text-anchor": "end" }, y === 0 ? "0" : signed(y, Math.abs(high - low) < 0.2 ? 3 : 2))]),
    differences.map((y, i) => s("rect", { x: left + i * width + Math.min(1, 0.1 * width), width: Math.max(0.4, width - Math.min(2, 0.2 * width)), y: Math.min(Y(0), Y(y)),
      height: Math.max(0.5, Math.abs(Y(y) - Y(0))), fill: series(y < 0 ? 0 : 1), ...tipped(`window ${i}\na ${plain(a[i], 4)}, b ${plain(b[i], 4)}\nb − a ${signed(y, 4)}`) })),
    s("line", { class: "zero", x1: left, x2: W - right, y1: Y(0), y2: Y(0) }),
    s("text", { x: left, y: 12 }, "NLL of b − a in nats per token: blue where b is better, orange where a is"),
    s("text", { x: (left + W - right) / 2, y: H - 10, "text-anchor": "middle" }, `window of the evaluation text, 0 to ${differences.length - 1}`));
}

function documentNotes(first, second, rows) {
  const [a, b] = [data.runs[first].documents, data.runs[second].documents];
  const notes = a.map(([task, digest, count]) => {
    const twin = b.find((other) => other[0] === task);
    if (!twin) return `${task}: not compared, only a has it.`;
    if (twin[1] !== digest) return `${task}: not compared, the documents are not the same (${count} and ${twin[2]}).`;
    return rows.some((row) => row.what === task) ? null : `${task}: not computed, because the limit of comparisons was reached.`;
  }).filter(Boolean);
  return notes.length > 0 && h("ul", { class: "small soft" }, notes.map((note) => h("li", {}, note)));
}

function allPairs() {
  const here = group();
  const { rows, possible, compared } = here.pairs;
  if (!rows.length) return [h("p", { class: "soft" }, "No two runs here measured the same windows or documents.")];
  const whats = distinct(rows.map((row) => row[2]));
  const families = distinct(rows.map((row) => row[11]));
  const what = whats.includes(state.open.what) ? state.open.what : whats[0];
  const family = families.includes(state.open.family) ? state.open.family : null;
  const words = (state.open.words || "").toLowerCase();
  const chosen = rows.filter((row) => row[2] === what && (!family || row[11] === family)
    && words.split(/\s+/).every((word) => `${label(row[0])} ${label(row[1])}`.toLowerCase().includes(word)));
  const columns = [
    { heading: "a", wide: true, value: (row) => label(row[0]) },
    { heading: "b", wide: true, value: (row) => label(row[1]) },
    { heading: "b − a", num: true, value: (row) => row[3], cell: (row) => amount(here.pairs.kinds[what], row[3]) },
    { heading: "95 % interval", num: true, value: (row) => row[4], cell: (row) => between(here.pairs.kinds[what], row[4], row[5]) },
    { heading: "p", num: true, value: (row) => row[6], cell: (row) => chance(row[6]) },
    { heading: "p, Holm", num: true, value: (row) => row[8], cell: (row) => chance(row[8]) },
    { heading: "better", value: (row) => (row[9] ? label(row[row[9] === "a" ? 0 : 1]) : ""), cell: (row) =>
      (row[9] ? h("strong", {}, row[9]) : h("span", { class: "soft" }, "not certain")) },
    { heading: "view", value: (row) => row[0], cell: (row) => h("button", { type: "button", class: "bare", "aria-label": `Compare ${label(row[0])} and ${label(row[1])}`,
      onclick: () => { state.pair = [row[0], row[1]]; redraw("two"); redraw("runs"); document.getElementById("two").scrollIntoView(); } }, "view") },
  ];
  const search = h("input", { type: "search", placeholder: "Filter: any words", value: state.open.words || "", "aria-label": "Filter the pairs by words",
    onchange: () => { state.open.words = search.value; redraw("pairs"); } });
  const menu = (title, values, now, key, any) => values.length > 1 && chooser(title, [...(any ? [[-1, any, ""]] : []), ...values.map((value, i) => [i, value, ""])],
    now === null ? -1 : values.indexOf(now), (i) => { state.open[key] = values[i] ?? null; redraw("pairs"); });
  return [
    h("p", { class: "soft" }, `A winner is named only if the interval excludes zero and p, after Holm's adjustment over the pairs of one sparsity and seed, is at most 0.05. ${MODELS}`),
    compared < possible && h("p", { class: "warn", id: "limit" }, `${compared} of ${possible} pairs of runs were computed: pairs of equal sparsity and seed first, and among these the lowest perplexities. Make a report of fewer folders to compare the others.`),
    here.repeats > 0 && h("p", { class: "soft small" }, `${here.repeats} earlier runs are left out, because a later run has the same options and seed.`),
    h("div", { class: "row controls" }, search, menu("measure", whats, what, "what"), menu("adjusted together", families, family, "family", "all"),
      h("span", { class: "soft" }, `${chosen.length} pairs`)),
    sortable("all-pairs", "All pairs", columns, chosen, { limit: 100 }),
  ];
}

function seedsSection() {
  const here = group();
  const rows = here.seeds.filter((one) => one.values.length > 1);
  if (!rows.length) return [h("p", { class: "soft" }, "Every composition here was run with one seed. That compares these pruned models, but not the methods. Run more seeds: seed=0,1,2.")];
  const columns = [
    { heading: "composition", value: (row) => row.label },
    { heading: "seeds", value: (row) => row.values.length, cell: (row) => row.values.map(([seed]) => seed).join(", ") },
    { heading: "mean perplexity", num: true, value: (row) => row.mean, cell: (row) => plain(row.mean, 2) },
    { heading: "sd", num: true, value: (row) => row.deviation, cell: (row) => plain(row.deviation, 2) },
    { heading: "95 % interval of the mean", num: true, value: (row) => (row.interval ? row.interval[1] : null),
      cell: (row) => (row.interval ? `${plain(row.interval[1], 2)} to ${plain(row.interval[2], 2)}` : "needs 3 seeds") },
    { heading: "single runs", value: (row) => row.values[0][1], cell: (row) => row.values.map(([, value]) => plain(value, 2)).join(", ") },
  ];
  const name = (i) => here.seeds[i].label;
  const pairs = [
    { heading: "a", wide: true, value: (row) => name(row[0]) },
    { heading: "b", wide: true, value: (row) => name(row[1]) },
    { heading: "b − a, perplexity", num: true, value: (row) => row[2], cell: (row) => signed(row[2], 2) },
    { heading: "95 % interval", num: true, value: (row) => row[3], cell: (row) => `${signed(row[3], 2)} to ${signed(row[4], 2)}` },
    { heading: "seeds", num: true, value: (row) => row[6] },
    { heading: "p, Holm", num: true, value: (row) => row[7], cell: (row) => chance(row[7]) },
    { heading: "better", value: (row) => (row[8] ? name(row[row[8] === "a" ? 0 : 1]) : ""), cell: (row) =>
      (row[8] ? h("strong", {}, row[8], ": ", name(row[row[8] === "a" ? 0 : 1])) : h("span", { class: "soft" }, "not certain")) },
  ];
  return [
    h("p", { class: "soft" }, "The seed draws the calibration text. An interval over seeds is about the method on this evaluation text, not about one pruned model."),
    forest(rows),
    sortable("seeds-table", "Compositions over seeds", columns, rows),
    h("h3", {}, "Methods over common seeds"),
    here.methods.length ? sortable("methods-table", "Methods over common seeds", pairs, here.methods, { limit: 100 })
      : h("p", { class: "soft" }, "No two compositions of one sparsity have three seeds in common, so methods cannot be compared."),
  ];
}

// The mean of each composition with its interval, and the single runs, on a logarithmic axis.
function forest(rows) {
  const [W, left, right, step, top] = [1120, 400, 30, 24, 10];
  const H = top + step * rows.length + 40;
  const values = rows.flatMap((row) => [...row.values.map(([, value]) => value), ...(row.interval && row.interval[1] > 0 ? [row.interval[1], row.interval[2]] : [])]);
  const [low, high] = [Math.min(...values) / 1.03, Math.max(...values) * 1.03];
  const X = (x) => left + (Math.log(Math.max(x, low) / low) / Math.log(high / low)) * (W - left - right);
  return s("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "Perplexity over seeds" },
    ticks(low, high, 9, high > 3 * low).map((x) => [s("line", { class: "axis", x1: X(x), x2: X(x), y1: top, y2: H - 36 }),
      s("text", { x: X(x), y: H - 20, "text-anchor": "middle" }, axisNumber(x))]),
    s("text", { x: (left + W - right) / 2, y: H - 4, "text-anchor": "middle" }, "perplexity, logarithmic; dots: single seeds, bar: mean, line: 95 % interval of the mean"),
    rows.map((row, k) => {
      const y = top + step * k + step / 2;
      return [s("text", { class: "ink", x: left - 10, y: y + 4, "text-anchor": "end" }, row.label.length > 60 ? row.label.slice(0, 59) + "…" : row.label),
        row.interval && s("line", { x1: X(row.interval[1]), x2: X(row.interval[2]), y1: y, y2: y, stroke: series(0), "stroke-width": 2 }),
        s("line", { x1: X(row.mean), x2: X(row.mean), y1: y - 7, y2: y + 7, stroke: series(0), "stroke-width": 2.5 }),
        row.values.map(([seed, value]) => s("circle", { cx: X(value), cy: y, r: 3.6, fill: series(1), "fill-opacity": 0.85, ...tipped(`${row.label}\nseed ${seed}: ${plain(value, 2)}`) }))];
    }));
}
