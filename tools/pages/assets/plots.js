"use strict";
/* Pictures that d3 draws: histograms of layers, the Pareto front. */
const plots = (() => {
  const number = d3.format(".3~g");

  function frame(figure, width, height, label) {
    return d3.select(figure).append("svg").attr("class", "plot").attr("role", "img")
      .attr("viewBox", `0 0 ${width} ${height}`).attr("aria-label", label);
  }

  /* Counts of float values as bars, heights logarithmic; behind them what the grid holds. */
  function histogram(figure, values) {
    const width = 360, height = 118, bottom = height - 20;
    const low = Math.min(values.seen_low, values.low), high = Math.max(values.seen_high, values.high);
    const x = d3.scaleLinear([low, high], [4, width - 4]);
    const y = d3.scaleSymlog([0, d3.max(values.counts) || 1], [0, bottom - 8]);
    const svg = frame(figure, width, height,
      `Values from ${number(values.seen_low)} to ${number(values.seen_high)}; the grid holds ` +
      `${number(values.low)} to ${number(values.high)}`);
    svg.append("rect").attr("class", "held").attr("x", x(values.low)).attr("y", 2)
      .attr("width", x(values.high) - x(values.low)).attr("height", bottom - 2);
    const bin = (values.seen_high - values.seen_low) / values.counts.length;
    svg.append("g").selectAll("rect").data(values.counts).join("rect")
      .attr("class", (_, k) => {
        const middle = values.seen_low + (k + 0.5) * bin;
        return middle < values.low || middle > values.high ? "count clipped" : "count";
      })
      .attr("x", (_, k) => x(values.seen_low + k * bin))
      .attr("width", Math.max(x(bin) - x(0) - 0.6, 0.6))
      .attr("y", count => bottom - y(count)).attr("height", y);
    svg.append("g").selectAll("line").data([values.low, values.high]).join("line")
      .attr("class", "end").attr("x1", x).attr("x2", x).attr("y1", 2).attr("y2", bottom);
    svg.append("g").attr("transform", `translate(0,${bottom})`)
      .call(d3.axisBottom(x).ticks(5).tickFormat(number).tickSizeOuter(0).tickPadding(2));
  }

  function front(figure, data) {
    const width = Math.max(Math.min(figure.clientWidth - 34, 640), 260), height = 300;
    const left = 46, right = width - 20, top = 22, bottom = height - 40;
    const points = data.points.filter(point => point.sqnr < 120);
    const x = d3.scaleLinear([0, d3.max(points, p => p.share)], [left, right]).nice();
    const y = d3.scaleLinear(d3.extent(points, p => p.sqnr), [bottom, top]).nice();
    const chosen = data.points[data.chosen];
    const svg = frame(figure, width, height,
      `${points.length} points; chosen ${d3.format(".1%")(chosen.share)} of the ${data.paid_in} at ` +
      `${chosen.sqnr.toFixed(1)} dB`);
    svg.append("g").attr("class", "grid").selectAll("line").data(y.ticks(5)).join("line")
      .attr("x1", left).attr("x2", right).attr("y1", y).attr("y2", y);
    svg.append("g").attr("transform", `translate(0,${bottom})`)
      .call(d3.axisBottom(x).ticks(width / 90, ".0%").tickSizeOuter(0));
    svg.append("g").attr("transform", `translate(${left},0)`).call(d3.axisLeft(y).ticks(5));
    svg.append("text").attr("x", (left + right) / 2).attr("y", height - 6)
      .attr("text-anchor", "middle").text(`${data.paid_in}, share of float`);
    svg.append("text").attr("x", left - 34).attr("y", 10).text("SQNR in dB");
    svg.append("path").attr("class", "curve").attr("d", d3.line(p => x(p.share), p => y(p.sqnr))(points));
    svg.append("g").selectAll("circle").data(points).join("circle")
      .attr("class", p => p === chosen ? "point chosen" : "point")
      .attr("r", p => p === chosen ? 6 : 3.5).attr("cx", p => x(p.share)).attr("cy", p => y(p.sqnr))
      .append("title").text(p => `${d3.format(".1%")(p.share)}, ${p.sqnr.toFixed(1)} dB`);
    if (chosen.sqnr < 120) {
      const before = x(chosen.share) > (left + right) / 2;
      svg.append("text").attr("class", "say").attr("y", y(chosen.sqnr) + 18)
        .attr("x", x(chosen.share) + (before ? -10 : 10)).attr("text-anchor", before ? "end" : "start")
        .text(`chosen: ${d3.format(".1%")(chosen.share)}, ${chosen.sqnr.toFixed(1)} dB`);
    }
  }

  return { histogram, front, number };
})();
