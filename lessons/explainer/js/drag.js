// Part 6: taking hold of the region, by pointer, touch or keys, and its buttons.

"use strict";

const LEAST = 2; // pixels that the region keeps of its width and height

// What can be held: which of x1, y1, x2, y2 move with it. Corners and edges are wide for fingers, and not seen.
const HOLDS = {
  body: [0, 1, 2, 3],
  left: [0],
  right: [2],
  top: [1],
  bottom: [3],
  "top-left": [0, 1],
  "top-right": [2, 1],
  "bottom-left": [0, 3],
  "bottom-right": [2, 3],
};
const CURSORS = {
  body: "move",
  left: "ew-resize",
  right: "ew-resize",
  top: "ns-resize",
  bottom: "ns-resize",
  "top-left": "nwse-resize",
  "bottom-right": "nwse-resize",
  "top-right": "nesw-resize",
  "bottom-left": "nesw-resize",
};

// The SVG of what can be held: an area for the body, one for each edge and corner, and a small square at each corner.
function handles([x1, y1, x2, y2]) {
  const reach = Math.min(6, (x2 - x1) / 4, (y2 - y1) / 4);
  const out = 4;
  const areas = {
    body: [x1, y1, x2, y2],
    left: [x1 - out, y1, x1 + reach, y2],
    right: [x2 - reach, y1, x2 + out, y2],
    top: [x1, y1 - out, x2, y1 + reach],
    bottom: [x1, y2 - reach, x2, y2 + out],
    "top-left": [x1 - out, y1 - out, x1 + reach, y1 + reach],
    "top-right": [x2 - reach, y1 - out, x2 + out, y1 + reach],
    "bottom-left": [x1 - out, y2 - reach, x1 + reach, y2 + out],
    "bottom-right": [x2 - reach, y2 - reach, x2 + out, y2 + out],
  };
  const corners = [
    [x1, y1],
    [x2, y1],
    [x1, y2],
    [x2, y2],
  ];
  const seen = corners.map(([x, y]) => rectangle([x - 1.2, y - 1.2, x + 1.2, y + 1.2], { fill: "#fff", width: 1.5 }));
  return (
    seen.join("") +
    Object.entries(areas)
      .map(([hold, box]) =>
        rectangle(box, {
          stroke: "none",
          fill: "#fff",
          "fill-opacity": 0,
          "data-hold": hold,
          style: `cursor:${CURSORS[hold]}`,
        }),
      )
      .join("")
  );
}

// The region with some of its numbers moved by a step, within the map and not too small.
function moved(region, hold, [dx, dy]) {
  const [, height, width] = app.found.features.levels[0].shape;
  const limits = [4 * width, 4 * height];
  let steps = [dx, dy];
  if (hold === "body") steps = steps.map((step, k) => Math.min(Math.max(step, -region[k]), limits[k] - region[k + 2]));
  region = region.map((value, i) => Math.min(Math.max(value, i < 2 ? 0 : LEAST), limits[i % 2] - (i < 2 ? LEAST : 0)));
  const result = region.map((value, i) => (HOLDS[hold].includes(i) ? value + steps[i % 2] : value));
  for (const k of [0, 1]) {
    if (HOLDS[hold].length === 4) continue;
    if (HOLDS[hold].includes(k)) result[k] = Math.min(Math.max(result[k], 0), result[k + 2] - LEAST);
    if (HOLDS[hold].includes(k + 2)) result[k + 2] = Math.max(Math.min(result[k + 2], limits[k]), result[k] + LEAST);
  }
  return result.map((value) => Math.round(100 * value) / 100);
}

let drag = null;
for (const frame of [lab.picture, lab.pool, lab.align]) {
  frame.element.tabIndex = 0;
  frame.element.setAttribute("role", "group");
  // a finger on the region moves it, and beside it the page
  const stay = (event) => event.target.dataset?.hold && event.preventDefault();
  frame.element.addEventListener("touchstart", stay, { passive: false });
  frame.element.addEventListener("pointerdown", (event) => {
    const hold = event.target.dataset?.hold;
    if (!hold) return;
    event.preventDefault();
    frame.element.focus({ preventScroll: true });
    frame.element.setPointerCapture(event.pointerId);
    drag = { hold, from: frame.point(event), region: regionOf(app.found, app.state), frame };
  });
  frame.element.addEventListener("pointermove", (event) => {
    if (!drag || drag.frame !== frame) return;
    const [x, y] = frame.point(event);
    app.set({ roi: moved(drag.region, drag.hold, [x - drag.from[0], y - drag.from[1]]).join() });
  });
  for (const end of ["pointerup", "pointercancel"])
    frame.element.addEventListener(end, () => {
      drag = null;
    });
  frame.element.addEventListener("keydown", (event) => {
    const step = ARROWS[event.key];
    if (!step || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const size = event.shiftKey ? 0.1 : 1;
    const hold = event.altKey ? "bottom-right" : "body";
    app.set({
      roi: moved(
        regionOf(app.found, app.state),
        hold,
        step.map((value) => value * size),
      ).join(),
    });
  });
}

// The results: pointing chooses the bin, in both alike.
for (const frame of Object.values(results)) {
  frame.pick(
    () => [app.state.bins, app.state.bins],
    () => chosenBin(app.state),
    (bin) => app.set({ bin: bin.join() }),
  );
}

// Settings
chooser(
  "roi-level",
  "level",
  LEVELS.map((name, level) => [level, `P${name}, stride ${4 << level}`]),
);
for (const [id, key] of [
  ["roi-bins", "bins"],
  ["roi-ratio", "ratio"],
]) {
  $(id).addEventListener("change", (event) => app.set({ [key]: Number(event.target.value) }));
  app.part([key], (found, state) => {
    $(id).value = state[key];
  });
}
$("roi-aligned").addEventListener("change", (event) => app.set({ aligned: event.target.checked ? 1 : 0 }));
app.part(["aligned"], (found, state) => {
  $("roi-aligned").checked = Boolean(state.aligned);
});
slider("roi-channel", "roiChannel");
app.part(["object", "level", "roi", "bins", "ratio", "aligned", "bin", "roiChannel"], showLab);

// Buttons

// Moves the region to the right by two cells, a little each frame, and back where there is no room.
let sweeping = false;
function sweep() {
  if (sweeping) return;
  const start = regionOf(app.found, app.state);
  const length = 2 * strideOf(app.state);
  const steps = 120;
  const [, , width] = app.found.features.levels[0].shape;
  const direction = start[2] + length <= 4 * width ? 1 : -1;
  let k = 0;
  const step = () => {
    k += 1;
    app.set({ roi: moved(start, "body", [(direction * length * k) / steps, 0]).join() });
    sweeping = k < steps;
    if (sweeping) requestAnimationFrame(step);
  };
  sweeping = true;
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) return step();
  while (k < steps) {
    // all at once
    k += 1;
    app.state.roi = moved(start, "body", [(direction * length * k) / steps, 0]).join();
    showLab(app.found, app.state);
  }
  sweeping = false;
  app.writeAddress();
}

$("sweep").addEventListener("click", sweep);
$("wipe").addEventListener("click", () => {
  trace.points = [];
  if (app.found) showLab(app.found, app.state);
});
$("roi-object").addEventListener("click", () => app.set({ roi: "" }));
