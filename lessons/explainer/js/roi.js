// Part 6: RoIPool and RoIAlign side by side on a region that one drags.

"use strict";

const lab = {
  picture: new Frame("lab-picture"),
  pool: new Frame("lab-pool"),
  align: new Frame("lab-align"),
  found: null,
};
const results = { pool: new Frame("bins-pool"), align: new Frame("bins-align") };

const strideOf = (state) => 4 << state.level;

// The region [x1, y1, x2, y2]: the state's, or without one around the chosen object.
function regionOf(found, state) {
  const numbers = numbersOf(state.roi);
  if (numbers.length === 4 && numbers.every(Number.isFinite)) return moved(numbers, "bottom-right", [0, 0]);
  const i = chosenObject(found, state);
  const { width, height } = found.picture;
  const box =
    i < 0 ? [0.3 * width, 0.3 * height, 0.7 * width, 0.7 * height] : Array.from(boxOf(found.detections.boxes, i));
  return box.map((value) => Math.round(10 * value) / 10);
}

// Both operators on the region: [bins, bins, channels] each.
function poolRegion(found, state, region = regionOf(found, state)) {
  const { kernels } = app.detector;
  const map = found.features.levels[state.level];
  const { bins } = state;
  const channels = map.shape[3];
  return kernels.scratch(() => {
    const rois = kernels.arrayOf([0, ...region], [1, 5]);
    const scale = 1 / strideOf(state);
    const out = kernels.array([1, bins, bins, channels]);
    const places = kernels.array(out.shape, "int32");
    kernels.call("roi_pool", 0, 1, map, rois, scale, out, places);
    const pool = out.data.slice();
    kernels.call("roi_align", 0, 1, map, rois, scale, state.ratio, state.aligned, out);
    return { pool, align: out.data.slice() };
  });
}

const chosenBin = (state) => cellOf(state.bin, [state.bins, state.bins]);

function showLab(found, state) {
  const { kernels } = app.detector;
  const region = regionOf(found, state);
  const stride = strideOf(state);
  const scale = 1 / stride;
  const map = found.features.levels[state.level];
  const [, height, width, channels] = map.shape;
  const { bins } = state;
  const bin = chosenBin(state);
  const channel = state.roiChannel;
  const values = poolRegion(found, state, region);
  paintLab(found, state, map);
  lab.picture.draw(outlined(region, { width: 2.5 }), handles(region));

  // RoIPool: each bin's whole cells. Neighbouring bins may share some, so they are drawn a little smaller
  const columns = poolAxis(kernels, region[0], region[2], scale, bins, width);
  const rows = poolAxis(kernels, region[1], region[3], scale, bins, height);
  const inset = 0.06 * stride;
  const cellsOf = ([left, right], [top, bottom], d) => [
    left * stride + d,
    top * stride + d,
    right * stride - d,
    bottom * stride - d,
  ];
  const cells = rows.map((row) =>
    columns.map((column) => rectangle(cellsOf(column, row, inset), { stroke: POOL, width: 1 })),
  );
  const pooled = poolBin(map, columns[bin[0]], rows[bin[1]], channel);
  const binCells = cellsOf(columns[bin[0]], rows[bin[1]], 0);
  lab.pool.draw(
    outlined(region, { width: 1.5, dash: "5 4" }),
    cells,
    outlined(binCells, { stroke: POOL, width: 3.5 }),
    handles(region),
  );

  // RoIAlign: bins with their fractions. A cell's centre has the whole number, so half a cell is added to draw it
  const draw = (position) => (position + 0.5) * stride;
  const across = alignAxis(kernels, region[0], region[2], scale, bins, state.ratio, state.aligned);
  const down = alignAxis(kernels, region[1], region[3], scale, bins, state.ratio, state.aligned);
  const boxIn = (column, row) => [draw(column.start), draw(row.start), draw(column.end), draw(row.end)];
  const boxes = down.map((row) => across.map((column) => rectangle(boxIn(column, row), { stroke: ALIGN, width: 1 })));
  const samples = alignBin(kernels, map, across[bin[0]], down[bin[1]], channel);
  const reach = (width * stride) / 130;
  const big = samples.map(({ x, y }) =>
    dot(draw(x), draw(y), reach, ALIGN, { stroke: "#fff", "stroke-width": reach / 3 }),
  );
  const dots = down.flatMap((row) =>
    row.places.flatMap((y) =>
      across.flatMap((column) => column.places.map((x) => `M${draw(x).toFixed(2)} ${draw(y).toFixed(2)}h0`)),
    ),
  );
  lab.align.draw(
    outlined(region, { width: 1.5, dash: "5 4" }),
    boxes,
    `<path d="${dots.join("")}" stroke="${ALIGN}" stroke-width="${reach}" stroke-linecap="round"/>`,
    outlined(boxIn(across[bin[0]], down[bin[1]]), { stroke: ALIGN, width: 3.5 }),
    big,
    handles(region),
  );

  showBins(values, bins, bin, channel, channels);
  $("pool-readout").innerHTML = explainPool(pooled, values, bin, bins, channel, channels);
  $("align-readout").innerHTML = explainAlign(samples, state.aligned);
  leaveTrace(region, state, values, bin, channels, pooled);
}

// The picture and the map behind the lines, anew only when they are others.
function paintLab(found, state, map) {
  const stride = strideOf(state);
  const view = [map.shape[2] * stride, map.shape[1] * stride];
  if (lab.found === found && lab.level === state.level && lab.channel === state.roiChannel) return;
  Object.assign(lab, { found, level: state.level, channel: state.roiChannel });
  const pixels = channelPixels(map, state.roiChannel);
  lab.picture.paint(padded(picturePixels(found.picture, 0.15), view[1], view[0]));
  lab.pool.paint(pixels, view);
  lab.align.paint(pixels, view);
}

function showBins(values, bins, bin, channel, channels) {
  const of = (kind) => Float32Array.from({ length: bins * bins }, (_, i) => values[kind][i * channels + channel]);
  const [pool, align] = [of("pool"), of("align")];
  const largest = Math.max(...pool.map(Math.abs), ...align.map(Math.abs));
  for (const [kind, numbers, colour] of [
    ["pool", pool, POOL],
    ["align", align, ALIGN],
  ]) {
    const pixels = new Uint8ClampedArray(4 * bins * bins);
    numbers.forEach((value, i) => pixels.set([...diverging(value, 1.3 * largest), 255], 4 * i));
    results[kind].paint({ height: bins, width: bins, pixels });
    const words = Array.from(numbers, (value, i) => {
      const place = { x: (i % bins) + 0.5, y: Math.floor(i / bins) + 0.6, "font-size": 0.3, "text-anchor": "middle" };
      return `<text ${attributes(place)} font-family="sans-serif">${number(value, 1)}</text>`;
    });
    results[kind].draw(words, outlined([bin[0], bin[1], bin[0] + 1, bin[1] + 1], { stroke: colour, width: 3 }));
  }
}

const cellRange = (name, first, end) => (end - first === 1 ? `${name} ${first}` : `${name}s ${first} to ${end - 1}`);

function explainPool({ left, right, top, bottom, cells, winner }, values, [column, row], bins, channel, channels) {
  if (!winner) return `<p class="pool"><strong>0</strong>: the bin lies outside of the map.</p>`;
  const value = values.pool[(row * bins + column) * channels + channel];
  const count = cells.length * cells[0].length;
  const largest = `<p>${count} cells, the largest at column ${left + winner[1]}, row ${top + winner[0]}.</p>`;
  return `<p class="pool"><strong>RoIPool: ${number(value, 3)}</strong></p>
    <p>Bin column ${column}, row ${row} covers whole cells of the map, ${cellRange("column", left, right)} and
      ${cellRange("row", top, bottom)}. The largest is the value:</p>
    ${count <= 36 ? numberGrid(cells, winner) : largest}`;
}

function explainAlign(samples, aligned) {
  if (!samples.length) return `<p class="align">No samples.</p>`;
  const mean = samples.reduce((total, { value }) => total + value, 0) / samples.length;
  const most = 4;
  const rows = samples
    .slice(0, most)
    .map(({ x, y, taps, value }) => [
      `(${number(x)}, ${number(y)})`,
      taps.length
        ? taps.map((tap) => `${number(tap.weight)} · ${number(tap.value)}`).join(" + ")
        : "outside of the map",
      `= ${number(value, 3)}`,
    ]);
  const more = samples.length > most ? `<p>And ${samples.length - most} more.</p>` : "";
  return `<p class="align"><strong>RoIAlign: ${number(mean, 3)}</strong></p>
    <p>The mean of ${samples.length} samples. Each, at (column, row), is four cells by their weights:</p>
    ${table([], rows)}${more}
    ${aligned ? "" : "<p>Without “aligned” the region lies half a cell too far to the right and down.</p>"}`;
}
