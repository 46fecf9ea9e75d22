"use strict";
/* Where operators and edges go. Runs in a worker, or in the page where there is none.

   A network is laid out in pieces, from one operator that everything passes through to the next,
   each aligned with the end of the one before: in linear time, and dagre, which recurses, is not
   asked for more depth than the stack has. */
function layout(nodes, edges) {
  const LEAST = 20; // operators in a piece: each call of dagre costs some milliseconds
  const into = nodes.map(() => []), out = nodes.map(() => []);
  edges.forEach((edge, k) => { into[edge.target].push(k); out[edge.source].push(k); });

  /* Ends of the graph beside what reads or makes them; else in the given, topological order. */
  function ordered() {
    const key = nodes.map((_, k) => k);
    nodes.forEach((_, k) => {
      if (!into[k].length && out[k].length) key[k] = Math.min(...out[k].map(e => edges[e].target)) - 0.5;
      if (!out[k].length && into[k].length) key[k] = Math.max(...into[k].map(e => edges[e].source)) + 0.25;
    });
    return nodes.map((_, k) => k).sort((a, b) => key[a] - key[b] || a - b);
  }

  /* [first, last] positions of pieces; no edge goes over an end of one. */
  function pieces(order) {
    const at = [];
    order.forEach((k, position) => { at[k] = position; });
    let start = 0, reach = 0;
    const found = [];
    order.forEach((k, position) => {
      const inner = position > start + LEAST && position < order.length - 1;
      if (inner && reach <= position && into[k].length && out[k].length) {
        found.push([start, position]);
        start = position;
      }
      reach = Math.max(reach, ...out[k].map(e => at[edges[e].target]));
    });
    found.push([start, order.length - 1]);
    return found;
  }

  function piece(members) {
    const own = new Set(members), inside = [...new Set(members.flatMap(k => out[k]))].filter(e => own.has(edges[e].target));
    const graph = new dagre.graphlib.Graph({ multigraph: true })
      .setGraph({ rankdir: "TB", nodesep: 22, ranksep: 34, edgesep: 10 }).setDefaultEdgeLabel(() => ({}));
    const name = e => [String(edges[e].source), String(edges[e].target), String(e)];
    members.forEach(k => graph.setNode(String(k), { ...nodes[k] }));
    inside.forEach(e => graph.setEdge(name(e)[0], name(e)[1], {}, name(e)[2]));
    try {
      dagre.layout(graph);
      return {
        nodes: members.map(k => [k, graph.node(String(k))]),
        paths: inside.map(e => [e, graph.edge(...name(e)).points]),
      };
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      return rows(members, inside);
    }
  }

  /* Without dagre, for what is too deep for its recursion: every operator below what it reads. */
  function rows(members, inside) {
    const rank = new Map(), filled = [], where = new Map();
    for (const k of members) {
      const above = into[k].map(e => rank.get(edges[e].source) ?? -1);
      const row = 1 + Math.max(-1, ...above), left = filled[row] || 0;
      rank.set(k, row);
      where.set(k, { x: left + nodes[k].width / 2, y: 74 * row + 20 });
      filled[row] = left + nodes[k].width + 22;
    }
    return { nodes: [...where], paths: inside.map(e => [e, [where.get(edges[e].source), where.get(edges[e].target)]]) };
  }

  const order = ordered(), place = [], paths = [];
  for (const [first, last] of pieces(order)) {
    const found = piece(order.slice(first, last + 1)), joint = order[first];
    const [, own] = found.nodes.find(([k]) => k === joint), before = place[joint] || own;
    const dx = before.x - own.x, dy = before.y - own.y;
    const moved = ({ x, y }) => ({ x: x + dx, y: y + dy });
    found.nodes.forEach(([k, p]) => { place[k] = moved(p); });
    found.paths.forEach(([e, points]) => { paths[e] = points.map(moved); });
  }
  const margin = 20, every = [...place.map((p, k) => ({ ...p, ...nodes[k] })), ...paths.flat().map(p => ({ ...p, width: 0, height: 0 }))];
  let left = Infinity, top = Infinity, right = -Infinity, bottom = -Infinity;
  for (const { x, y, width, height } of every) {
    left = Math.min(left, x - width / 2 - margin); right = Math.max(right, x + width / 2 + margin);
    top = Math.min(top, y - height / 2 - margin); bottom = Math.max(bottom, y + height / 2 + margin);
  }
  const shift = ({ x, y }) => ({ x: x - left, y: y - top });
  return { nodes: place.map(shift), paths: paths.map(points => points.map(shift)), width: right - left, height: bottom - top };
}
