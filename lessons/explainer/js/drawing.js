// How the page draws: a frame is a canvas of cells with an SVG of lines over it, in the same coordinates.

"use strict";

// The package's colours (tinymrcnn/draw/overlay.py), which people with any kind of colour vision tell apart.
const CLASS_COLOURS = ["#777777", "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#0072b2"];
const POOL = "#b84a00";
const ALIGN = "#0067a3";
const INK = "#22262b";
const BLUE = [0, 90, 156];
const ORANGE = [201, 84, 0];

const rgbOf = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));

// A number as people read it, with a true minus sign.
function number(value, digits = 2) {
  const text = Math.abs(value).toFixed(digits);
  return (value < 0 && Number(text) !== 0 ? "−" : "") + text;
}

const percent = (share) => `${Math.round(100 * share)} %`;

// White for 0, blue above, orange below; `largest` is the deepest.
function diverging(value, largest) {
  const share = Math.min(Math.abs(value) / (largest || 1), 1);
  const end = value < 0 ? ORANGE : BLUE;
  return end.map((channel) => 255 + (channel - 255) * share);
}

// One channel of a map [N, H, W, C] as pixels.
function channelPixels(map, channel, image = 0, shown = null) {
  const [, height, width, channels] = map.shape;
  const data = map.data;
  const pixels = new Uint8ClampedArray(4 * height * width);
  const first = image * height * width * channels + channel;
  let largest = shown;
  if (largest === null) {
    largest = 0;
    for (let i = 0; i < height * width; i++) largest = Math.max(largest, Math.abs(data[first + i * channels]));
  }
  for (let i = 0; i < height * width; i++) pixels.set([...diverging(data[first + i * channels], largest), 255], 4 * i);
  return { height, width, pixels };
}

// A picture of numbers in 0..1 as pixels. lighter: how far it is faded towards white.
function picturePixels({ height, width, pixels: numbers }, lighter = 0) {
  const pixels = new Uint8ClampedArray(4 * height * width);
  for (let i = 0; i < height * width; i++) {
    for (let c = 0; c < 3; c++) pixels[4 * i + c] = 255 * (numbers[3 * i + c] * (1 - lighter) + lighter);
    pixels[4 * i + 3] = 255;
  }
  return { height, width, pixels };
}

// Numbers in 0..1 as pixels from white to a colour.
function sharePixels(shares, height, width, colour = "#005a9c") {
  const end = rgbOf(colour);
  const pixels = new Uint8ClampedArray(4 * height * width);
  for (let i = 0; i < height * width; i++) pixels.set([...end.map((c) => 255 + (c - 255) * shares[i]), 255], 4 * i);
  return { height, width, pixels };
}

class Frame {
  constructor(element) {
    this.element = typeof element === "string" ? $(element) : element;
    this.element.textContent = "";
    this.canvas = this.element.appendChild(document.createElement("canvas"));
    this.svg = this.element.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "svg"));
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("aria-hidden", "true");
    if (this.element.dataset.label) {
      this.element.setAttribute("role", "img");
      this.element.setAttribute("aria-label", this.element.dataset.label);
    }
    this.size = [1, 1];
  }

  // view: the [width, height] of the lines' coordinates, the pixels' own without it.
  paint({ height, width, pixels }, view = [width, height]) {
    Object.assign(this.canvas, { width, height });
    this.canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
    this.size = view;
    this.svg.setAttribute("viewBox", `0 0 ${view.join(" ")}`);
  }

  draw(...markup) {
    this.svg.innerHTML = markup.flat(3).join("");
  }

  // Where an event is, in the lines' coordinates.
  point(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * this.size[0],
      ((event.clientY - box.top) / box.height) * this.size[1],
    ];
  }

  // Choosing a cell of a grid by pointer or arrow keys. grid(): [columns, rows]; get(): the cell [column, row] now.
  pick(grid, get, set) {
    const within = ([column, row]) => {
      const [columns, rows] = grid();
      return [Math.min(Math.max(column, 0), columns - 1), Math.min(Math.max(row, 0), rows - 1)];
    };
    const byPointer = (event) => {
      const [x, y] = this.point(event);
      const [columns, rows] = grid();
      set(within([Math.floor((x / this.size[0]) * columns), Math.floor((y / this.size[1]) * rows)]));
    };
    this.element.tabIndex = 0;
    this.element.setAttribute("role", "group");
    this.element.addEventListener("pointermove", byPointer);
    this.element.addEventListener("pointerdown", byPointer);
    this.element.addEventListener("keydown", (event) => {
      const step = ARROWS[event.key];
      if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      const [column, row] = get();
      set(within([column + step[0], row + step[1]]));
    });
  }
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

// Lines for a frame's SVG

function attributes(values) {
  return Object.entries(values)
    .map(([name, value]) => `${name}="${value}"`)
    .join(" ");
}

// box: x1, y1, x2, y2. dash: in pixels of the screen.
function rectangle([x1, y1, x2, y2], { stroke = INK, width = 2, dash = "", fill = "none", ...others } = {}) {
  return `<rect ${attributes({
    x: x1,
    y: y1,
    width: Math.max(x2 - x1, 0),
    height: Math.max(y2 - y1, 0),
    stroke,
    fill,
    "stroke-width": width,
    "stroke-dasharray": dash,
    "vector-effect": "non-scaling-stroke",
    ...others,
  })}/>`;
}

// The same on a white line, so that it is seen on any ground.
function outlined(box, options = {}) {
  const wide = (options.width || 2) + 2;
  return rectangle(box, { ...options, stroke: "#fff", width: wide, "stroke-opacity": 0.8 }) + rectangle(box, options);
}

function dot(x, y, radius, fill, others = {}) {
  return `<circle ${attributes({ cx: x, cy: y, r: radius, fill, ...others })}/>`;
}

function isDark(colour) {
  const [red, green, blue] = rgbOf(colour);
  return 0.3 * red + 0.59 * green + 0.11 * blue < 140;
}

// A name on a ground of its own colour, above a box or just inside of it, and left of `limit`.
function label(box, words, colour, size, limit) {
  const height = 1.25 * size;
  const width = 0.47 * size * words.length + 0.5 * size;
  const x = Math.max(0, Math.min(box[0], limit - width));
  const y = box[1] >= height ? box[1] - height : Math.max(0, box[1]);
  return `<rect ${attributes({ x, y, width, height, fill: colour })}/><text ${attributes({
    x: x + 0.25 * size,
    y: y + 0.95 * size,
    "font-size": size,
    "font-family": "sans-serif",
    fill: isDark(colour) ? "#fff" : "#000",
  })}>${words}</text>`;
}

// Tables and sums for the answers

const swatch = (colour) => `<span class="swatch" style="background:${colour}"></span>`;

function table(head, rows) {
  const one = (cell, tag) =>
    String(cell).includes(" + ") ? `<${tag} class="wraps">${cell}</${tag}>` : `<${tag}>${cell}</${tag}>`;
  const row = (cells, tag) => `<tr>${cells.map((cell) => one(cell, tag)).join("")}</tr>`;
  const lines = [head.length ? row(head, "th") : "", ...rows.map((cells) => row(cells, "td"))];
  return `<div class="scroll"><table>${lines.join("")}</table></div>`;
}

// values: rows of numbers, coloured as in the maps. strong: the [row, column] that is set off.
function numberGrid(values, strong = null, digits = 2) {
  const largest = Math.max(1e-9, ...values.flat().map(Math.abs));
  const cell = (value, i, j) => {
    const [r, g, b] = diverging(value, 2 * largest);
    const chosen = strong && strong[0] === i && strong[1] === j;
    const text = chosen ? `<strong>${number(value, digits)}</strong>` : number(value, digits);
    return `<td style="background:rgb(${r},${g},${b})${chosen ? ";outline:2px solid #22262b" : ""}">${text}</td>`;
  };
  const rows = values.map((row, i) => `<tr>${row.map((value, j) => cell(value, i, j)).join("")}</tr>`);
  return `<div class="scroll"><table class="grid">${rows.join("")}</table></div>`;
}
