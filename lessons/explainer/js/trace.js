// Part 6: the traces that the chosen bin leaves as the region is dragged. Along: the region's centre.

"use strict";

const GREY = "#5d646d";
const trace = { points: [], for: "", size: [600, 270] };

// Adds where the region is now. pooled: what poolBin() says of the chosen bin.
function leaveTrace(region, state, values, [column, row], channels, pooled) {
  const settings = [
    state.picture,
    state.level,
    state.bins,
    state.ratio,
    state.aligned,
    state.bin,
    state.roiChannel,
  ].join();
  if (trace.for !== settings) Object.assign(trace, { for: settings, points: [] });
  const place = (row * state.bins + column) * channels + state.roiChannel;
  const stride = strideOf(state);
  const middle = region[0] + ((column + 0.5) * (region[2] - region[0])) / state.bins;
  const point = {
    x: (region[0] + region[2]) / 2,
    pool: values.pool[place],
    align: values.align[place],
    poolOff: ((pooled.left + pooled.right) / 2) * stride - middle,
    alignOff: state.aligned ? 0 : 0.5 * stride,
  };
  const last = trace.points.at(-1);
  if (!last || Object.keys(point).some((key) => point[key] !== last[key])) trace.points.push(point);
  if (trace.points.length > 1500) trace.points.shift();
  drawTrace();
}

const chartText = (x, y, anchor, words, others = {}) =>
  `<text ${attributes({ x, y, "text-anchor": anchor, fill: GREY, ...others })}>${words}</text>`;

// One of the two charts: a line for each of the traces, key -> colour, between two heights of the SVG. along(x): where
// that lies. always: numbers that the chart shows in any case.
function tracePanel(traces, along, [top, bottom], name, always = []) {
  const [left, right] = [52, trace.size[0] - 12];
  const numbers = [...always, ...trace.points.flatMap((point) => Object.keys(traces).map((key) => point[key]))];
  const [least, most] = [Math.min(...numbers), Math.max(...numbers)];
  const span = most - least || 1;
  const up = (value) => bottom - (0.08 + (0.84 * (value - least)) / span) * (bottom - top);
  const lines = Object.entries(traces).map(([key, colour]) => {
    const path = trace.points.map((point) => `${along(point.x).toFixed(1)},${up(point[key]).toFixed(1)}`).join(" ");
    const { x, [key]: value } = trace.points.at(-1);
    return `<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="1.75" stroke-linejoin="round"/>
      ${dot(along(x), up(value), 4, colour)}`;
  });
  const marks = (most > least ? [least, most] : [least]).map((value) =>
    chartText(left - 8, up(value) + 4, "end", number(value, 1)),
  );
  return `<line x1="${left}" x2="${right}" y1="${bottom}" y2="${bottom}" stroke="#dcd8cf"/>
    ${marks.join("")}${chartText(left + 4, top - 2, "start", name)}${lines.join("")}`;
}

function drawTrace() {
  const { points } = trace;
  const svg = $("trace");
  const [width, height] = trace.size;
  const xs = points.map(({ x }) => x);
  const spare = Math.max(0, 16 - (Math.max(...xs) - Math.min(...xs))) / 2;
  const [first, end] = [Math.min(...xs) - spare, Math.max(...xs) + spare];
  const along = (x) => 52 + ((x - first) / (end - first)) * (width - 64);
  const last = points.at(-1);
  const values = { pool: POOL, align: ALIGN };
  const offsets = { poolOff: POOL, alignOff: ALIGN };
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.innerHTML = [
    tracePanel(values, along, [20, height / 2 - 12], "the bin’s value"),
    tracePanel(offsets, along, [height / 2 + 14, height - 26], "too far to the right, in pixels", [0]),
    chartText(width - 12, height - 8, "end", `the region’s centre, in pixels: ${number(last.x, 1)}`),
    chartText(width - 80, 18, "end", "RoIPool", { fill: POOL }),
    chartText(width - 12, 18, "end", "RoIAlign", { fill: ALIGN }),
    points.length < 3
      ? chartText(width / 2, height / 2 - 30, "middle", "Drag the region sideways.", { "font-size": 15 })
      : "",
  ].join("");
  const words = `RoIPool gives ${number(last.pool)}, RoIAlign ${number(last.align)}. RoIPool’s bin lies
    ${number(last.poolOff, 1)} pixels too far to the right.`;
  svg.setAttribute("aria-label", `Traces of the chosen bin over ${points.length} places. Now ${words}`);
}

// Measured only when it changes: asking while dragging would lay out the whole page each time.
new ResizeObserver(([{ contentRect }]) => {
  trace.size = [contentRect.width || 600, contentRect.height || 270];
  if (trace.points.length) drawTrace();
}).observe($("trace"));
