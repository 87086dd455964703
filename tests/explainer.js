// The detector of the explainer's page on pictures, compared with the arrays of Python, in Node or in a browser.
//
//     node explainer.js INDEX.html FOLDER
//
// FOLDER/cases.json lists the pictures: of each its height and width and, by name, the shapes of its arrays, which lie in
// FOLDER/NUMBER-NAME.bin. Prints JSON: for every picture and array the largest difference from Python's, relative to the
// largest number, and how many numbers are not the same. test_explainer.py writes and reads all this.

"use strict";

function compareNumbers(got, wanted) {
  if (got.length !== wanted.length) return { lengths: [got.length, wanted.length] };
  let largest = 0;
  let difference = 0;
  let unequal = 0;
  for (let i = 0; i < got.length; i++) {
    largest = Math.max(largest, Math.abs(wanted[i]));
    difference = Math.max(difference, Math.abs(got[i] - wanted[i]));
    unequal += got[i] !== wanted[i];
  }
  return { difference: difference / (largest || 1), unequal };
}

// What the page computed, by the names of Python's arrays.
function arraysOf({ batch, features, rpn, proposals, box, detections, mask, masks, pasted }) {
  const arrays = {
    images: batch.image.data,
    logits: rpn.logits.flatMap((map) => [...map.data]),
    deltas: rpn.deltas.flatMap((map) => [...map.data]),
    anchors: rpn.anchors.flatMap((level) => [...level]),
    proposals: proposals.boxes,
    box_logits: box.logits.data,
    box_deltas: box.deltas.data,
    boxes: detections.boxes,
    scores: detections.scores,
    labels: detections.labels,
    mask_logits: mask.logits.data,
    masks: masks.data,
    pasted: pasted.data,
  };
  features.maps.forEach((map, i) => (arrays[`c${i + 2}`] = map.data));
  features.levels.forEach((map, i) => (arrays[`p${i + 2}`] = map.data));
  return arrays;
}

// read(name): an array of Python's, of this picture.
function compareCase(detector, { height, width, shapes }, read) {
  const { kernels } = detector;
  const result = {};
  const got = arraysOf(detector.detect({ height, width, pixels: read("picture") }));
  for (const name of Object.keys(got)) result[name] = compareNumbers(got[name], read(name));
  // the RoI operators on Python's own maps and RoIs
  for (const name of Object.keys(shapes).filter((name) => name.startsWith("roi_"))) {
    const [operator, level, ratio, aligned] = name.split("-");
    const out = kernels.array(shapes[name]);
    const map = kernels.arrayOf(read(`p${level}`), shapes[`p${level}`]);
    const rois = kernels.arrayOf(read("rois"), shapes.rois);
    const scale = 1 / 2 ** Number(level);
    if (operator === "roi_pool") {
      kernels.call("roi_pool", 0, 1, map, rois, scale, out, kernels.array(out.shape, "int32"));
    } else {
      kernels.call("roi_align", 0, 1, map, rois, scale, Number(ratio), aligned === "true", out);
    }
    result[name] = compareNumbers(out.data, read(name));
  }
  return result;
}

async function inNode() {
  const fs = require("fs");
  const path = require("path");
  const [page, folder] = process.argv.slice(2);
  const text = fs.readFileSync(page, "utf8");
  const part = (id) => text.split(`id="${id}">`)[1].split("</script>")[0];
  const bytes = (id) => Uint8Array.from(Buffer.from(part(id), "base64"));
  const names = "{ Kernels, Layers, Detector, fromFloat16 }";
  const { Kernels, Layers, Detector, fromFloat16 } = new Function(`${part("detector")}\nreturn ${names};`)();

  const facts = JSON.parse(part("facts"));
  const kernels = await Kernels.load(bytes("module"), facts.kernels);
  const numbers = fromFloat16(new Uint16Array(bytes("numbers").buffer));
  const detector = new Detector(kernels, new Layers(kernels, facts.weights, numbers), facts.config);
  const cases = JSON.parse(fs.readFileSync(path.join(folder, "cases.json")));
  const results = cases.map((one, number) =>
    compareCase(detector, one, (name) => {
      const data = fs.readFileSync(path.join(folder, `${number}-${name}.bin`));
      return new Float32Array(Uint8Array.from(data).buffer);
    }),
  );
  console.log(JSON.stringify(results));
}

if (typeof process === "object") inNode();
