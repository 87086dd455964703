// The picture: samples, painting, photographs; and what was detected in it.

"use strict";

const PAINTS = [
  ["#d7263d", "red"],
  ["#f2b705", "yellow"],
  ["#2a9d5c", "green"],
  ["#2166c4", "blue"],
  ["#f4f1ea", "white"],
  ["#2b2b2b", "black"],
];
const TOOLS = ["look", "circle", "square", "triangle", "star", "ring", "brush"];
const LARGEST_SIDE = 160; // of a photograph: the network has seen pictures of 128 pixels

const sheet = document.createElement("canvas"); // the picture, pixel by pixel
const paper = sheet.getContext("2d", { willReadFrequently: true });
const paint = { tool: "look", colour: PAINTS[0][0], undo: [], cursor: null, turn: 0.3 };

// The sheet's pixels as numbers in 0..1, and off to the network with them.
function detectSheet() {
  const { width, height } = sheet;
  const bytes = paper.getImageData(0, 0, width, height).data;
  const pixels = new Float32Array(3 * width * height);
  for (let i = 0; i < width * height; i++)
    for (let c = 0; c < 3; c++) pixels[3 * i + c] = Math.fround(bytes[4 * i + c] / 255);
  app.detect({ height, width, pixels });
}

// Shows at once what is painted, and detects when there is time.
let detection = null;
function detectSoon() {
  stage.canvas.getContext("2d").drawImage(sheet, 0, 0);
  if (detection !== null) return;
  detection = setTimeout(() => {
    detection = null;
    detectSheet();
  }, 60);
}

function drawImage(image, width, height) {
  Object.assign(sheet, { width, height });
  paper.drawImage(image, 0, 0, width, height);
  paint.undo = [];
  detectSheet();
}

async function chooseSample(index) {
  const image = new Image();
  image.src = `data:image/png;base64,${SAMPLES[index]}`;
  await image.decode();
  if (app.state.picture !== index) return; // another was chosen meanwhile
  drawImage(image, image.naturalWidth, image.naturalHeight);
}

async function openPhotograph(file) {
  try {
    const image = await createImageBitmap(file);
    const scale = Math.min(1, LARGEST_SIDE / Math.max(image.width, image.height));
    app.set({ picture: -1, object: 0 });
    drawImage(image, Math.max(32, Math.round(image.width * scale)), Math.max(32, Math.round(image.height * scale)));
  } catch {
    $("stage-status").textContent = `“${file.name}” cannot be read as a picture. Try a JPEG or a PNG file.`;
  }
}

// A grey sheet with a little noise, as the network knows it; the same each time.
function emptySheet() {
  rememberSheet();
  Object.assign(sheet, { width: 128, height: 128 });
  const image = paper.createImageData(128, 128);
  for (let i = 0, seed = 1; i < 128 * 128; i++) {
    for (let c = 0; c < 3; c++) {
      seed = (seed * 16807) % 2147483647;
      image.data[4 * i + c] = 140 + 8 * c + (i % 128) / 8 + (seed % 13) - 6;
    }
    image.data[4 * i + 3] = 255;
  }
  paper.putImageData(image, 0, 0);
  app.set({ picture: -1, object: 0 });
  detectSheet();
}

// The outline of a shape around (x, y).
function outline(tool, x, y, radius, turn) {
  const path = new Path2D();
  const corners = { square: 4, triangle: 3, star: 10 }[tool];
  if (!corners) path.arc(x, y, radius, 0, 2 * Math.PI);
  if (tool === "ring") path.arc(x, y, 0.6 * radius, 0, 2 * Math.PI);
  for (let i = 0; i < (corners || 0); i++) {
    const angle = turn + (2 * Math.PI * i) / corners;
    const r = tool === "star" && i % 2 ? 0.45 * radius : radius;
    path.lineTo(x + r * Math.cos(angle), y + r * Math.sin(angle));
  }
  return path;
}

function paintAt([x, y], from = null) {
  paper.fillStyle = paper.strokeStyle = paint.colour;
  const size = Number($("paint-size").value);
  if (paint.tool === "brush") {
    Object.assign(paper, { lineWidth: size / 2, lineCap: "round" });
    paper.beginPath();
    paper.moveTo(...(from || [x, y]));
    paper.lineTo(x, y + 0.01);
    paper.stroke();
  } else {
    paint.turn += 0.7;
    paper.fill(outline(paint.tool, x, y, size, paint.turn), "evenodd");
  }
  app.set({ picture: -1 });
  detectSoon();
}

function rememberSheet() {
  paint.undo.push(paper.getImageData(0, 0, sheet.width, sheet.height));
  if (paint.undo.length > 30) paint.undo.shift();
}

const stage = new Frame("stage");

function makeStage() {
  let last = null;
  stage.element.tabIndex = 0;
  stage.element.setAttribute("role", "group");
  stage.element.addEventListener("pointerdown", (event) => {
    if (paint.tool === "look") return chooseAt(stage.point(event));
    stage.element.setPointerCapture(event.pointerId);
    rememberSheet();
    last = stage.point(event);
    paintAt(last);
  });
  stage.element.addEventListener("pointermove", (event) => {
    if (!last || paint.tool !== "brush") return;
    const point = stage.point(event);
    paintAt(point, last);
    last = point;
  });
  for (const end of ["pointerup", "pointercancel"])
    stage.element.addEventListener(end, () => {
      last = null;
    });
  stage.element.addEventListener("keydown", (event) => {
    const step = ARROWS[event.key];
    const cursor = paint.cursor || [sheet.width / 2, sheet.height / 2];
    if (step && paint.tool === "look") nextObject(step[0] + step[1]);
    else if (step) paint.cursor = [cursor[0] + 4 * step[0], cursor[1] + 4 * step[1]];
    else if (event.key === " " && paint.tool !== "look") {
      rememberSheet();
      paintAt(cursor);
    } else return;
    event.preventDefault();
    showStage(app.found, app.state);
  });
  stage.element.addEventListener("dragover", (event) => event.preventDefault());
  stage.element.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) openPhotograph(event.dataTransfer.files[0]);
  });
  $("photo").addEventListener("change", (event) => {
    if (event.target.files[0]) openPhotograph(event.target.files[0]);
  });
}

// With "look" a finger scrolls the page, and a click chooses the object under it.
function chooseTool(tool) {
  paint.tool = tool;
  paint.cursor = null;
  stage.element.classList.toggle("draws", tool !== "look");
  showStage(app.found, app.state);
}

function chooseAt([x, y]) {
  const { pasted, picture } = app.found;
  const area = picture.height * picture.width;
  const p = Math.floor(y) * picture.width + Math.floor(x);
  const under = shownObjects(app.found, app.state).find((i) => pasted.data[i * area + p] >= 0.5);
  if (under !== undefined) app.set({ object: under, drawn: "" });
}

function nextObject(step) {
  const shown = shownObjects(app.found, app.state);
  const place = shown.indexOf(chosenObject(app.found, app.state)) + step;
  if (shown.length) app.set({ object: shown[(place + shown.length) % shown.length], drawn: "" });
}

function pressed(group, make, isChosen) {
  const buttons = make.map(([name, html, choose]) => {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", innerHTML: html });
    button.setAttribute("aria-label", name);
    button.addEventListener("click", () => {
      choose();
      mark();
    });
    group.append(button);
    return button;
  });
  const mark = () => buttons.forEach((button, i) => button.setAttribute("aria-pressed", isChosen(i)));
  mark();
  return mark;
}

function makeControls() {
  const choose = (index) => {
    app.set({ picture: index, object: 0, roi: "", drawn: "" });
    chooseSample(index);
  };
  const samples = SAMPLES.map((data, i) => [
    `Sample picture ${i + 1}`,
    `<img alt="" src="data:image/png;base64,${data}">`,
    () => choose(i),
  ]);
  app.part(
    ["picture"],
    pressed($("samples"), samples, (i) => i === app.state.picture),
  );
  pressed(
    $("tools"),
    TOOLS.map((tool) => [tool, tool, () => chooseTool(tool)]),
    (i) => TOOLS[i] === paint.tool,
  );
  const colours = PAINTS.map(([colour, name]) => [
    name,
    swatch(colour),
    () => {
      paint.colour = colour;
    },
  ]);
  pressed($("colours"), colours, (i) => PAINTS[i][0] === paint.colour);
  $("paint-empty").addEventListener("click", emptySheet);
  $("paint-undo").addEventListener("click", () => {
    const before = paint.undo.pop();
    if (!before) return;
    Object.assign(sheet, { width: before.width, height: before.height });
    paper.putImageData(before, 0, 0);
    detectSheet();
  });
  const size = () => {
    $("paint-size-out").textContent = `${$("paint-size").value} pixels`;
  };
  $("paint-size").addEventListener("input", size);
  size();
  for (const id of ["show-masks", "show-boxes"])
    $(id).addEventListener("change", () => showStage(app.found, app.state));
  slider("score", "score", (value) => number(value));
}

// The objects with a score of at least the state's, the best first.
const shownObjects = ({ detections }, { score }) =>
  detections.scores.flatMap((value, i) => (value >= score ? [i] : []));

const nameOf = ({ detections }, i) => `${CLASSES[detections.labels[i]]} ${number(detections.scores[i])}`;

function showStage(found, state) {
  const { picture, detections, pasted } = found;
  const { height, width } = picture;
  const shown = shownObjects(found, state);
  const view = picturePixels(picture);
  const masks = pasted.data;
  const area = height * width;
  if ($("show-masks").checked) {
    for (const i of [...shown].reverse()) {
      const colour = rgbOf(CLASS_COLOURS[detections.labels[i]]);
      for (let p = 0; p < area; p++) {
        if (masks[i * area + p] >= 0.5)
          for (let c = 0; c < 3; c++) view.pixels[4 * p + c] = 0.5 * view.pixels[4 * p + c] + 0.5 * colour[c];
      }
    }
  }
  stage.paint(view);
  const chosen = chosenObject(found, state);
  const lines = [...shown].reverse().map((i) => {
    const box = boxOf(detections.boxes, i);
    const colour = CLASS_COLOURS[detections.labels[i]];
    return [
      outlined(box, { stroke: colour, width: i === chosen ? 4 : 2 }),
      label(box, nameOf(found, i), colour, width / 26, width),
    ];
  });
  const boxes = lines.map(([box]) => box);
  const names = lines.map(([, name]) => name);
  const cursor = paint.cursor ? dot(...paint.cursor, 1.5, "none", { stroke: "#000", "stroke-width": 0.7 }) : "";
  stage.draw($("show-boxes").checked ? [boxes, names] : [], cursor);
  const count = shown.length === 1 ? "1 object" : `${shown.length || "No"} objects`;
  $("stage-status").textContent = `${count} found in ${Math.round(app.milliseconds)} ms, on your machine.`;
}

function showObjects(found, state) {
  const shown = shownObjects(found, state);
  const chosen = chosenObject(found, state);
  const list = $("objects");
  const hadFocus = list.contains(document.activeElement);
  list.textContent = shown.length ? "" : "No object has such a score. Choose another picture, or a lower score.";
  pressed(
    list,
    shown.map((i) => [
      nameOf(found, i),
      `${swatch(CLASS_COLOURS[found.detections.labels[i]])}${nameOf(found, i)}`,
      () => app.set({ object: i, drawn: "" }),
    ]),
    (k) => shown[k] === chosen,
  );
  if (hadFocus) list.querySelector('[aria-pressed="true"]')?.focus();
}

makeStage();
app.part(["score", "object"], showStage);
app.part(["score", "object"], showObjects);
