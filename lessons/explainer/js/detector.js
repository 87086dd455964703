// The detector, in the steps of tinymrcnn/models/two_stage.py and mask_rcnn.py:
//
//     transform -> features -> runRpn -> propose -> boxBranch, boxDetections
//         -> maskBranch, maskDetections -> postprocess
//
// Every step returns all that it computed, so that the page can show it. Boxes are Float32Arrays of x1, y1, x2, y2 in
// turn.

"use strict";

const f = Math.fround; // the nearest number of 32 bits, in which the Python model computes

// The indices of numbers, the largest first; of equal ones the first.
const bestFirst = (numbers) => Array.from(numbers, (_, i) => i).sort((a, b) => numbers[b] - numbers[a] || a - b);

const boxOf = (boxes, i) => boxes.subarray(4 * i, 4 * i + 4);
const takeBoxes = (boxes, rows) => Float32Array.from(rows.flatMap((i) => [...boxOf(boxes, i)]));

function sigmoid(x) {
  const e = f(Math.exp(-Math.abs(x)));
  return f((x >= 0 ? 1 : e) / f(1 + e));
}

function softmax(logits) {
  const largest = Math.max(...logits);
  const shifted = Array.from(logits, (x) => f(x - largest));
  const sum = f(Math.log(shifted.reduce((total, x) => f(total + f(Math.exp(x))), 0)));
  return shifted.map((x) => f(Math.exp(f(x - sum))));
}

class Detector {
  // config: the settings of the Python model.
  constructor(kernels, layers, config) {
    Object.assign(this, { kernels, layers, config });
    this.strides = [4, 8, 16, 32];
    this.anchorCells = config.rpn.anchor_sizes.map(([size]) =>
      config.rpn.aspect_ratios.map((ratio) => {
        const width = Math.sqrt((size * size) / ratio);
        const height = ratio * width;
        return [-width / 2, -height / 2, width / 2, height / 2].map(f);
      }),
    );
    layers.prepareAll();
    layers.matrix("roi_heads.box_head.fc6", config.box.pool ** 2);
    this.start = kernels.free; // what lies beyond belongs to the last detection
  }

  // picture: {height, width, pixels}, the pixels as (height, width, 3) numbers in 0..1.
  detect(picture) {
    this.kernels.free = this.start;
    const batch = this.transform(picture);
    const features = this.features(batch);
    const rpn = this.runRpn(features.levels);
    const proposals = this.propose(rpn, batch);
    const box = this.boxBranch(features.levels, proposals.boxes);
    const detections = this.boxDetections(box, proposals.boxes, batch);
    const mask = this.maskBranch(features.levels, detections.boxes);
    const masks = this.maskDetections(mask.logits, detections.labels);
    const pasted = this.postprocess(masks, detections.boxes, batch);
    return { picture, batch, features, rpn, proposals, box, detections, mask, masks, pasted };
  }

  // Normalised, and padded at the right and the bottom to multiples of 32.
  transform({ height, width, pixels }) {
    const { pixel_mean, pixel_std, size_divisible } = this.config.transform;
    const [mean, std] = [pixel_mean, pixel_std].map((values) => values.map(f));
    const padded = [height, width].map((side) => Math.ceil(side / size_divisible) * size_divisible);
    const image = this.kernels.zeros([1, ...padded, 3]);
    const data = image.data;
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        for (let c = 0; c < 3; c++) {
          data[(y * padded[1] + x) * 3 + c] = f(f(pixels[(y * width + x) * 3 + c] - mean[c]) / std[c]);
        }
      }
    }
    return { image, height, width };
  }

  // The residual block of tinymrcnn/models/resnet.py: relu(x + F(x)).
  basicBlock(x, name, stride) {
    const { layers } = this;
    let out = layers.batchNorm(layers.conv2d(x, `${name}.conv1`, { stride, padding: 1 }), `${name}.bn1`);
    out = layers.relu(out);
    const before = layers.conv2d(out, `${name}.conv2`, { padding: 1 });
    const normal = layers.batchNorm(before, `${name}.bn2`);
    let shortcut = x;
    if (layers.weights[`${name}.downsample.0.weight`]) {
      shortcut = layers.batchNorm(layers.conv2d(x, `${name}.downsample.0`, { stride }), `${name}.downsample.1`);
    }
    return { result: layers.addRelu(normal, shortcut), inner: out, before, normal, shortcut, name };
  }

  // The backbone's maps C2..C5 and the pyramid's levels P2..P5.
  features({ image }) {
    const {
      layers,
      config: { resnet },
    } = this;
    const body = "backbone.body";
    const fpn = "backbone.fpn";
    let x = layers.conv2d(image, `${body}.conv1`, { stride: 2, padding: 3 });
    x = layers.maxPool(layers.relu(layers.batchNorm(x, `${body}.bn1`)), 3, 2, 1);
    const blocks = resnet.depths.map((depth, stage) => {
      let block = null;
      for (let i = 0; i < depth; i++) {
        block = this.basicBlock(x, `${body}.layer${stage + 1}.${i}`, i === 0 ? resnet.strides[stage] : 1);
        x = block.result;
      }
      return block;
    });
    const maps = blocks.map((block) => block.result);
    const lateral = maps.map((map, i) => layers.conv2d(map, `${fpn}.inner_blocks.${i}.0`));
    const merged = [...lateral];
    for (let i = merged.length - 2; i >= 0; i--) merged[i] = layers.addEnlarged(lateral[i], merged[i + 1]);
    const levels = merged.map((map, i) => layers.conv2d(map, `${fpn}.layer_blocks.${i}.0`, { padding: 1 }));
    return { blocks, maps, lateral, merged, levels };
  }

  // For every anchor of every level, in the order level, row, column, anchor: a logit and four corrections.
  runRpn(levels) {
    const { layers } = this;
    const logits = [];
    const deltas = [];
    const hidden = [];
    const anchors = [];
    levels.forEach((level, l) => {
      hidden.push(layers.conv2d(level, "rpn.head.conv.0.0", { padding: 1, relu: true }));
      logits.push(layers.conv2d(hidden[l], "rpn.head.cls_logits"));
      deltas.push(layers.conv2d(hidden[l], "rpn.head.bbox_pred"));
      anchors.push(this.anchors(l, level.shape[1], level.shape[2]));
    });
    return { hidden, logits, deltas, anchors };
  }

  anchors(level, height, width) {
    const boxes = [];
    const stride = this.strides[level];
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        for (const cell of this.anchorCells[level]) {
          boxes.push(
            f(cell[0] + x * stride),
            f(cell[1] + y * stride),
            f(cell[2] + x * stride),
            f(cell[3] + y * stride),
          );
        }
      }
    }
    return Float32Array.from(boxes);
  }

  // A box corrected by four numbers, tinymrcnn/boxes/coder.py.
  decode(deltas, box, weights) {
    const [dx, dy, dw, dh] = deltas.map((delta, i) => f(delta / weights[i]));
    const largest = f(Math.log(1000 / 16));
    const width = f(box[2] - box[0]);
    const height = f(box[3] - box[1]);
    const x = f(f(dx * width) + f(box[0] + f(0.5 * width)));
    const y = f(f(dy * height) + f(box[1] + f(0.5 * height)));
    const half = (d, side) => f(0.5 * f(f(Math.exp(Math.min(d, largest))) * side));
    const halfWidth = half(dw, width);
    const halfHeight = half(dh, height);
    return [f(x - halfWidth), f(y - halfHeight), f(x + halfWidth), f(y + halfHeight)];
  }

  clip(box, { height, width }) {
    const limits = [width, height, width, height];
    return box.map((value, i) => Math.min(Math.max(value, 0), limits[i]));
  }

  // The best anchors of every level, corrected, clipped, without duplicates. candidates: before NMS, best first within
  // each level; kept: which of them stay, best first.
  propose({ logits, deltas, anchors }, batch) {
    const { rpn } = this.config;
    const boxes = [];
    const scores = [];
    const levels = [];
    const cells = [];
    logits.forEach((map, level) => {
      const numbers = map.data;
      const corrections = deltas[level].data;
      for (const i of bestFirst(numbers).slice(0, rpn.pre_nms_test)) {
        const delta = Array.from(corrections.subarray(4 * i, 4 * i + 4));
        const box = this.clip(this.decode(delta, boxOf(anchors[level], i), [1, 1, 1, 1]), batch);
        if (!(f(box[2] - box[0]) >= rpn.min_proposal_size && f(box[3] - box[1]) >= rpn.min_proposal_size)) continue;
        boxes.push(...box);
        scores.push(numbers[i]);
        levels.push(level);
        cells.push(i);
      }
    });
    const candidates = { boxes: Float32Array.from(boxes), scores: Float32Array.from(scores), levels, cells };
    const kept = this.batchedNms(candidates.boxes, candidates.scores, levels, rpn.nms).slice(0, rpn.post_nms_test);
    return { boxes: takeBoxes(candidates.boxes, kept), scores: candidates.scores, kept, candidates };
  }

  // Non-maximum suppression within each group. Returns the indices that stay, best first.
  batchedNms(boxes, scores, groups, threshold) {
    const { kernels } = this;
    const order = bestFirst(scores);
    const n = order.length;
    if (n === 0) return [];
    const grouped = [...order].sort((a, b) => groups[a] - groups[b]); // JavaScript's sort keeps the order of equals
    const starts = grouped.flatMap((i, k) => (k === 0 || groups[i] !== groups[grouped[k - 1]] ? [k] : []));
    return kernels.scratch(() => {
      const corners = kernels.array([4, n]);
      const data = corners.data;
      grouped.forEach((i, k) => {
        for (let c = 0; c < 4; c++) data[c * n + k] = boxes[4 * i + c];
      });
      const keep = kernels.array([n], "bool");
      keep.data.fill(1);
      const bounds = kernels.arrayOf([...starts, n].map(BigInt), [starts.length + 1], "int64");
      kernels.call("nms", 0, 1, corners, bounds, roundedDown(threshold), keep);
      const stays = new Set(grouped.filter((_, k) => keep.data[k]));
      return order.filter((i) => stays.has(i));
    });
  }

  // Which level an RoI is cut from (FPN paper, formula 1), 0 for P2.
  levelOf(box) {
    const {
      canonical_size,
      canonical_level,
      level_epsilon: [inside, outside],
    } = this.config.pooler;
    const area = Math.max(f(f(box[2] - box[0]) * f(box[3] - box[1])), 1e-12);
    const level = f(canonical_level + f(Math.log2(f(f(f(Math.sqrt(area)) / canonical_size) + inside))));
    return Math.min(Math.max(Math.floor(f(level + outside)) - 2, 0), this.strides.length - 1);
  }

  // RoIs cut out of the levels that suit them: [R, size, size, C].
  pool(levels, boxes, size) {
    const {
      kernels,
      config: { pooler },
    } = this;
    const count = boxes.length / 4;
    const channels = levels[0].shape[3];
    const out = kernels.array([count, size, size, channels]);
    const each = size * size * channels;
    const levelOf = Array.from({ length: count }, (_, i) => this.levelOf(boxOf(boxes, i)));
    levels.forEach((map, level) => {
      const rows = levelOf.flatMap((of, i) => (of === level ? [i] : []));
      if (!rows.length) return;
      kernels.scratch(() => {
        const rois = kernels.arrayOf(
          rows.flatMap((i) => [0, ...boxOf(boxes, i)]),
          [rows.length, 5],
        );
        const part = kernels.array([rows.length, size, size, channels]);
        const scale = 1 / this.strides[level];
        kernels.call("roi_align", 0, 1, map, rois, scale, pooler.sampling_ratio, pooler.aligned, part);
        rows.forEach((i, k) => out.data.set(part.data.subarray(k * each, (k + 1) * each), i * each));
      });
    });
    return { out, levelOf };
  }

  // For every RoI a logit for each class, and a correction of the box for each class.
  boxBranch(levels, boxes) {
    const {
      layers,
      config: { box },
    } = this;
    const heads = "roi_heads";
    const { out: pooled, levelOf } = this.pool(levels, boxes, box.pool);
    const hidden6 = layers.linear(pooled, `${heads}.box_head.fc6`, { relu: true, cells: box.pool ** 2 });
    const hidden = layers.linear(hidden6, `${heads}.box_head.fc7`, { relu: true });
    const logits = layers.linear(hidden, `${heads}.box_predictor.cls_score`);
    const deltas = layers.linear(hidden, `${heads}.box_predictor.bbox_pred`);
    return { pooled, levelOf, hidden, logits, deltas };
  }

  // Every class of every RoI that scores well, without duplicates within a class: the best, best first.
  boxDetections({ logits, deltas }, rois, batch) {
    const { box, num_classes } = this.config;
    const boxes = [];
    const scores = [];
    const labels = [];
    const sources = [];
    for (let r = 0; r < rois.length / 4; r++) {
      const shares = softmax(logits.data.subarray(r * num_classes, (r + 1) * num_classes));
      for (let label = 1; label < num_classes; label++) {
        if (!(shares[label] > box.score_threshold)) continue;
        const at = 4 * (r * num_classes + label);
        const delta = Array.from(deltas.data.subarray(at, at + 4));
        const corrected = this.clip(this.decode(delta, boxOf(rois, r), box.weights), batch);
        if (Math.min(corrected[2] - corrected[0], corrected[3] - corrected[1]) < box.min_box_size) continue;
        boxes.push(...corrected);
        scores.push(shares[label]);
        labels.push(label);
        sources.push(r);
      }
    }
    const candidates = { boxes: Float32Array.from(boxes), scores: Float32Array.from(scores), labels, sources };
    const kept = this.batchedNms(candidates.boxes, candidates.scores, labels, box.nms).slice(0, box.max_detections);
    return {
      boxes: takeBoxes(candidates.boxes, kept),
      scores: kept.map((i) => scores[i]),
      labels: kept.map((i) => labels[i]),
      sources: kept.map((i) => sources[i]),
      kept,
      candidates,
    };
  }

  // Mask logits [D, 28, 28, K] of every box, and what leads to them.
  maskBranch(levels, boxes) {
    const {
      layers,
      config: { mask },
    } = this;
    const heads = "roi_heads";
    const { out: pooled, levelOf } = this.pool(levels, boxes, mask.pool);
    const steps = [pooled];
    if (pooled.size === 0) return { steps, levelOf, logits: this.kernels.array([0, 2 * mask.pool, 2 * mask.pool, 1]) };
    mask.layers.forEach((_, i) => {
      steps.push(layers.conv2d(steps[i], `${heads}.mask_head.${i}.0`, { padding: 1, relu: true }));
    });
    steps.push(layers.convTranspose2d(steps.at(-1), `${heads}.mask_predictor.conv5_mask`, { stride: 2, relu: true }));
    return { steps, levelOf, logits: layers.conv2d(steps.at(-1), `${heads}.mask_predictor.mask_fcn_logits`) };
  }

  // The probability of each cell that it belongs to the object, of the detection's class: [D, 28, 28].
  maskDetections(logits, labels) {
    const [count, height, width, classes] = logits.shape;
    const masks = this.kernels.array([count, height, width]);
    const to = masks.data;
    const from = logits.data;
    const cells = height * width;
    for (let i = 0; i < to.length; i++) to[i] = sigmoid(from[i * classes + labels[Math.floor(i / cells)]]);
    return masks;
  }

  // Masks stretched over their boxes: [D, height, width].
  postprocess(masks, boxes, { height, width }) {
    const { kernels } = this;
    const [count, rows, columns] = masks.shape;
    const pasted = kernels.zeros([count, height, width]);
    if (count === 0) return pasted;
    kernels.scratch(() => {
      const rimmed = kernels.zeros([count, rows + 2, columns + 2]);
      const data = rimmed.data;
      const from = masks.data;
      for (let i = 0; i < count * rows; i++) {
        // a rim of zeros, so that a mask fades out at its border
        const to = (i + 2 * Math.floor(i / rows) + 1) * (columns + 2) + 1;
        data.set(from.subarray(i * columns, (i + 1) * columns), to);
      }
      kernels.call("paste", 0, 1, rimmed, kernels.arrayOf(boxes, [count, 4], "float64"), pasted);
    });
    return pasted;
  }
}

// The largest number of 32 bits that is not above a threshold: so `>` decides as it would in 64 bits.
function roundedDown(threshold) {
  const bits = new Int32Array([0]);
  const number = new Float32Array(bits.buffer);
  number[0] = threshold;
  if (number[0] > threshold) bits[0] -= 1;
  return number[0];
}
