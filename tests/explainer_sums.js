// In the explainer's page: whether what it says of its numbers is so. test_explainer_page.py asks.

"use strict";

// The largest difference between what "where from" adds up and the number of the network, for 300 random cells of every
// kind: {kind: difference}.
function worstOfSums({ detector, found }) {
  const { layers, kernels } = detector;
  const { levels, merged, blocks } = found.features;
  const { detections, mask, masks, rpn } = found;
  const worst = {};
  let seed = 1;
  const random = (n) => (seed = (seed * 16807) % 2147483647) % n;
  const fraction = () => random(100) / 100;
  const compare = (kind, got, wanted) => (worst[kind] = Math.max(worst[kind] || 0, Math.abs(got - wanted)));
  const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
  const convolved = (layer, map, cell, channel) => {
    const { sums, bias } = convolutionSums(layers, layer, map, cell, channel);
    return sum(sums.flat()) + bias;
  };
  const product = (layer, map, cell, channel) => {
    const { terms, rest, bias } = pointwiseTerms(layers, layer, map, cell, channel);
    return sum(terms.map((term) => term.product)) + rest + bias;
  };

  for (let i = 0; i < 300; i++) {
    const l = random(4);
    const size = 32 >> l;
    const cell = [0, random(size), random(size)];
    const channel = random(64);
    compare(
      "p",
      convolved(`backbone.fpn.layer_blocks.${l}.0`, merged[l], cell, channel),
      at(levels[l], ...cell, channel),
    );
    const { name, inner, before, normal, shortcut, result } = blocks[l];
    const c = channel % before.shape[3];
    compare("c", convolved(`${name}.conv2`, inner, cell, c), at(before, ...cell, c));
    compare("relu", Math.max(0, at(normal, ...cell, c) + at(shortcut, ...cell, c)), at(result, ...cell, c));
    const logit = product("rpn.head.cls_logits", rpn.hidden[l], cell, i % 3);
    compare("objectness", logit, at(rpn.logits[l], ...cell, i % 3));

    const d = random(detections.labels.length);
    const label = detections.labels[d];
    const fine = [d, random(28), random(28)];
    const coarse = [d, fine[1] >> 1, fine[2] >> 1];
    const ofMask = product("roi_heads.mask_predictor.mask_fcn_logits", mask.steps[5], fine, label);
    compare("mask logit", ofMask, at(mask.logits, ...fine, label));
    const ofHead = convolved("roi_heads.mask_head.2.0", mask.steps[2], coarse, channel);
    compare("mask head", Math.max(0, ofHead), at(mask.steps[3], ...coarse, channel));

    const [left, top] = [random(60) + fraction(), random(60) + fraction()];
    const roi = [left, top, left + 5 + random(60), top + 5 + random(60)];
    const settings = { level: l, bins: 1 + random(7), ratio: random(5), aligned: random(2) };
    const { bins, ratio, aligned } = settings;
    const values = poolRegion(found, settings, roi);
    const bin = [random(bins), random(bins)];
    const place = (bin[1] * bins + bin[0]) * 64 + channel;
    const scale = 1 / (4 << l);
    const pooled = bin.map((index, k) => poolAxis(kernels, roi[k], roi[k + 2], scale, bins, size)[index]);
    const { cells, winner } = poolBin(levels[l], ...pooled, channel);
    compare("roi_pool", winner ? cells[winner[0]][winner[1]] : 0, values.pool[place]);
    const sampled = bin.map((index, k) => alignAxis(kernels, roi[k], roi[k + 2], scale, bins, ratio, aligned)[index]);
    const samples = alignBin(kernels, levels[l], ...sampled, channel);
    compare("roi_align", sum(samples.map(({ value }) => value)) / samples.length, values.align[place]);

    const box = Array.from(boxOf(detections.boxes, d));
    const pixel = [0, 1].map((k) => Math.min(127, Math.floor(box[k] + fraction() * (box[k + 2] - box[k]))));
    const taps = pasteTaps(kernels, masks.data.subarray(784 * d, 784 * (d + 1)), 28, 28, box, pixel);
    const value = found.pasted.data[(d * 128 + pixel[1]) * 128 + pixel[0]];
    compare("paste", sum(taps.map((tap) => tap.weight * tap.value)), value);
  }
  return worst;
}

// Whether a cell of C2 to C5 changes when a line of pixels does, 41 of them around [x, y], across or down: a line, so that
// a ReLU that is shut hides one pixel only.
function cellChanges(level, [column, row], [x, y], across) {
  const { picture } = app.found;
  const cell = () =>
    Array.from({ length: 16 << level }, (_, c) => at(app.found.features.maps[level], 0, row, column, c));
  const before = cell();
  const pixels = picture.pixels.slice();
  for (let k = -20; k <= 20; k++) {
    const place = across ? y * picture.width + x + k : (y + k) * picture.width + x;
    for (let c = 0; c < 3; c++) pixels[3 * place + c] = 3 * (k & 1);
  }
  app.detect({ ...picture, pixels });
  const after = cell();
  app.detect(picture);
  return after.some((value, i) => Math.abs(value - before[i]) > 1e-3); // Winograd lets a whole tile into the rounding
}
