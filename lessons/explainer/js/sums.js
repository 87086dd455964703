// Where a number comes from: the cells and weights whose products are added, from the arrays of the last detection.

"use strict";

// The number of a map [N, H, W, C]; 0 outside of it.
function at(map, image, y, x, channel) {
  const [, height, width, channels] = map.shape;
  if (y < 0 || x < 0 || y >= height || x >= width) return 0;
  return map.data[((image * height + y) * width + x) * channels + channel];
}

// The products of a convolution with padding that gives one number of its result, added over the channels at each of
// the kernel's places: rows of sums. bias: what is added last.
function convolutionSums(layers, layer, map, [image, y, x], output) {
  const {
    shape: [, channels, height, width],
    numbers,
  } = layers.weights[`${layer}.weight`];
  const bias = layers.weights[`${layer}.bias`];
  const margin = (height - 1) / 2;
  const data = map.data;
  const [, mapHeight, mapWidth] = map.shape;
  const sums = Array.from({ length: height }, (_, u) =>
    Array.from({ length: width }, (_, v) => {
      const row = y + u - margin;
      const column = x + v - margin;
      if (row < 0 || column < 0 || row >= mapHeight || column >= mapWidth) return 0;
      const cell = ((image * mapHeight + row) * mapWidth + column) * channels;
      let sum = 0;
      for (let c = 0; c < channels; c++)
        sum += data[cell + c] * numbers[((output * channels + c) * height + u) * width + v];
      return sum;
    }),
  );
  return { sums, bias: bias ? bias.numbers[output] : 0, products: channels * height * width };
}

// The largest products of one number of a 1x1 convolution, as rows of a table, and the rest of the sum.
function pointwiseTerms(layers, layer, map, [image, y, x], output, most = 4) {
  const {
    shape: [, channels],
    numbers,
  } = layers.weights[`${layer}.weight`];
  const terms = Array.from({ length: channels }, (_, c) => {
    const value = at(map, image, y, x, c);
    const weight = numbers[output * channels + c];
    return { channel: c, value, weight, product: value * weight };
  }).sort((a, b) => Math.abs(b.product) - Math.abs(a.product));
  const rest = terms.slice(most).reduce((total, term) => total + term.product, 0);
  return {
    terms: terms.slice(0, most),
    rest,
    others: channels - most,
    bias: layers.weights[`${layer}.bias`].numbers[output],
  };
}

function termsTable({ terms, rest, others, bias }, total, what) {
  const rows = terms.map(({ channel, value, weight, product }) => [
    `channel ${channel}`,
    number(value),
    `× ${number(weight)}`,
    `= ${number(product)}`,
  ]);
  rows.push(
    [`${others} more channels`, "", "", number(rest)],
    ["bias", "", "", number(bias)],
    [`<strong>${what}</strong>`, "", "", `<strong>${number(total)}</strong>`],
  );
  return table([], rows);
}

// Along one axis of a map with `size` cells: which whole cells [first, end) each bin of RoIPool covers. By the kernels'
// own arithmetic, as all that follows.
function poolAxis(kernels, low, high, scale, bins, size) {
  const [start, binSize] = kernels.call("pool_bins", low, high, scale, bins);
  return Array.from({ length: bins }, (_, index) => kernels.call("pool_cells", start, binSize, index, size));
}

// Along one axis: where each bin of RoIAlign starts and ends, and where its samples lie; a cell's centre has the number
// of the cell.
function alignAxis(kernels, low, high, scale, bins, ratio, aligned) {
  const [start, size] = kernels.call("align_bins", low, high, scale, bins, aligned);
  const count = kernels.call("samples_per_bin", size, ratio);
  return Array.from({ length: bins }, (_, index) => ({
    start: start + index * size,
    end: start + (index + 1) * size,
    places: Array.from({ length: count }, (_, i) => kernels.call("sample_position", start, size, index, i, count)),
  }));
}

// The cells of a bin of RoIPool with their values, and the [row, column] of the largest among them.
function poolBin(map, [left, right], [top, bottom], channel) {
  const row = (y) => Array.from({ length: right - left }, (_, i) => at(map, 0, y, left + i, channel));
  const cells = Array.from({ length: bottom - top }, (_, i) => row(top + i));
  const flat = cells.flat();
  const winner = flat.indexOf(Math.max(...flat));
  const wide = right - left;
  return { left, right, top, bottom, cells, winner: flat.length ? [Math.floor(winner / wide), winner % wide] : null };
}

// The samples of a bin of RoIAlign, each with its place and the four cells around it.
function alignBin(kernels, map, across, down, channel) {
  const [, height, width] = map.shape;
  const samples = [];
  for (const y of down.places) {
    const [y0, b0, y1, b1] = kernels.call("taps", y, height);
    for (const x of across.places) {
      const [x0, a0, x1, a1] = kernels.call("taps", x, width);
      const taps = [
        [y0, x0, b0 * a0],
        [y0, x1, b0 * a1],
        [y1, x0, b1 * a0],
        [y1, x1, b1 * a1],
      ]
        .filter(([tapY, tapX]) => tapY >= 0 && tapX >= 0)
        .map(([tapY, tapX, weight]) => ({ y: tapY, x: tapX, weight, value: at(map, 0, tapY, tapX, channel) }));
      samples.push({ x, y, taps, value: taps.reduce((total, { weight, value }) => total + weight * value, 0) });
    }
  }
  return samples;
}

// The four cells of the mask grid behind a pixel of the picture, with their weights.
function pasteTaps(kernels, mask, rows, columns, box, [x, y]) {
  const [column, right] = kernels.call("paste_tap", x, box[0], box[2], columns);
  const [row, lower] = kernels.call("paste_tap", y, box[1], box[3], rows);
  const taps = [];
  for (const [r, b] of [
    [row, 1 - lower],
    [row + 1, lower],
  ]) {
    for (const [c, a] of [
      [column, 1 - right],
      [column + 1, right],
    ]) {
      const inside = r >= 1 && c >= 1 && r <= rows && c <= columns; // the grid has a rim of zeros
      taps.push({
        row: r - 1,
        column: c - 1,
        weight: a * b,
        value: inside ? mask[(r - 1) * columns + c - 1] : 0,
        inside,
      });
    }
  }
  return taps;
}

// IoU of two boxes, by the kernel's own function.
function overlap(kernels, a, b) {
  return kernels.scratch(() => {
    const corners = kernels.arrayOf(
      [0, 1, 2, 3].flatMap((i) => [a[i], b[i]]),
      [4, 2],
    );
    return kernels.call("iou", corners, 0, 1);
  });
}
