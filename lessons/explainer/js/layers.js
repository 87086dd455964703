// The layers of the network, as in tinymrcnn/ops: each is a few calls of kernels. Maps are [N, H, W, C].

"use strict";

// The numbers of 16 bits (IEEE half precision) in a Uint16Array, as Float32Array.
function fromFloat16(halves) {
  return Float32Array.from(halves, (half) => {
    const sign = half & 0x8000 ? -1 : 1;
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (1024 + fraction) * 2 ** (exponent - 25);
  });
}

// Winograd's transform of a filter, tinymrcnn/ops/winograd.py: G g G^T as one product with the flattened g.
const G = [
  [6, 0, 0],
  [-4, -4, -4],
  [-4, 4, -4],
  [1, 2, 4],
  [1, -2, 4],
  [0, 0, 24],
];
const GG = G.flatMap((a) => G.map((b) => a.flatMap((x) => b.map((y) => Math.fround(x / 24) * Math.fround(y / 24)))));

class Layers {
  // manifest: [name, shape] of every weight, in the order of `numbers`, a Float32Array.
  constructor(kernels, manifest, numbers) {
    this.kernels = kernels;
    this.weights = {};
    let first = 0;
    for (const [name, shape] of manifest) {
      const size = shape.reduce((a, b) => a * b, 1);
      this.weights[name] = { shape, numbers: numbers.subarray(first, first + size) };
      first += size;
    }
    this.prepared = new Map();
  }

  // prepare(): how a layer's weights lie in the module's memory; computed once.
  once(name, prepare) {
    if (!this.prepared.has(name)) this.prepared.set(name, prepare());
    return this.prepared.get(name);
  }

  prepareAll() {
    for (const [name, { shape }] of Object.entries(this.weights)) {
      if (name.endsWith(".running_mean")) this.scaleAndShift(name.slice(0, -".running_mean".length));
      if (!name.endsWith(".weight") || shape.length === 1) continue;
      const layer = name.slice(0, -".weight".length);
      if (layer.endsWith("conv5_mask")) this.transposedFilters(layer);
      else if (shape.length === 4) this.filters(layer);
      else if (!layer.endsWith("fc6")) this.matrix(layer);
    }
  }

  bias(layer, count) {
    const found = this.weights[`${layer}.bias`];
    return this.kernels.arrayOf(found ? found.numbers : new Float32Array(count));
  }

  // The filters of a convolution, (O, C, h, w), as the matrix (h w C, O) of im2col, and transformed for Winograd.
  filters(layer) {
    return this.once(layer, () => {
      const { kernels } = this;
      const { shape, numbers } = this.weights[`${layer}.weight`];
      const [outputs, channels, height, width] = shape;
      const matrix = kernels.array([height * width * channels, outputs]);
      const data = matrix.data;
      for (let o = 0, i = 0; o < outputs; o++) {
        for (let c = 0; c < channels; c++) {
          for (let k = 0; k < height * width; k++, i++) data[(k * channels + c) * outputs + o] = numbers[i];
        }
      }
      const filters = { matrix, outputs, channels, kernel: [height, width], bias: this.bias(layer, outputs) };
      if (height === 3 && Math.min(channels, outputs) >= 16) {
        filters.transformed = kernels.array([36, channels * outputs]);
        kernels.scratch(() => {
          const transform = kernels.arrayOf(GG.flat());
          this.product(transform, matrix.reshape(matrix.size), filters.transformed, 36, 9, channels * outputs);
        });
      }
      return filters;
    });
  }

  // c = a b: (rows, inner) times (inner, columns), flat.
  product(a, b, c, rows, inner, columns, aStep = inner, cStep = columns) {
    const flat = (array) => array.reshape(array.size);
    this.kernels.call("product", flat(a), aStep, flat(b), flat(c), cStep, rows, inner, columns);
  }

  // tinymrcnn/ops/activations.py: x scale + shift + y, and 0 where that is less; into `out` or a new array.
  combine(x, { scale, shift, y, relu = false, out = this.kernels.array(x.shape) }) {
    const { kernels } = this;
    if (x.size === 0) return out;
    kernels.scratch(() => {
      const channels = x.shape.at(-1);
      const none = kernels.array([0]);
      const matrix = (map) => map.reshape(map.size / channels, channels);
      const other = y ? matrix(y) : kernels.array([0, channels]);
      const shifts = shift ?? kernels.zeros([channels]);
      const lowest = relu ? 0 : -Infinity;
      kernels.call("combine", 0, 1, matrix(x), scale ?? none, shifts, other, none, lowest, matrix(out));
    });
    return out;
  }

  conv2d(x, layer, { stride = 1, padding = 0, relu = false } = {}) {
    const filters = this.filters(layer);
    const { kernels } = this;
    const [n, h, w, channels] = x.shape;
    const {
      outputs,
      kernel: [kh, kw],
    } = filters;
    const size = [Math.floor((h + 2 * padding - kh) / stride) + 1, Math.floor((w + 2 * padding - kw) / stride) + 1];
    const out = kernels.array([n, ...size, outputs]);
    const rows = n * size[0] * size[1];
    if (filters.transformed && stride === 1 && rows >= 256) {
      this.winograd(x, filters, padding, relu, out);
      return out;
    }
    kernels.scratch(() => {
      let columns = x;
      if (kh * kw > 1 || stride > 1) {
        columns = kernels.array([rows, kh * kw * channels]);
        kernels.call("im2col", 0, 1, x, columns, 0, ...size, kh, kw, stride, padding, 1);
      }
      this.product(columns, filters.matrix, out, rows, kh * kw * channels, outputs);
    });
    if (this.weights[`${layer}.bias`] || relu) {
      this.combine(out, { shift: filters.bias, relu, out });
    }
    return out;
  }

  // tinymrcnn/ops/winograd.py: 4x4 outputs at a time, from 6x6 inputs, by 36 products instead of 144.
  winograd(x, filters, padding, relu, out) {
    const { kernels } = this;
    const { channels, outputs, transformed } = filters;
    const [n, height, width] = out.shape;
    const tilesH = Math.ceil(height / 4);
    const tilesW = Math.ceil(width / 4);
    const rows = n * tilesH;
    const most = Math.max(128, Math.floor((1 << 18) / (36 * Math.max(channels, outputs))));
    const step = Math.max(1, Math.min(rows, Math.floor(most / tilesW)));
    kernels.scratch(() => {
      const noResidual = kernels.array([0, height, width, outputs]);
      for (let first = 0; first < rows; first += step) {
        const count = Math.min(step, rows - first) * tilesW;
        kernels.scratch(() => {
          const tiles = kernels.array([count, 36, channels]);
          const products = kernels.array([count, 36, outputs]);
          kernels.call("winograd_input", x, tiles, first, tilesH, tilesW, padding);
          for (let e = 0; e < 36; e++) {
            const a = tiles.from(e * channels);
            const b = transformed.from(e * channels * outputs);
            this.product(a, b, products.from(e * outputs), count, channels, outputs, 36 * channels, 36 * outputs);
          }
          const lowest = relu ? 0 : -Infinity;
          kernels.call("winograd_output", products, out, first, tilesH, tilesW, filters.bias, lowest, noResidual);
        });
      }
    });
  }

  // The filters (C, O, h, w) of a transposed convolution as the matrix (C, h w O).
  transposedFilters(layer) {
    return this.once(layer, () => {
      const { shape, numbers } = this.weights[`${layer}.weight`];
      const [channels, outputs, height, width] = shape;
      const matrix = this.kernels.array([channels, height * width * outputs]);
      const data = matrix.data;
      const cells = height * width;
      for (let c = 0, i = 0; c < channels; c++) {
        for (let o = 0; o < outputs; o++) {
          for (let k = 0; k < cells; k++, i++) data[(c * cells + k) * outputs + o] = numbers[i];
        }
      }
      return { matrix, channels, outputs, kernel: [height, width], bias: this.bias(layer, outputs) };
    });
  }

  convTranspose2d(x, layer, { stride, relu = false }) {
    const { kernels } = this;
    const {
      matrix,
      outputs,
      kernel: [kh, kw],
      bias,
    } = this.transposedFilters(layer);
    const [n, h, w, channels] = x.shape;
    const rows = n * h * w;
    const wide = kh * kw * outputs;
    const out = kernels.zeros([n, (h - 1) * stride + kh, (w - 1) * stride + kw, outputs]);
    kernels.scratch(() => {
      const columns = kernels.array([rows, wide]);
      this.product(x, matrix, columns, rows, channels, wide);
      kernels.call("col2im", 0, 1, columns, out, h, w, kh, kw, stride, 0, 1);
    });
    return this.combine(out, { shift: bias, relu, out });
  }

  // The weight (O, I) of a fully connected layer as the matrix (I, O). cells: where the inputs are the flattened grid
  // of a RoI, its number of cells: the weights come channel by channel, our arrays cell by cell.
  matrix(layer, cells = 1) {
    return this.once(layer, () => {
      const {
        shape: [outputs, inputs],
        numbers,
      } = this.weights[`${layer}.weight`];
      const matrix = this.kernels.array([inputs, outputs]);
      const data = matrix.data;
      const channels = inputs / cells;
      for (let o = 0, i = 0; o < outputs; o++) {
        for (let c = 0; c < channels; c++) {
          for (let k = 0; k < cells; k++, i++) data[(k * channels + c) * outputs + o] = numbers[i];
        }
      }
      return { matrix, inputs, outputs, bias: this.bias(layer, outputs) };
    });
  }

  linear(x, layer, { relu = false, cells = 1 } = {}) {
    const { matrix, inputs, outputs, bias } = this.matrix(layer, cells);
    const rows = x.size / inputs;
    const out = this.kernels.array([rows, outputs]);
    this.product(x, matrix, out, rows, inputs, outputs);
    return this.combine(out, { shift: bias, relu, out });
  }

  // Batch normalisation with the statistics of the training: a scale and a shift for each channel.
  scaleAndShift(layer) {
    return this.once(layer, () => {
      const [weight, bias, mean, variance] = ["weight", "bias", "running_mean", "running_var"].map(
        (name) => this.weights[`${layer}.${name}`].numbers,
      );
      const scale = weight.map((w, c) => Math.fround(1 / Math.fround(Math.sqrt(variance[c] + 1e-5))) * w);
      const shift = bias.map((b, c) => b - Math.fround(mean[c] * scale[c]));
      return [this.kernels.arrayOf(scale), this.kernels.arrayOf(shift)];
    });
  }

  batchNorm(x, layer) {
    const [scale, shift] = this.scaleAndShift(layer);
    return this.combine(x, { scale, shift });
  }

  relu(x) {
    return this.combine(x, { relu: true });
  }

  addRelu(x, y) {
    return this.combine(x, { y, relu: true });
  }

  maxPool(x, kernel, stride, padding) {
    const [n, h, w, channels] = x.shape;
    const size = [h, w].map((side) => Math.floor((side + 2 * padding - kernel) / stride) + 1);
    const out = this.kernels.array([n, ...size, channels]);
    this.kernels.scratch(() => {
      const taken = this.kernels.array(out.shape, "int32");
      this.kernels.call("max_pool", 0, 1, x, out, taken, kernel, stride, padding);
    });
    return out;
  }

  // x plus a coarser map, enlarged to the size of x: each cell takes the cell that it lies in.
  addEnlarged(x, coarse) {
    const [n, h, w, channels] = x.shape;
    const [, h2, w2] = coarse.shape;
    const out = this.kernels.array(x.shape);
    const to = out.data;
    const from = x.data;
    const above = coarse.data;
    for (let image = 0, i = 0; image < n; image++) {
      for (let y = 0; y < h; y++) {
        for (let z = 0; z < w; z++) {
          const row = image * h2 + Math.floor((y * h2) / h);
          const cell = (row * w2 + Math.floor((z * w2) / w)) * channels;
          for (let c = 0; c < channels; c++, i++) to[i] = from[i] + above[cell + c];
        }
      }
    }
    return out;
  }
}
