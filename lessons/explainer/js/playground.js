// Part 6 in a notebook (lessons/playground.py): what its scripts take from the rest of the page.

"use strict";

const LEVELS = ["2", "3", "4", "5"];
const boxOf = (boxes, i) => boxes.subarray(4 * i, 4 * i + 4);
const padded = (picture) => picture; // it comes padded

// The state's name -> the notebook's, its value there, and the state's value from that
const SHARED = {
  roi: ["roi", () => regionOf(app.found, app.state), (numbers) => numbers.join()],
  level: ["level", (level) => level + 2, (level) => level - 2],
  bins: ["bins", Number, Number],
  ratio: ["sampling_ratio", Number, Number],
  aligned: ["aligned", Boolean, Number],
  roiChannel: ["channel", Number, Number],
};

// model: of the widget. Called when all scripts have run.
async function play(model) {
  const bytes = (name) => {
    const view = model.get(name);
    return view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
  };
  const kernels = await Kernels.load(bytes("_module"), model.get("_table"));
  const numbers = new Float32Array(bytes("_maps"));
  let first = 0;
  const levels = model.get("_shapes").map((shape) => {
    const map = kernels.array(shape);
    map.data.set(numbers.subarray(first, first + map.size));
    first += map.size;
    return map;
  });
  const { height, width, box } = model.get("_picture");
  app.detector = { kernels };
  app.found = {
    picture: { height, width, pixels: new Float32Array(bytes("_pixels")) },
    features: { levels },
    detections: { labels: [1], boxes: Float32Array.from(box) },
  };
  $("roi-channel").max = levels[0].shape[3] - 1;

  // What the notebook sets is shown, and what is done here is told to the notebook, and to other views of it
  app.writeAddress = () => {
    for (const [key, [name, out]] of Object.entries(SHARED)) model.set(name, out(app.state[key]));
    model.save_changes();
  };
  const listeners = Object.entries(SHARED).map(([key, [name, , back]]) => {
    const take = () => app.set({ [key]: back(model.get(name)) });
    take();
    model.on(`change:${name}`, take);
    return () => model.off(`change:${name}`, take);
  });
  app.show(app.parts);
  return () => listeners.forEach((forget) => forget());
}
