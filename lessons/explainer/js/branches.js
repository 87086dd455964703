// Parts 7 to 10: the box branch, the mask forming, sigmoid against softmax, and the mask in the picture.

"use strict";

const boxFrame = new Frame("box");
const maskFrame = new Frame("mask");
const pasteFrame = new Frame("paste");
const NOTHING = "<p>Nothing was found in this picture, so there is nothing to look at here.</p>";

// What a part shows when there is a chosen object, and when there is none.
function objectPart(keys, readout, frames, show) {
  app.part(["object", ...keys], (found, state) => {
    const chosen = chosenObject(found, state);
    if (chosen >= 0) return show(found, state, chosen);
    frames.forEach((frame) => {
      frame.paint(picturePixels(found.picture, 0.5));
      frame.draw();
    });
    $(readout).innerHTML = NOTHING;
  });
}

// The box branch

objectPart([], "box-readout", [boxFrame], (found, state, chosen) => {
  const { box, proposals, detections } = found;
  const source = detections.sources[chosen];
  const label = detections.labels[chosen];
  const proposal = boxOf(proposals.boxes, source);
  const corrected = boxOf(detections.boxes, chosen);
  const classes = CLASSES.length;
  boxFrame.paint(picturePixels(found.picture, 0.25));
  boxFrame.draw(outlined(proposal, { dash: "5 4" }), outlined(corrected, { stroke: CLASS_COLOURS[label], width: 3 }));
  const logits = box.logits.data.subarray(source * classes, (source + 1) * classes);
  const shares = softmax(logits);
  const rows = CLASSES.map((name, k) => [
    k === label ? `<strong>${name}</strong>` : name,
    number(logits[k]),
    percent(shares[k]),
    `<span class="bar" style="width:${(7 * shares[k]).toFixed(2)}rem;background:${CLASS_COLOURS[k]}"></span>`,
  ]);
  const first = 4 * (source * classes + label);
  const weights = app.detector.config.box.weights;
  const [dx, dy, dw, dh] = Array.from(box.deltas.data.subarray(first, first + 4), (delta, i) => delta / weights[i]);
  const width = proposal[2] - proposal[0];
  const height = proposal[3] - proposal[1];
  const x = (proposal[0] + proposal[2]) / 2;
  const y = (proposal[1] + proposal[3]) / 2;
  $("box-readout").innerHTML =
    `<p>Proposal ${source + 1} of ${proposals.kept.length}, cut from P${box.levelOf[source] + 2}. A softmax over its
      logits:</p>
    ${table(["class", "logit", "score", ""], rows)}
    <p>The correction for “${CLASSES[label]}”:</p>
    ${table(
      [],
      [
        ["centre x", `${number(x, 1)} + ${number(dx)} × ${number(width, 1)}`, `= ${number(x + dx * width, 1)}`],
        ["centre y", `${number(y, 1)} + ${number(dy)} × ${number(height, 1)}`, `= ${number(y + dy * height, 1)}`],
        ["width", `${number(width, 1)} × e<sup>${number(dw)}</sup>`, `= ${number(width * Math.exp(dw), 1)}`],
        ["height", `${number(height, 1)} × e<sup>${number(dh)}</sup>`, `= ${number(height * Math.exp(dh), 1)}`],
      ],
    )}`;
});

// The mask forms

const STEPS = [
  "the region’s features, 14 × 14",
  "convolution 1",
  "convolution 2",
  "convolution 3",
  "convolution 4",
  "transposed convolution, 28 × 28",
  "logits of the class",
  "probability",
];

// The array of a step, [D, size, size, C], and which channel is shown.
function maskStep(found, state, chosen) {
  const { mask, masks, detections } = found;
  if (state.step < 6) return [mask.steps[state.step], state.maskChannel];
  if (state.step === 6) return [mask.logits, detections.labels[chosen]];
  return [masks.reshape(...masks.shape, 1), 0];
}

maskFrame.pick(
  () => {
    const [map] = maskStep(app.found, app.state, 0);
    return [map.shape[2], map.shape[1]];
  },
  () => maskCell(app.state),
  ([x, y]) => app.set({ maskCell: (app.state.step < 5 ? [2 * x, 2 * y] : [x, y]).join() }),
);

// The cell [column, row] on the grid of the step; the state keeps it on the grid of 28.
function maskCell(state) {
  const cell = cellOf(state.maskCell, [28, 28]);
  return state.step < 5 ? cell.map((value) => Math.floor(value / 2)) : cell;
}

objectPart(["step", "maskChannel", "maskCell"], "mask-readout", [maskFrame], (found, state, chosen) => {
  const [map, channel] = maskStep(found, state, chosen);
  const [x, y] = maskCell(state);
  const [, height, width] = map.shape;
  const shares = () =>
    sharePixels(map.data.subarray(chosen * height * width, (chosen + 1) * height * width), height, width);
  maskFrame.paint(state.step === 7 ? shares() : channelPixels(map, channel, chosen));
  maskFrame.draw(outlined([x, y, x + 1, y + 1], { width: 2 }));
  $("mask-channel").disabled = state.step > 5;
  $("mask-readout").innerHTML = explainMask(found, state, chosen, map, channel, [x, y]);
});

function explainMask(found, state, chosen, map, channel, [x, y]) {
  const { detector } = app;
  const { layers } = detector;
  const { mask, detections } = found;
  const heads = "roi_heads";
  const { step } = state;
  const label = detections.labels[chosen];
  const value = at(map, chosen, y, x, channel);
  const place = `column ${x}, row ${y}`;
  const title = `<p><strong>${number(value, 3)}</strong> at ${place}${step < 6 ? `, channel ${channel}` : ""}.</p>`;
  if (step === 0) {
    const level = mask.levelOf[chosen];
    const box = Array.from(boxOf(detections.boxes, chosen));
    const { sampling_ratio, aligned } = detector.config.pooler;
    const [across, down] = [0, 1].map((k) =>
      alignAxis(detector.kernels, box[k], box[k + 2], 1 / (4 << level), 14, sampling_ratio, aligned),
    );
    const samples = alignBin(detector.kernels, found.features.levels[level], across[x], down[y], channel);
    const nearest = [1, level, Math.round(samples[0].x), Math.round(samples[0].y)].join();
    const cell = follow("a cell of it", { cell: nearest, channel }, "map-readout");
    return `${title}<p>RoIAlign on P${level + 2}; see ${cell}.</p>${explainAlign(samples, aligned)}`;
  }
  if (step <= 4) {
    const { sums, bias } = convolutionSums(
      layers,
      `${heads}.mask_head.${step - 1}.0`,
      mask.steps[step - 1],
      [chosen, y, x],
      channel,
    );
    const total = sums.flat().reduce((a, b) => a + b, 0) + bias;
    const before = follow("step before", { step: step - 1 }, "mask-readout");
    return `${title}<p>Nine neighbours in the ${before}, 64 channels each, times weights:</p>${numberGrid(sums, [1, 1])}
      <p>With bias ${number(bias, 3)}: ${number(total, 3)}${total < 0 ? "; the ReLU makes it 0" : ""}.</p>`;
  }
  if (step === 5) {
    const layer = `${heads}.mask_predictor.conv5_mask`;
    const {
      shape: [channels, outputs],
      numbers,
    } = layers.weights[`${layer}.weight`];
    const from = [Math.floor(x / 2), Math.floor(y / 2)];
    const place4 = 2 * (y % 2) + (x % 2);
    let sum = 0;
    for (let c = 0; c < channels; c++)
      sum += at(mask.steps[4], chosen, from[1], from[0], c) * numbers[(c * outputs + channel) * 4 + place4];
    const bias = layers.weights[`${layer}.bias`].numbers[channel];
    const total = sum + bias;
    const cell = follow(`column ${from[0]}, row ${from[1]}`, { step: 4 }, "mask-readout");
    return `${title}<p>Each cell of 14 × 14 becomes four, each with weights of its own. This one comes from ${cell}:
      64 products add up to ${number(sum, 3)}, with bias ${number(bias, 3)}:
      ${number(total, 3)}${total < 0 ? "; the ReLU makes it 0" : ""}.</p>`;
  }
  const logit = at(mask.logits, chosen, y, x, label);
  const terms = pointwiseTerms(layers, `${heads}.mask_predictor.mask_fcn_logits`, mask.steps[5], [chosen, y, x], label);
  const end = step === 7 ? `<p>Sigmoid: 1 / (1 + e<sup>${number(-logit)}</sup>) = ${number(value, 3)}.</p>` : "";
  const hidden = follow("the step before", { step: 5, maskChannel: terms.terms[0].channel }, "mask-readout");
  return `${title}<p>The logit of “${CLASSES[label]}” is a sum of 64 products, of ${hidden} with weights:</p>
    ${termsTable(terms, logit, "logit")}${end}`;
}

slider("mask-step", "step", (step) => STEPS[step] || "");
slider("mask-channel", "maskChannel");

// Sigmoid against softmax

const classFrames = CLASSES.slice(1).map((name, i) => {
  const figure = document.createElement("figure");
  figure.innerHTML = `<div class="frame" data-label="Logits of ${name}."></div><figcaption>${name}</figcaption>`;
  $("classes").append(figure);
  return new Frame(figure.firstChild);
});
$("classes").classList.add("six");
const readings = { sigmoid: new Frame("by-sigmoid"), softmax: new Frame("by-softmax") };
for (const frame of [...classFrames, ...Object.values(readings)]) {
  frame.pick(
    () => [28, 28],
    () => maskCell({ ...app.state, step: 7 }),
    (cell) => app.set({ maskCell: cell.join() }),
  );
}

objectPart(["maskCell"], "classes-readout", [...classFrames, ...Object.values(readings)], (found, state, chosen) => {
  const { mask, detections } = found;
  const label = detections.labels[chosen];
  const classes = CLASSES.length;
  const cells = 28 * 28;
  const logits = mask.logits.data.subarray(chosen * cells * classes, (chosen + 1) * cells * classes);
  const [x, y] = maskCell({ ...state, step: 7 });
  const cell = [x, y, x + 1, y + 1];
  const largest = 8;
  classFrames.forEach((frame, i) => {
    frame.paint(channelPixels(mask.logits, i + 1, chosen, largest));
    frame.draw(outlined(cell, { width: 1.5 }));
    frame.element.nextSibling.innerHTML = i + 1 === label ? `<strong>${CLASSES[i + 1]}</strong>` : CLASSES[i + 1];
  });
  // the softmax runs over the classes that the sigmoid trained; channel 0, the background, no loss ever looked at
  const own = (i) => logits.subarray(i * classes + 1, (i + 1) * classes);
  const shares = { sigmoid: new Float32Array(cells), softmax: new Float32Array(cells) };
  for (let i = 0; i < cells; i++) {
    shares.sigmoid[i] = sigmoid(logits[i * classes + label]);
    shares.softmax[i] = softmax([0, ...own(i)])[label];
  }
  for (const [name, frame] of Object.entries(readings)) {
    frame.paint(
      sharePixels(
        shares[name].map((share) => (share >= 0.5 ? 1 : 0.25 * share)),
        28,
        28,
        CLASS_COLOURS[label],
      ),
    );
    frame.draw(outlined(cell, { width: 2 }));
  }
  const count = (numbers) => numbers.filter((share) => share >= 0.5).length;
  const here = y * 28 + x;
  const compete = softmax([0, ...own(here)]);
  const rows = CLASSES.slice(1).map((name, i) => {
    const logit = own(here)[i];
    return [
      i + 1 === label ? `<strong>${name}</strong>` : name,
      number(logit),
      percent(sigmoid(logit)),
      percent(compete[i + 1]),
    ];
  });
  $("classes-readout").innerHTML =
    `<p>Column ${x}, row ${y}. Background has the logit 0 in the softmax: with one class alone the two then agree.</p>
    ${table(["class", "logit", "sigmoid", "softmax"], [["background", "0", "", percent(compete[0])], ...rows])}
    <p>The mask has <strong>${count(shares.sigmoid)}</strong> cells by the sigmoid,
      <strong>${count(shares.softmax)}</strong> by the softmax.</p>`;
});

// Back into the picture

function chosenPixel(found, state, chosen) {
  const { width, height } = found.picture;
  const box = boxOf(found.detections.boxes, chosen);
  const given = numbersOf(state.pixel);
  const middle = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
  const pixel = given.length === 2 && given.every(Number.isFinite) ? given : middle;
  return pixel.map((value, i) => Math.min(Math.max(Math.trunc(value), 0), [width, height][i] - 1));
}

pasteFrame.pick(
  () => [app.found.picture.width, app.found.picture.height],
  () => {
    const chosen = chosenObject(app.found, app.state);
    return chosen < 0 ? [0, 0] : chosenPixel(app.found, app.state, chosen);
  },
  (pixel) => app.set({ pixel: pixel.join() }),
);

objectPart(["pixel", "least"], "paste-readout", [pasteFrame], (found, state, chosen) => {
  const { picture, pasted, masks, detections } = found;
  const { width, height } = picture;
  const area = width * height;
  const shares = pasted.data.subarray(chosen * area, (chosen + 1) * area);
  const colour = rgbOf(CLASS_COLOURS[detections.labels[chosen]]);
  const view = picturePixels(picture, 0.35);
  const least = state.least;
  shares.forEach((share, p) => {
    if (share >= least)
      for (let c = 0; c < 3; c++) view.pixels[4 * p + c] = 0.3 * view.pixels[4 * p + c] + 0.7 * colour[c];
  });
  const [x, y] = chosenPixel(found, state, chosen);
  const box = Array.from(boxOf(detections.boxes, chosen));
  const side = (box[2] - box[0]) / 28;
  pasteFrame.paint(view);
  const taps = pasteTaps(app.detector.kernels, masks.data.subarray(chosen * 784, (chosen + 1) * 784), 28, 28, box, [
    x,
    y,
  ]);
  const inside =
    x + 0.5 > box[0] - side / 2 &&
    x + 0.5 < box[2] + side / 2 &&
    y + 0.5 > box[1] - side / 2 &&
    y + 0.5 < box[3] + side / 2;
  const tall = (box[3] - box[1]) / 28;
  const cells = inside
    ? taps.map(({ row, column }) =>
        rectangle(
          [box[0] + column * side, box[1] + row * tall, box[0] + (column + 1) * side, box[1] + (row + 1) * tall],
          { stroke: "#000", width: 1 },
        ),
      )
    : [];
  pasteFrame.draw(outlined(box, { dash: "5 4", width: 1.5 }), cells, outlined([x, y, x + 1, y + 1], { width: 2.5 }));
  const value = shares[y * width + x];
  const verdict = value >= least ? "it belongs to the object" : "it does not belong to the object";
  const rows = taps.map(({ row, column, weight, value: cell, inside: isCell }) => [
    isCell
      ? follow(`column ${column}, row ${row}`, { step: 7, maskCell: `${column},${row}` }, "mask-readout")
      : "outside",
    number(weight),
    `× ${number(cell, 3)}`,
    `= ${number(weight * cell, 3)}`,
  ]);
  $("paste-readout").innerHTML = inside
    ? `<p>Pixel (${x}, ${y}): <strong>${number(value, 3)}</strong>, ${verdict}. Its centre falls between four cells:</p>
       ${table(["cell", "weight", "cell’s value", ""], rows)}
       <p>Across, a cell is ${number(side)} pixels wide:
         (${x} + ½ − ${number(box[0])}) / ${number(side)} − ½ = column
         ${number((x + 0.5 - box[0]) / side - 0.5)}.</p>`
    : `<p>Pixel (${x}, ${y}) lies outside of the box: <strong>0</strong>.</p>`;
});
slider("mask-threshold", "least", (value) => number(value));
