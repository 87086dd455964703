// The beginning: the module is loaded, the first picture goes through the network.

"use strict";

async function start() {
  const bytes = (id) => Uint8Array.from(atob($(id).textContent), (letter) => letter.charCodeAt(0));
  const module = bytes("module");
  const kernels = await Kernels.load(module, FACTS.kernels);
  const numbers = fromFloat16(new Uint16Array(bytes("numbers").buffer));
  app.detector = new Detector(kernels, new Layers(kernels, FACTS.weights, numbers), FACTS.config);
  const functions = Object.keys(FACTS.kernels).length;
  $("facts-line").textContent = `${functions} functions of Python are ${Math.round(module.length / 1000)} kB of
    WebAssembly; the network has ${(numbers.length / 1e6).toFixed(1)} million numbers.`;
  app.readAddress();
  makeControls();
  if (app.state.picture < 0 || app.state.picture >= SAMPLES.length) app.state.picture = 0;
  await chooseSample(app.state.picture);
}

start().catch((error) => {
  $("stage-status").textContent = `The network cannot run in this browser: ${error.message}`;
});
