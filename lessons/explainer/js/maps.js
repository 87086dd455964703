// Parts 2 and 3: the backbone's maps and the pyramid's levels; anchors and objectness.

"use strict";

const LEVELS = ["2", "3", "4", "5"];

// Eight maps, C2..C5 above P2..P5. The chosen cell is "row of maps, level, column, row".
const mapFrames = ["C", "P"].map((row, r) =>
  LEVELS.map((name, level) => {
    const figure = document.createElement("figure");
    const words = `Map ${row}${name}. Arrow keys move the cell.`;
    figure.innerHTML = `<div class="frame" data-label="${words}"></div><figcaption></figcaption>`;
    $("maps").append(figure);
    const frame = new Frame(figure.firstChild);
    frame.caption = figure.lastChild;
    frame.pick(
      () => {
        const [, height, width] = mapOf(app.found, r, level).shape;
        return [width, height];
      },
      () => {
        const cell = chosenCell(app.found, app.state);
        return cell.row === r && cell.level === level ? [cell.x, cell.y] : [0, 0];
      },
      ([x, y]) => app.set({ cell: [r, level, x, y].join() }),
    );
    return frame;
  }),
);
const mapPicture = new Frame("map-picture");

const mapOf = (found, row, level) => (row === 0 ? found.features.maps : found.features.levels)[level];

function chosenCell(found, state) {
  let [row, level, x, y] = [0, 1, 2, 3].map((i) => Math.trunc(numbersOf(state.cell)[i]) || 0);
  if (!state.cell) [row, level, x, y] = [1, 1, ...middleOf(found, state).map((value) => Math.floor(value / 8))];
  row = Math.min(Math.max(row, 0), 1);
  level = Math.min(Math.max(level, 0), 3);
  const [, height, width, channels] = mapOf(found, row, level).shape;
  return {
    row,
    level,
    x: Math.min(Math.max(x, 0), width - 1),
    y: Math.min(Math.max(y, 0), height - 1),
    channel: Math.min(state.channel, channels - 1),
  };
}

// The middle of the chosen object, or of the picture.
function middleOf(found, state) {
  const chosen = chosenObject(found, state);
  const { width, height } = found.picture;
  const box = chosen < 0 ? [0, 0, width, height] : boxOf(found.detections.boxes, chosen);
  return [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
}

function showMaps(found, state) {
  const chosen = chosenCell(found, state);
  mapFrames.forEach((frames, row) =>
    frames.forEach((frame, level) => {
      const map = mapOf(found, row, level);
      const [, height, width, channels] = map.shape;
      const stride = 4 << level;
      frame.paint(channelPixels(map, Math.min(state.channel, channels - 1)));
      const detail = `<span class="detail">, ${channels} channels, ${stride} pixels a cell</span>`;
      frame.caption.innerHTML = `<b>${"CP"[row]}${level + 2}</b> ${width} × ${height}${detail}`;
      const here = row === chosen.row && level === chosen.level;
      frame.draw(here ? outlined([chosen.x, chosen.y, chosen.x + 1, chosen.y + 1], { width: 2 }) : "");
    }),
  );
  const stride = 4 << chosen.level;
  const box = [chosen.x * stride, chosen.y * stride, (chosen.x + 1) * stride, (chosen.y + 1) * stride];
  mapPicture.paint(picturePixels(found.picture, 0.25));
  const field = chosen.row === 0 ? receptiveField(chosen.level, chosen) : null;
  mapPicture.draw(outlined(box, { width: 2.5 }), field ? outlined(field, { width: 1.5, dash: "5 4" }) : "");
  $("map-readout").innerHTML = chosen.row === 0 ? explainC(found, chosen) : explainP(found, chosen);
}

// The pixels [x1, y1, x2, y2] on which a cell of C2 to C5 depends, before they are cut at the picture's border: back
// through the blocks' 3x3 convolutions, the first of which strides, the stem's pooling and its 7x7 convolution.
function receptiveField(level, { x, y }) {
  const { depths, strides } = app.detector.config.resnet;
  const [left, top, right, bottom] = [x, y, x, y].map((cell, i) => {
    const outwards = i < 2 ? -1 : 1;
    for (let stage = level; stage >= 0; stage--) {
      cell = (cell + outwards * (2 * depths[stage] - 1)) * strides[stage] + outwards;
    }
    return 4 * cell + 5 * outwards;
  });
  return [left, top, right + 1, bottom + 1];
}

// The sum behind a cell of P: a 3x3 convolution over the lateral map plus what came down.
function explainP(found, { level, x, y, channel }) {
  const { merged, lateral, levels } = found.features;
  const layer = `backbone.fpn.layer_blocks.${level}.0`;
  const { sums, bias } = convolutionSums(app.detector.layers, layer, merged[level], [0, y, x], channel);
  const total = sums.flat().reduce((a, b) => a + b, 0);
  const own = at(lateral[level], 0, y, x, channel);
  const above = at(merged[level], 0, y, x, channel) - own;
  const from = follow(`C${level + 2}`, { cell: [0, level, x, y].join() }, "map-readout");
  const higher = [1, level + 1, Math.floor(x / 2), Math.floor(y / 2)].join();
  const down =
    level < 3 ? ` plus ${number(above)} from ${follow(`that of P${level + 3}`, { cell: higher }, "map-readout")}` : "";
  return `<p><strong>P${level + 2} = ${number(at(levels[level], 0, y, x, channel), 3)}</strong> at column ${x},
      row ${y},
      channel ${channel}.</p>
    <p>It is a 3 × 3 convolution over the merged map: at each of nine neighbours 64 channels times 64 weights.</p>
    ${numberGrid(sums, [1, 1])}
    <p>Sum ${number(total, 3)}, plus bias ${number(bias, 3)}: ${number(total + bias, 3)}. The merged map at this cell is
      ${number(own)} from ${from}${down}.</p>`;
}

// The sum behind a cell of C: the end of a residual block.
function explainC(found, { level, x, y, channel }) {
  const block = found.features.blocks[level];
  const { sums } = convolutionSums(app.detector.layers, `${block.name}.conv2`, block.inner, [0, y, x], channel);
  const total = sums.flat().reduce((a, b) => a + b, 0);
  const normal = at(block.normal, 0, y, x, channel);
  const shortcut = at(block.shortcut, 0, y, x, channel);
  const [left, , right] = receptiveField(level, { x, y });
  const finer = { cell: [0, level - 1, 2 * x, 2 * y].join() };
  const before = level > 0 ? `The stage began with ${follow(`C${level + 1}`, finer, "map-readout")}. ` : "";
  return `<p><strong>C${level + 2} = ${number(at(block.result, 0, y, x, channel), 3)}</strong>
      at column ${x}, row ${y}, channel ${channel}.</p>
    <p>It ends a residual block. The block’s last 3 × 3 convolution adds, over nine neighbours:</p>
    ${numberGrid(sums, [1, 1])}
    <p>Sum ${number(total, 3)}, normalised ${number(normal, 3)}, plus the shortcut ${number(shortcut, 3)}:
      ${number(normal + shortcut, 3)}${normal + shortcut < 0 ? "; the ReLU makes it 0" : ""}.</p>
    <p>${before}Back at the pixels, it depends on ${right - left} × ${right - left}, the dashed square, as far as
      it lies on the picture.</p>`;
}

slider("channel", "channel");
app.part(["channel", "cell", "object"], showMaps);

// Anchors and objectness

const rpnFrame = new Frame("rpn");
chooser(
  "rpn-level",
  "rpn",
  LEVELS.map((name, level) => [level, `P${name}`]),
);
rpnFrame.pick(
  () => {
    const [, height, width] = app.found.features.levels[app.state.rpn].shape;
    return [width, height];
  },
  () => anchorCell(app.found, app.state),
  (cell) => app.set({ rpnCell: cell.join() }),
);

// The cell of which the anchors are shown: without another choice, the one whose best anchor is the surest.
function anchorCell(found, state) {
  const map = found.rpn.logits[state.rpn];
  const [, height, width, anchors] = map.shape;
  if (!state.rpnCell) {
    const cell = Math.floor(bestFirst(map.data)[0] / anchors);
    return [cell % width, Math.floor(cell / width)];
  }
  return cellOf(state.rpnCell, [width, height]);
}

function showRpn(found, state) {
  const { rpn, picture, batch } = found;
  const level = state.rpn;
  const stride = 4 << level;
  const [, height, width] = rpn.logits[level].shape;
  const [x, y] = anchorCell(found, state);
  // the picture, and over it each cell as blue as its best anchor is sure
  const [, fullHeight, fullWidth] = batch.image.shape;
  const view = picturePixels(picture, 0.35);
  const best = (row, column) => sigmoid(Math.max(...[0, 1, 2].map((a) => at(rpn.logits[level], 0, row, column, a))));
  const shades = Array.from({ length: height }, (_, row) =>
    Array.from({ length: width }, (_, column) => best(row, column)),
  );
  for (let i = 0; i < picture.height; i++) {
    for (let j = 0; j < picture.width; j++) {
      const share = 0.75 * shades[Math.floor(i / stride)][Math.floor(j / stride)];
      const p = 4 * (i * picture.width + j);
      BLUE.forEach((colour, c) => {
        view.pixels[p + c] += share * (colour - view.pixels[p + c]);
      });
    }
  }
  rpnFrame.paint(padded(view, fullHeight, fullWidth));
  const colours = ["#d55e00", "#22262b", "#b3247a"];
  const rows = [];
  const lines = [outlined([x * stride, y * stride, (x + 1) * stride, (y + 1) * stride], { width: 1.5 })];
  let answer = null;
  for (let a = 0; a < 3; a++) {
    const i = 3 * (y * width + x) + a;
    const anchor = boxOf(rpn.anchors[level], i);
    const logit = rpn.logits[level].data[i];
    const delta = Array.from(rpn.deltas[level].data.subarray(4 * i, 4 * i + 4));
    const box = app.detector.decode(delta, anchor, [1, 1, 1, 1]);
    lines.push(
      rectangle(anchor, { stroke: colours[a], dash: "4 4", width: 1.5 }),
      outlined(box, { stroke: colours[a], width: 2.5 }),
    );
    rows.push([
      `${swatch(colours[a])} ${Math.round(anchor[2] - anchor[0])} × ${Math.round(anchor[3] - anchor[1])}`,
      number(logit),
      percent(sigmoid(logit)),
      ...delta.map((d) => number(d)),
    ]);
    if (answer === null || logit > answer.logit) answer = { logit, a };
  }
  rpnFrame.draw(lines);
  const terms = pointwiseTerms(app.detector.layers, "rpn.head.cls_logits", rpn.hidden[level], [0, y, x], answer.a);
  const size = app.detector.config.rpn.anchor_sizes[level][0];
  $("rpn-readout").innerHTML =
    `<p>P${level + 2}, column ${x}, row ${y}. Its three anchors have the area of ${size} × ${size} pixels:</p>
    ${table(["pixels", "logit", "object", "dx", "dy", "dw", "dh"], rows)}
    <p>The best logit is a sum of 64 products, of the hidden map at this cell with weights:</p>
    ${termsTable(terms, answer.logit, "logit")}`;
}

// Pixels with a white margin at the right and the bottom.
function padded({ height, width, pixels }, fullHeight, fullWidth) {
  const full = new Uint8ClampedArray(4 * fullHeight * fullWidth).fill(255);
  for (let y = 0; y < height; y++) full.set(pixels.subarray(4 * y * width, 4 * (y + 1) * width), 4 * y * fullWidth);
  return { height: fullHeight, width: fullWidth, pixels: full };
}

app.part(["rpn", "rpnCell"], showRpn);
