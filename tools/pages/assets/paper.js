"use strict";
/* The graph on paper: cut into columns, as most networks are far longer than wide. */
const paper = (() => {
  const SHEETS = 2, SHAPE = 1.25 /* height of a sheet over its width */, WIDTH = 690 /* of a sheet, in pixels */, MARGIN = 20;

  /* How `size` is spread: columns of a sheet, the width of one, and the most height of one. */
  function spread(size) {
    const width = size.width + 2 * MARGIN;
    const columns = Math.max(1, Math.ceil(Math.sqrt(size.height / (SHEETS * SHAPE * width))));
    const wide = Math.max(width, WIDTH / columns);
    return { columns, wide, most: columns * wide * SHAPE };
  }

  /* Where columns end: between rows ([top, bottom], in order), so that none is higher than `most`. */
  function ends(rows, most) {
    const found = [rows[0][0]];
    rows.forEach(([, bottom], k) => {
      if (k && bottom - found[found.length - 1] > most) found.push((rows[k - 1][1] + rows[k][0]) / 2);
    });
    return [...found, rows[rows.length - 1][1]];
  }

  /* Top and bottom of something drawn. */
  function extent(element) {
    const box = element.getBBox(), moved = element.transform.baseVal.consolidate(), y = box.y + (moved ? moved.matrix.f : 0);
    return [y, y + box.height];
  }

  /* Copies of what `scene` draws, sheet by sheet, into `place`. */
  function fill(place, scene, rows, size) {
    const { columns, wide, most } = spread(size), cuts = ends(rows, most);
    const layers = Array.from(scene.children, layer => ({ layer, parts: Array.from(layer.children, part => ({ part, extent: extent(part) })) }));
    let sheet;
    cuts.slice(1).forEach((bottom, k) => {
      const top = cuts[k], svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      svg.setAttribute("viewBox", [(size.width - wide) / 2, top, wide, bottom - top].join(" "));
      svg.style.width = `${100 / columns}%`;
      for (const { layer, parts } of layers) {
        const copy = layer.cloneNode(false);
        copy.append(...parts.filter(({ extent: [from, to] }) => from < bottom && to > top).map(({ part }) => part.cloneNode(true)));
        svg.append(copy);
      }
      if (k % columns === 0) {
        sheet = document.createElement("div");
        sheet.className = "sheet";
        place.append(sheet);
      }
      sheet.append(svg);
    });
  }

  return { fill };
})();
