// Part 11: two challenges with the region of part 6, and one with a drawn mask. The answers are in the page's address.

"use strict";

$("remember").addEventListener("click", () => app.set({ remembered: regionOf(app.found, app.state).join() }));

function showRegions(found, state) {
  const before = numbersOf(state.remembered);
  if (before.length !== 4 || !before.every(Number.isFinite)) {
    $("regions-readout").innerHTML = "<p>No region is remembered yet.</p>";
    return;
  }
  const now = regionOf(found, state);
  const distance = Math.max(...now.map((value, i) => Math.abs(value - before[i])));
  const [old, recent] = [before, now].map((region) => poolRegion(found, state, region));
  const change = (kind) => recent[kind].reduce((most, value, i) => Math.max(most, Math.abs(value - old[kind][i])), 0);
  const pool = change("pool");
  const align = change("align");
  const said = [];
  if (distance > 0 && distance <= 0.1001 && pool > 10 * align)
    said.push("Told apart by RoIPool, a tenth of a pixel away. Solved.");
  if (distance >= 1 && pool === 0) said.push("Moved by a pixel or more, and RoIPool did not notice. Solved.");
  const rows = [
    ["remembered", ...before.map((value) => number(value))],
    ["now", ...now.map((value) => number(value))],
  ];
  $("regions-readout").innerHTML = `${table(["", "x1", "y1", "x2", "y2"], rows)}
    <p>At most ${number(distance)} pixels apart. The largest change of any bin:
      RoIPool <strong class="pool">${number(pool, 3)}</strong>,
      RoIAlign <strong class="align">${number(align, 3)}</strong>.</p>
    ${said.map((words) => `<p class="solved">${words}</p>`).join("")}`;
}

app.part(["remembered", "roi", "level", "bins", "ratio", "aligned", "object"], showRegions);

// Draw first, then see. The drawing is a grid of 28 x 28 cells, in the address as hexadecimal digits.

const SIDE = 28;
const drawFrame = new Frame("draw");
const drawing = { cells: new Uint8Array(SIDE * SIDE), seen: false, cursor: [14, 14], filling: null };

const toHex = (cells) => {
  let text = "";
  for (let i = 0; i < cells.length; i += 4)
    text += (cells[i] * 8 + cells[i + 1] * 4 + cells[i + 2] * 2 + cells[i + 3]).toString(16);
  return /[^0]/.test(text) ? text : "";
};
const fromHex = (text) =>
  Uint8Array.from({ length: SIDE * SIDE }, (_, i) => (parseInt(text[i >> 2] || "0", 16) >> (3 - (i & 3))) & 1);

// The picture within the chosen object's box, four pixels a cell.
function croppedPixels({ picture, detections }, chosen) {
  const size = 4 * SIDE;
  const pixels = new Uint8ClampedArray(4 * size * size);
  const [x1, y1, x2, y2] = boxOf(detections.boxes, chosen);
  for (let i = 0; i < size * size; i++) {
    const x = Math.min(picture.width - 1, Math.floor(x1 + (((i % size) + 0.5) / size) * (x2 - x1)));
    const y = Math.min(picture.height - 1, Math.floor(y1 + ((Math.floor(i / size) + 0.5) / size) * (y2 - y1)));
    for (let c = 0; c < 3; c++) pixels[4 * i + c] = 255 * picture.pixels[3 * (y * picture.width + x) + c];
    pixels[4 * i + 3] = 255;
  }
  return { height: size, width: size, pixels };
}

objectPart(["drawn"], "draw-readout", [drawFrame], (found, state, chosen) => {
  drawing.cells = fromHex(state.drawn);
  if (!state.drawn) drawing.seen = false;
  showDrawing(found, chosen);
});

function showDrawing(found, chosen) {
  drawFrame.paint(croppedPixels(found, chosen), [SIDE, SIDE]);
  const mask = found.masks.data.subarray(chosen * SIDE * SIDE, (chosen + 1) * SIDE * SIDE);
  const theirs = mask.map((share) => (share >= 0.5 ? 1 : 0));
  const cell = (i, fill) =>
    `<rect x="${i % SIDE}" y="${Math.floor(i / SIDE)}" width="1.02" height="1.02" fill="${fill}" fill-opacity="0.55"/>`;
  const squares = Array.from(drawing.cells, (mine, i) => {
    if (!drawing.seen) return mine ? cell(i, ALIGN) : "";
    if (mine && theirs[i]) return cell(i, "#ffffff");
    return mine ? cell(i, ALIGN) : theirs[i] ? cell(i, POOL) : "";
  });
  const [x, y] = drawing.cursor;
  drawFrame.draw(squares, outlined([x, y, x + 1, y + 1], { width: 1.5 }));
  const count = drawing.cells.reduce((a, b) => a + b, 0);
  if (!drawing.seen) {
    $("draw-readout").innerHTML = `<p>${count} of 784 cells are drawn.</p>`;
    return;
  }
  const both = theirs.reduce((total, one, i) => total + one * drawing.cells[i], 0);
  const all = theirs.reduce((a, b) => a + b, 0) + count - both;
  const iou = both / (all || 1);
  $("draw-readout").innerHTML = `<p>You and the network agree on <strong>${both}</strong> of ${all} cells: an IoU of
      <strong>${number(iou)}</strong>.</p>
    <p>White: both. <span class="align">Blue</span>: only you. <span class="pool">Orange</span>: only the network.</p>
    ${iou >= 0.8 ? '<p class="solved">At least 0.80. Solved.</p>' : "<p>Can you reach 0.80 without looking?</p>"}`;
}

// A brush of five cells, or with the keys one cell.
function drawCells([column, row], fill, wide) {
  const cells = wide
    ? [
        [0, 0],
        [1, 0],
        [-1, 0],
        [0, 1],
        [0, -1],
      ]
    : [[0, 0]];
  for (const [dx, dy] of cells) {
    const x = column + dx;
    const y = row + dy;
    if (x >= 0 && y >= 0 && x < SIDE && y < SIDE) drawing.cells[y * SIDE + x] = fill;
  }
  app.set({ drawn: toHex(drawing.cells) });
}

drawFrame.element.classList.add("draws");
drawFrame.pick(
  () => [SIDE, SIDE],
  () => drawing.cursor,
  (cell) => {
    drawing.cursor = cell;
    if (drawing.filling !== null) drawCells(cell, drawing.filling, true);
    const chosen = chosenObject(app.found, app.state);
    if (chosen >= 0) showDrawing(app.found, chosen);
  },
);
drawFrame.element.addEventListener("pointerdown", (event) => {
  drawFrame.element.setPointerCapture(event.pointerId);
  const [x, y] = drawing.cursor;
  drawing.filling = drawing.cells[y * SIDE + x] ? 0 : 1;
  drawCells(drawing.cursor, drawing.filling, true);
});
for (const end of ["pointerup", "pointercancel"])
  drawFrame.element.addEventListener(end, () => {
    drawing.filling = null;
  });
drawFrame.element.addEventListener("keydown", (event) => {
  if (event.key !== " ") return;
  event.preventDefault();
  const [x, y] = drawing.cursor;
  drawCells(drawing.cursor, drawing.cells[y * SIDE + x] ? 0 : 1, false);
});
$("draw-see").addEventListener("click", () => {
  drawing.seen = true;
  const chosen = chosenObject(app.found, app.state);
  if (chosen >= 0) showDrawing(app.found, chosen);
});
$("draw-clear").addEventListener("click", () => {
  drawing.seen = false;
  drawing.cells.fill(0);
  app.set({ drawn: "" });
  const chosen = chosenObject(app.found, app.state);
  if (chosen >= 0) showDrawing(app.found, chosen);
});
