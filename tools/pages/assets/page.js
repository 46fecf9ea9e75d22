"use strict";
/* The page around the graph: details, search, tables, buttons that copy. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = selector => [...document.querySelectorAll(selector)];
  const make = (tag, text = "", name = "") => {
    const element = document.createElement(tag);
    element.textContent = text;
    if (name) element.className = name;
    return element;
  };
  const decibels = value => value >= 120 ? "exact" : `${value.toFixed(1)} dB`;
  const percent = part => part >= 1e-6 ? `${+(100 * part).toPrecision(2)} %` : part > 0 ? "< 0.0001 %" : "0 %";

  for (const figure of all("[data-histogram]")) plots.histogram(figure, data.layers[figure.dataset.histogram].values);
  if (data.front) plots.front(document.getElementById("pareto"), data.front);

  // -- paper has nothing to click on
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("main details:not([open])");
    for (const each of closed) each.open = true;
  });
  addEventListener("afterprint", () => { for (const each of closed) each.open = false; });

  // -- buttons that copy
  const told = document.getElementById("copied");
  for (const button of all(".copier")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
      } catch {
        getSelection().selectAllChildren(code);
        document.execCommand("copy");
      }
      button.textContent = "Copied";
      told.textContent = "Copied to the clipboard";
      setTimeout(() => { button.textContent = "Copy"; told.textContent = ""; }, 1600);
    });
  }

  // -- tables
  for (const table of all("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const numeric = body.rows[0]?.cells[column].dataset.key !== undefined;
      const now = head.getAttribute("aria-sort");
      const sign = now ? (now === "ascending" ? -1 : 1) : (numeric ? -1 : 1);
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const key = row => numeric ? +row.cells[column].dataset.key : row.cells[column].textContent.trim();
      body.append(...[...body.rows].sort((a, b) => sign * d3.ascending(key(a), key(b))));
    }));
  }
  document.getElementById("filter")?.addEventListener("input", event => {
    const wanted = event.target.value.trim().toLowerCase();
    for (const row of document.querySelector("#layers tbody").rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
    }
  });

  // -- the graph
  if (!document.getElementById("drawing")) return;
  const details = document.getElementById("details"), found = document.getElementById("found");

  function show(k, near) {
    const operator = data.operators[k], layer = data.layers[operator.layer];
    details.replaceChildren();
    details.append(make("h3", `${operator.op} ${operator.name}`, "name"));
    details.append(make("span", drawing.NAMES[operator.precision], `chip ${operator.precision || "end"}`));
    const facts = make("dl");
    const fact = (name, text) => facts.append(make("dt", name), make("dd", text));
    if (operator.reason) fact("Why float", operator.reason);
    if (operator.saves !== undefined) fact("In integers", `would save ${operator.saves.toFixed(1)} us, and convert for ${operator.converts.toFixed(1)} us`);
    if (operator.shape) fact("Result", operator.shape);
    if (layer) {
      fact("SQNR", `${decibels(layer.sqnr_db)}, ${decibels(layer.before_db)} before it`);
      fact("Noise added", percent(layer.noise));
    }
    details.append(facts);
    if (layer?.values) {
      const values = layer.values, figure = make("figure");
      details.append(make("h4", "Values in float, and the grid"), figure);
      plots.histogram(figure, values);
      details.append(make("p", `${values.dtype}, step ${plots.number(values.scale)}, zero point ${values.zero_point}; ` +
        `${percent(values.clipped)} clipped; 99 % of the values within ${values.steps.toFixed(0)} steps`, "note"));
    }
    const list = (title, edges, end) => {
      if (!edges.length) return;
      const items = make("ul");
      for (const edge of edges) {
        const other = data.operators[edge[end]], item = make("li"), button = make("button", `${other.op} ${other.name}`, "link name");
        button.type = "button";
        button.addEventListener("click", () => graph.then(drawn => drawn.select(edge[end])));
        item.append(button, make("div", [edge.grid || "float", ...edge.converts].join("; "), "note"));
        items.append(item);
      }
      details.append(make("h4", title), items);
    };
    list("Reads", near.into, "source");
    list("Is read by", near.out, "target");
    details.scrollTop = 0;
  }

  const graph = drawing.draw(data, show);
  const legend = document.getElementById("legend");
  function explain(how, drawn) {
    legend.replaceChildren();
    const entry = (style, text, mark) => {
      const item = make("span"), box = make("i", "", mark ? "mark" : "");
      Object.assign(box.style, style);
      item.append(box, text);
      legend.append(item);
    };
    if (how === "error") {
      const ramp = make("i", "", "ramp"), item = make("span");
      ramp.style.background = `linear-gradient(90deg,${d3.range(0, 1.01, 0.1).map(d3.interpolateYlOrRd).join()})`;
      item.append(percent(drawn.heat[0]), ramp, `${percent(drawn.heat[1])} noise added`);
      legend.append(item);
      entry({ borderColor: "var(--edge)", background: "var(--end-fill)" }, "not stored as integers");
    } else {
      const used = new Set(data.operators.map(operator => operator.precision));
      for (const name of ["integer", "weights", "float"]) {
        if (used.has(name)) entry({ borderColor: `var(--${name})`, background: `var(--${name}-fill)` }, drawing.NAMES[name]);
      }
    }
    if (data.operators.some(operator => operator.island !== undefined)) {
      entry({ borderColor: "var(--island-line)", background: "var(--island)" }, "float island");
    }
    if (data.edges.some(edge => edge.converts.length)) entry({ borderColor: "var(--clip)" }, "conversion (Q, DQ, RQ)", true);
  }

  graph.then(drawn => {
    explain("precision", drawn);
    for (const radio of all("input[name=colour]")) {
      radio.addEventListener("change", () => { drawn.paint(radio.value); explain(radio.value, drawn); });
    }
    document.getElementById("zoom-in").addEventListener("click", () => drawn.zoomBy(1.35));
    document.getElementById("zoom-out").addEventListener("click", () => drawn.zoomBy(1 / 1.35));
    document.getElementById("fit").addEventListener("click", () => drawn.fit());

    const field = document.getElementById("find");
    let matches = [], at = -1;
    field.addEventListener("input", () => {
      matches = drawn.find(field.value);
      at = -1;
      found.textContent = !field.value.trim() ? "" : matches.length ? `${matches.length} found, Enter goes on` : "nothing found";
      if (matches.length) drawn.center(matches[0]);
    });
    field.addEventListener("keydown", event => {
      if (event.key === "Escape") { field.value = ""; field.dispatchEvent(new Event("input")); }
      if (event.key !== "Enter" || !matches.length) return;
      event.preventDefault();
      at = (at + (event.shiftKey ? matches.length - 1 : 1)) % matches.length;
      drawn.select(matches[at]);
      found.textContent = `${at + 1} of ${matches.length}`;
      field.focus({ preventScroll: true });
    });
    document.addEventListener("keydown", event => {
      if (event.key !== "/" || event.target.matches("input, textarea")) return;
      event.preventDefault();
      field.focus();
    });
    for (const button of all("[data-layer]")) {
      button.addEventListener("click", () => {
        const operator = data.operators.findIndex(each => each.layer === +button.dataset.layer);
        if (operator < 0) return;
        document.getElementById("graph").scrollIntoView();
        drawn.select(operator);
      });
    }
    document.documentElement.dataset.ready = "true";
  });
})();
