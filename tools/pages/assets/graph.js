"use strict";
/* The graph: dagre lays it out (in a worker, as it takes seconds for a thousand nodes), d3 draws. */
const drawing = (() => {
  const HEIGHT = 40, PAD = 11, SMALL = 20 /* nodes that need no overview */, MARKS = { quantize: "Q", dequantize: "DQ", requantize: "RQ" };
  const NAMES = { integer: "integers", weights: "float, integer weights", float: "float", "": "input or output" };

  function laidOut(nodes, edges) {
    const library = document.getElementById("dagre").textContent;
    return new Promise(resolve => {
      const here = () => {
        const script = document.createElement("script");
        script.textContent = library;
        document.head.append(script);
        resolve(layout(nodes, edges));
      };
      try {
        const source = `${library}\n${layout}\nonmessage = event => postMessage(layout(...event.data));`;
        const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
        worker.onmessage = event => { worker.terminate(); resolve(event.data); };
        worker.onerror = here;
        worker.postMessage([nodes, edges]);
      } catch {
        here();
      }
    });
  }

  const shortened = (text, most) => text.length <= most ? text : "…" + text.slice(1 - most);

  async function draw(data, onSelect) {
    const operators = data.operators, edges = data.edges;
    const root = d3.select("#drawing");
    const boxes = operators.map(o => {
      const label = shortened(o.name, 24);
      return { width: Math.max(70, 7.2 * o.op.length + 22, 6.5 * label.length + 18), height: HEIGHT, label };
    });
    const place = await laidOut(boxes.map(({ width, height }) => ({ width, height })),
      edges.map(({ source, target }) => ({ source, target })));
    document.getElementById("laying").remove();
    const line = d3.line(p => p.x, p => p.y).curve(d3.curveMonotoneY);
    const paths = place.paths.map(line);
    const into = operators.map(() => []), out = operators.map(() => []);
    edges.forEach((edge, k) => { into[edge.target].push(k); out[edge.source].push(k); });

    root.append("defs").append("marker").attr("id", "arrow").attr("viewBox", "0 0 8 8").attr("refX", 7)
      .attr("refY", 4).attr("markerWidth", 8).attr("markerHeight", 8).attr("markerUnits", "userSpaceOnUse")
      .attr("orient", "auto").append("path").attr("d", "M0,0L8,4L0,8z");
    const scene = root.append("g");
    islands(scene);
    const lines = scene.append("g").attr("aria-hidden", "true").selectAll("path").data(edges).join("path")
      .attr("class", edge => edge.grid ? "edge stored" : "edge")
      .attr("d", (_, k) => paths[k]).attr("marker-end", "url(#arrow)");
    marks(scene);
    const nodes = scene.append("g").selectAll("g").data(operators).join("g")
      .attr("class", o => `node ${o.precision || "end"}${o.layer === undefined ? "" : " measured"}`)
      .attr("transform", (_, k) => `translate(${place.nodes[k].x},${place.nodes[k].y})`)
      .attr("role", "button").attr("tabindex", -1).attr("aria-label", described)
      .on("click", (_, o) => select(operators.indexOf(o), false));
    nodes.append("rect").attr("rx", 7).attr("height", HEIGHT).attr("y", -HEIGHT / 2)
      .attr("x", (_, k) => -boxes[k].width / 2).attr("width", (_, k) => boxes[k].width);
    nodes.append("text").attr("y", -4).text(o => o.op);
    nodes.append("text").attr("class", "sub").attr("y", 12).text((_, k) => boxes[k].label);
    nodes.append("title").text(o => o.name);

    function described(o) {
      const error = o.layer === undefined ? "" : `, adds ${(100 * data.layers[o.layer].noise).toPrecision(2)} % noise`;
      return `${o.op} ${o.name}, ${NAMES[o.precision]}${error}`;
    }

    /* Every island twice: a rim, and over it the same a little smaller in the colour of the inside. */
    function islands(parent) {
      const groups = d3.group(operators.map((o, k) => ({ ...o, k })).filter(o => o.island !== undefined), o => o.island);
      const all = parent.append("g").attr("aria-hidden", "true").selectAll("g").data(groups).join("g").attr("class", "island");
      for (const [layer, more] of [["rim", 1.5], ["fill", 0]]) {
        all.each(function ([island, members]) {
          const own = new Set(members.map(o => o.k)), group = d3.select(this);
          edges.forEach((edge, k) => {
            if (own.has(edge.source) && own.has(edge.target)) {
              group.append("path").attr("class", layer).attr("d", paths[k]).attr("stroke-width", 26 + 2 * more);
            }
          });
          for (const o of members) {
            const { x, y } = place.nodes[o.k], pad = PAD + more;
            group.append("rect").attr("class", layer).attr("rx", 14).attr("stroke", "none")
              .attr("x", x - boxes[o.k].width / 2 - pad).attr("y", y - HEIGHT / 2 - pad)
              .attr("width", boxes[o.k].width + 2 * pad).attr("height", HEIGHT + 2 * pad);
          }
        });
      }
    }

    function marks(parent) {
      const converting = edges.map((edge, k) => ({ edge, k })).filter(({ edge }) => edge.converts.length);
      const all = parent.append("g").attr("aria-hidden", "true").selectAll("g").data(converting).join("g").attr("class", "mark")
        .attr("transform", ({ k }) => { const p = middle(place.paths[k]); return `translate(${p.x},${p.y})`; });
      const text = ({ edge }) => edge.converts.map(c => MARKS[c]).join(" ");
      all.append("rect").attr("rx", 8).attr("height", 16).attr("y", -8)
        .attr("width", d => 6 * text(d).length + 10).attr("x", d => -3 * text(d).length - 5);
      all.append("text").text(text);
      all.append("title").text(({ edge }) => `${edge.converts.join(", ")} ${edge.tensor}`);
    }

    function middle(points) {
      const k = Math.floor((points.length - 1) / 2), a = points[k], b = points[k + 1] || a;
      return points.length % 2 ? a : { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
    }

    // -- zoom and overview
    const element = root.node(), overview = document.getElementById("overview");
    let current = d3.zoomIdentity;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const zoom = d3.zoom().scaleExtent([0.004, 3])
      .filter(event => event.type === "wheel" ? event.ctrlKey || event.metaKey || element.contains(document.activeElement) : !event.button)
      .on("zoom", event => { current = event.transform; scene.attr("transform", current); trace(); });
    root.call(zoom).on("dblclick.zoom", null);
    const size = () => ({ width: element.clientWidth - overview.clientWidth, height: element.clientHeight });
    const go = (transform, quick) => (quick || still ? root : root.transition().duration(280)).call(zoom.transform, transform);

    function fit(quick) {
      const { width, height } = size(), scale = Math.min(1, width / place.width, height / place.height);
      go(d3.zoomIdentity.translate((width - scale * place.width) / 2, (height - scale * place.height) / 2).scale(scale), quick);
    }
    function center(k, quick) {
      const { width, height } = size(), scale = Math.max(current.k, 0.7), { x, y } = place.nodes[k];
      go(d3.zoomIdentity.translate(width / 2 - scale * x, height / 2 - scale * y).scale(scale), quick);
    }
    function begin() {
      const { width } = size(), { x } = place.nodes[0];
      const scale = Math.min(1, Math.max(width / place.width, 0.7));
      const shift = scale * place.width <= width ? (width - scale * place.width) / 2 : width / 2 - scale * x;
      go(d3.zoomIdentity.translate(shift, 4).scale(scale), true);
    }

    if (operators.length < SMALL) overview.remove();
    let picture = null, colour = k => getComputedStyle(nodes.nodes()[k].firstChild).stroke;
    /* Both directions have a scale of their own: most networks are far longer than wide. */
    function reduced() {
      const ratio = devicePixelRatio || 1, { clientWidth, clientHeight } = overview;
      overview.width = clientWidth * ratio; overview.height = clientHeight * ratio;
      const x = d3.scaleLinear([0, place.width], [6, clientWidth - 6]);
      const y = d3.scaleLinear([0, place.height], [4, clientHeight - 4]);
      return { ratio, x, y, fills: operators.map((_, k) => colour(k)) };
    }
    function trace() {
      if (!overview.isConnected) return;
      picture = picture || reduced();
      const pen = overview.getContext("2d"), { ratio, x, y, fills } = picture;
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.clearRect(0, 0, overview.clientWidth, overview.clientHeight);
      fills.forEach((fill, k) => {
        const box = place.nodes[k], width = x(boxes[k].width) - x(0), height = Math.max(y(HEIGHT) - y(0), 1);
        pen.fillStyle = fill; pen.fillRect(x(box.x) - width / 2, y(box.y) - height / 2, width, height);
      });
      const { width, height } = size();
      const [left, top] = current.invert([0, 0]), [right, bottom] = current.invert([width, height]);
      const ends = [x(left), x(right)].map(end => Math.min(Math.max(end, 1), overview.clientWidth - 1));
      pen.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent"); pen.lineWidth = 2;
      pen.strokeRect(ends[0], y(top), ends[1] - ends[0], Math.max(y(bottom) - y(top), 8));
    }
    function jump(event) {
      const box = overview.getBoundingClientRect(), { width, height } = size();
      const x = picture.x.invert(event.clientX - box.left), y = picture.y.invert(event.clientY - box.top);
      go(d3.zoomIdentity.translate(width / 2 - current.k * x, height / 2 - current.k * y).scale(current.k), true);
    }
    overview.addEventListener("pointerdown", event => { overview.setPointerCapture(event.pointerId); jump(event); });
    overview.addEventListener("pointermove", event => { if (event.buttons) jump(event); });
    const redraw = () => { picture = null; trace(); };
    new ResizeObserver(redraw).observe(element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    const sheets = document.getElementById("sheets");
    addEventListener("beforeprint", () => {
      const rows = Array.from(new Set(place.nodes.map(node => node.y))).sort((a, b) => a - b);
      sheets.className = root.attr("class") || "";
      sheets.replaceChildren();
      paper.fill(sheets, scene.node(), rows.map(y => [y - HEIGHT / 2 - PAD, y + HEIGHT / 2 + PAD]), place);
    });
    addEventListener("afterprint", () => sheets.replaceChildren());

    // -- selection and keyboard
    let selected = -1;
    function select(k, centered = true) {
      selected = k;
      nodes.classed("selected", (_, i) => i === k).attr("tabindex", (_, i) => i === k ? 0 : -1)
        .attr("aria-pressed", (_, i) => i === k ? "true" : null);
      lines.classed("near", edge => edge.source === k || edge.target === k);
      root.attr("tabindex", k < 0 ? 0 : -1);
      if (k < 0) return;
      nodes.nodes()[k].focus({ preventScroll: true });
      if (centered) center(k);
      onSelect(k, { into: into[k].map(e => edges[e]), out: out[k].map(e => edges[e]) });
    }
    const order = d3.range(operators.length).sort((a, b) => place.nodes[a].y - place.nodes[b].y || place.nodes[a].x - place.nodes[b].x);
    function beside(k, step) {
      const row = order.filter(i => place.nodes[i].y === place.nodes[k].y), at = row.indexOf(k) + step;
      return row[at];
    }
    const nearest = (k, ends) => d3.least(ends, i => Math.abs(place.nodes[i].x - place.nodes[k].x) + 1e-3 * Math.abs(place.nodes[i].y - place.nodes[k].y));
    const moves = {
      ArrowDown: k => nearest(k, out[k].map(e => edges[e].target)),
      ArrowUp: k => nearest(k, into[k].map(e => edges[e].source)),
      ArrowLeft: k => beside(k, -1), ArrowRight: k => beside(k, 1),
      Home: () => order[0], End: () => order[order.length - 1],
    };
    const by = factor => root.call(zoom.scaleBy, factor, [size().width / 2, size().height / 2]);
    root.on("keydown", event => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const deeds = { "+": () => by(1.35), "=": () => by(1.35), "-": () => by(1 / 1.35), "0": () => fit(), Escape: () => { select(-1); element.focus(); } };
      if (event.key in moves || (selected < 0 && event.key === "Enter")) {
        const next = selected < 0 ? order[0] : (moves[event.key] || (() => undefined))(selected);
        if (next !== undefined) select(next);
      } else if (event.key in deeds) deeds[event.key]();
      else return;
      event.preventDefault();
    });

    // -- colours
    const noises = data.layers.map(layer => layer.noise).filter(noise => noise > 0);
    const heat = d3.scaleSequentialLog([Math.max(d3.min(noises) || 1e-6, 1e-6), Math.max(d3.max(noises) || 1e-2, 1e-5)], d3.interpolateYlOrRd).clamp(true);
    nodes.filter(o => o.layer !== undefined).each(function (o) {
      const noise = data.layers[o.layer].noise, fill = d3.color(noise > 0 ? heat(noise) : heat.range()[0]);
      const { r, g, b } = fill.rgb();
      this.style.setProperty("--heat", fill);
      this.style.setProperty("--on", 0.2126 * r + 0.7152 * g + 0.0722 * b > 120 ? "#16191d" : "#ffffff");
    });
    function paint(how) {
      root.classed("by-error", how === "error");
      colour = k => { const style = getComputedStyle(nodes.nodes()[k].firstChild); return how === "error" ? style.fill : style.stroke; };
      redraw();
    }
    function find(text) {
      const wanted = text.trim().toLowerCase();
      const tensors = operators.map((_, k) => out[k].map(e => edges[e].tensor.toLowerCase()));
      const matches = wanted ? order.filter(k =>
        operators[k].name.toLowerCase().includes(wanted) || operators[k].op.toLowerCase().includes(wanted) ||
        tensors[k].some(name => name.includes(wanted))) : [];
      const set = new Set(matches);
      nodes.classed("match", (_, k) => set.has(k));
      return matches;
    }
    begin();
    return { select, find, fit, paint, zoomBy: by, center, heat: heat.domain(), NAMES };
  }

  return { draw, NAMES };
})();
