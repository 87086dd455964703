// What the page knows: the last detection, and the state that its address keeps. Parts of the page register what they
// show, and are shown anew when something changes that they depend on.

"use strict";

// Name -> the value at first; of numbers, the least and the most too. The address holds the values that are others.
const STATE = {
  picture: [0, -1, 99],
  object: [0, 0, 99],
  score: [0.5, 0.05, 0.95],
  channel: [21, 0, 63],
  cell: "",
  rpn: [1, 0, 3],
  rpnCell: "",
  threshold: [0.5, 0.1, 0.9],
  level: [1, 0, 3],
  roi: "",
  bins: [7, 1, 7],
  ratio: [2, 0, 4],
  aligned: [1, 0, 1],
  bin: "3,3",
  roiChannel: [21, 0, 63],
  step: [7, 0, 7],
  maskChannel: [0, 0, 63],
  maskCell: "14,14",
  pixel: "",
  least: [0.5, 0.05, 0.95],
  remembered: "",
  drawn: "",
};
const FIRST = Object.fromEntries(
  Object.entries(STATE).map(([key, value]) => [key, Array.isArray(value) ? value[0] : value]),
);

const app = {
  state: { ...FIRST },
  detector: null,
  found: null, // the last detection
  parts: [],
  waiting: new Set(),

  // show(): called after every detection, and when one of the state's `keys` changes.
  part(keys, show) {
    app.parts.push({ keys, show });
  },

  set(changes) {
    const changed = Object.keys(changes).filter((key) => app.state[key] !== changes[key]);
    if (!changed.length) return;
    Object.assign(app.state, changes);
    app.show(app.parts.filter(({ keys }) => keys.some((key) => changed.includes(key))));
    clearTimeout(app.writing);
    app.writing = setTimeout(app.writeAddress, 250);
  },

  // Shown together before the browser's next frame.
  show(parts) {
    if (!app.found) return;
    if (!app.waiting.size) requestAnimationFrame(app.showWaiting);
    parts.forEach((part) => app.waiting.add(part));
  },

  showWaiting() {
    const parts = app.parts.filter((part) => app.waiting.has(part));
    app.waiting.clear();
    parts.forEach((part) => part.show(app.found, app.state));
  },

  // picture: {height, width, pixels}.
  detect(picture) {
    const began = performance.now();
    app.found = app.detector.detect(picture);
    app.milliseconds = performance.now() - began;
    app.show(app.parts);
  },

  writeAddress() {
    const kept = Object.entries(app.state).filter(([key, value]) => String(value) !== String(FIRST[key]));
    const text = kept.map(([key, value]) => `${key}=${value}`).join("&");
    history.replaceState(null, "", text ? `#${text}` : "#");
  },

  // An address such as #picture=2&roi=20,30,70,80. What is not understood is left out.
  readAddress() {
    for (const pair of location.hash.slice(1).split("&")) {
      const [key, value] = pair.split("=");
      if (!(key in FIRST) || value === undefined) continue;
      if (typeof FIRST[key] === "string") {
        if (/^[\w,.-]*$/.test(value)) app.state[key] = value;
      } else if (value !== "" && Number.isFinite(Number(value))) {
        app.state[key] = Math.min(Math.max(Number(value), STATE[key][1]), STATE[key][2]);
      }
    }
  },
};

const numbersOf = (text) => text.split(",").map(Number);

// "column,row" as two whole numbers within a grid of size [columns, rows].
const cellOf = (text, size) =>
  size.map((count, i) => Math.min(Math.max(Math.trunc(numbersOf(text)[i]) || 0, 0), count - 1));

// The chosen object: its number in the detections, or -1 where nothing was found.
function chosenObject(found, state) {
  const count = found.detections.labels.length;
  return count ? Math.min(Math.max(Math.trunc(state.object), 0), count - 1) : -1;
}

// A word in an answer that leads to where a number comes from. changes: of the state. to: the part's element.
function follow(words, changes, to) {
  const text = JSON.stringify(changes).replaceAll('"', "&quot;");
  return `<button type="button" class="follow" data-changes="${text}" data-to="${to}">${words}</button>`;
}

document.addEventListener("click", ({ target }) => {
  if (!target.matches(".follow")) return;
  app.set(JSON.parse(target.dataset.changes));
  const answer = $(target.dataset.to);
  answer.tabIndex = -1; // so that it takes the keyboard's place of the word, which is gone
  answer.scrollIntoView({ block: "center" });
  answer.focus({ preventScroll: true });
});

// Buttons of which one is chosen. values: [value, name]. key: in the state.
function chooser(id, key, values) {
  const buttons = values.map(([value, name]) => {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", textContent: name });
    button.addEventListener("click", () => app.set({ [key]: value }));
    $(id).append(button);
    return button;
  });
  const mark = () =>
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", values[i][0] === app.state[key]));
  app.part([key], mark);
  mark();
}

// A slider, with its value in words beside it. words(value): the words.
function slider(id, key, words = String) {
  const input = $(id);
  const output = $(`${id}-out`);
  input.addEventListener("input", () => app.set({ [key]: Number(input.value) }));
  app.part([key], (found, state) => {
    input.value = state[key];
    output.textContent = words(state[key]);
    input.setAttribute("aria-valuetext", words(state[key]));
  });
}
