// A table that can be sorted by its headings. columns: {heading, value(row), cell(row)?, text?(row), num?, title?}
const sorting = {};  // table id -> [column heading, direction]; kept when a table is drawn again

function sortable(id, caption, columns, rows, options = {}) {
  const limit = options.limit || 200;
  let shown = limit;
  const body = h("tbody");
  const heads = columns.map((column) => {
    const button = h("button", { type: "button", class: "bare", title: column.title, onclick: () => {
      const [by, way] = sorting[id] || [];
      sorting[id] = [column.heading, by === column.heading ? -way : 1];
      draw();
    } }, column.heading);
    return h("th", { scope: "col", class: column.num && "num" }, button);
  });
  const more = h("button", { type: "button", onclick: () => { shown += 1000; draw(); } }, "Show more rows");
  const note = h("p", { class: "soft small" });

  function order() {
    const [by, way] = sorting[id] || [];
    const column = columns.find((one) => one.heading === by);
    if (!column) return rows;
    const empty = (value) => value === null || value === undefined || value === "" || Number.isNaN(value);
    return [...rows].sort((a, b) => {
      const [x, y] = [column.value(a), column.value(b)];
      if (empty(x) || empty(y)) return empty(x) - empty(y);  // unknown values stay at the end in both directions
      if (typeof x === "number" && typeof y === "number") return way * (x - y);
      return way * String(x).localeCompare(String(y), "en", { numeric: true });
    });
  }
  function draw() {
    const [by, way] = sorting[id] || [];
    columns.forEach((column, i) => {
      heads[i].setAttribute("aria-sort", column.heading !== by ? "none" : way > 0 ? "ascending" : "descending");
    });
    body.replaceChildren(...order().slice(0, shown).map((row) => h("tr", { class: options.on && options.on(row) && "on" },
      columns.map((column, i) => h(i === (options.head ?? -1) ? "th" : "td", { class: column.num ? "num" : column.wide && "wide", scope: i === options.head && "row" },
        column.cell ? column.cell(row) : column.value(row) ?? "–")))));
    more.hidden = note.hidden = rows.length <= shown;
    note.textContent = `${Math.min(shown, rows.length)} of ${rows.length} rows are drawn. `;
  }
  draw();
  return [h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    h("table", { id }, h("thead", {}, h("tr", {}, heads)), body)), h("div", { class: "row" }, note, more)];
}

// --- the runs ---------------------------------------------------------------------------------------------------------

function runsSection() {
  const here = group();
  const holder = h("div");
  const count = h("span", { class: "soft", id: "count", "aria-live": "polite" });
  const chips = h("span", { class: "row" });
  const search = h("input", { type: "search", id: "search", placeholder: "Filter: any words", value: state.search,
    "aria-label": "Filter the runs by words", oninput: () => { state.search = search.value; draw(); } });
  const visible = (measure) => state.columns[measure.key] ?? !measure.fold;

  const rare = here.columns.filter((column) => column.rare);
  const further = (i) => rare.filter(({ key, usual }) => ![undefined, usual].includes(data.runs[i].options[key]));
  const only = (key, value, text = value) => h("button", { type: "button", class: "bare", title: `Only ${key} = ${value}`, onclick: () => filter(key, value) }, text);

  function fits(i) {
    const run = data.runs[i];
    const haystack = [run.label, run.where, run.command, ...Object.values(run.options)].join(" ").toLowerCase();
    return state.search.toLowerCase().split(/\s+/).every((word) => haystack.includes(word))
      && state.filters.every(([key, value]) => (run.options[key] ?? "–") === value);
  }
  function draw() {
    const members = here.members.filter(fits);
    count.textContent = members.length === here.members.length ? `${members.length} runs` : `${members.length} of ${here.members.length} runs`;
    chips.replaceChildren(...state.filters.map(([key, value]) => h("button", { type: "button", class: "chip",
      "aria-label": `Remove the filter ${key} = ${value}`,
      onclick: () => { state.filters = state.filters.filter(([k, v]) => k !== key || v !== value); draw(); } }, `${key} = ${value} ×`)));
    const pruned = members.map((i) => data.runs[i]).filter((run) => run.numbers["sparsity.found"] > 0.001);
    const columns = [
      { heading: "two", title: "Choose two runs to compare", value: (i) => (state.pair.includes(i) ? 0 : 1), cell: (i) => h("input", {
        type: "checkbox", "aria-label": `Compare ${label(i)}`, checked: state.pair.includes(i), onchange: (event) => pick(i, event.target.checked) }) },
      ...here.columns.filter((column) => !column.rare).map(({ key, heading }) => ({ heading, title: key,
        value: (i) => data.runs[i].options[key], cell: (i) => only(key, data.runs[i].options[key] ?? "–") })),
      ...(rare.length ? [{ heading: "further", wide: true, title: rare.map(({ key }) => key).join(", "),
        value: (i) => further(i).map(({ key }) => `${key} ${data.runs[i].options[key]}`).join(", "),
        cell: (i) => further(i).map(({ key, heading }, k) => [k ? ", " : "", only(key, data.runs[i].options[key], `${heading} ${data.runs[i].options[key]}`)]) }] : []),
      ...here.measures.filter(visible).map((measure) => {
        const best = bestOf(pruned.map((run) => run.numbers[measure.key]), measure);
        return { heading: measure.heading, num: true, title: measure.key + (measure.better ? `: the ${measure.better} the better` : ""),
          value: (i) => data.runs[i].numbers[measure.key], cell: (i) => {
            const { numbers: { [measure.key]: value }, errors: { [measure.key]: error } } = data.runs[i];
            return [h("span", { class: best !== null && value === best && pruned.includes(data.runs[i]) && "best" }, show(value, measure)),
              error !== undefined && h("small", {}, ` ± ${show(error, measure)}`)];
          } };
      }),
      ...(members.some((i) => data.runs[i].notes.length) ? [{ heading: "notes", value: (i) => data.runs[i].notes.join(", ") }] : []),
      { heading: "more", title: "Command, layers, text", value: (i) => label(i), cell: (i) => h("button", { type: "button", class: "bare",
        "aria-label": `Open ${label(i)}`, onclick: () => openRun(i) }, "open") },
    ];
    holder.replaceChildren(...(members.length ? sortable("runs-table", "Runs", columns, members, { on: (i) => state.pair.includes(i) })
      : [h("p", { class: "soft" }, "No run fits these filters.")]));
  }
  function filter(key, value) {
    if (!state.filters.some(([k, v]) => k === key && v === value)) state.filters.push([key, value]);
    draw();
  }
  function pick(i, on) {
    if (!on) state.pair = state.pair.map((chosen) => (chosen === i ? null : chosen));
    else state.pair = state.pair[0] === null ? [i, state.pair[1]] : [state.pair[0] === i ? null : state.pair[0], i];
    draw();
    redraw("two");
  }
  draw();
  const folded = h("details", { open: state.open.columns, ontoggle: (event) => { state.open.columns = event.target.open; } },
    h("summary", {}, "Columns"),
    h("div", { class: "checks" }, here.measures.map((measure) => h("label", {}, h("input", { type: "checkbox", checked: visible(measure),
      onchange: (event) => { state.columns[measure.key] = event.target.checked; draw(); } }), ` ${measure.heading}`))));
  const usual = here.columns.filter((column) => column.usual !== null).map((column) => `${column.key} ${column.usual}`).join(", ");
  return [
    h("p", { class: "soft" }, "The columns on the left are the options in which the runs differ. Click a value to keep only runs with it, or a heading to sort."),
    usual && h("p", { class: "soft small" }, `Unless a run says otherwise: ${usual}.`),
    h("div", { class: "row controls" }, search, count, chips),
    holder,
    folded,
    here.same.length > 0 && h("details", {}, h("summary", {}, "The same in all of these runs"),
      h("dl", { class: "facts" }, here.same.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]))),
  ];
}
