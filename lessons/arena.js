// The arena of lesson 14: two shapes in a frame, which are taken hold of by pointer, touch or keys.
// Python knows where they are when they are let go.

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const SVG = "http://www.w3.org/2000/svg";
// A name is bold while its shape has the focus. (The browser's frame would be as large as the shape's whole picture.)
const STYLE = `g { outline: none }
image { image-rendering: pixelated }
text { font: 5px sans-serif; text-anchor: middle; pointer-events: none }
g:nth-of-type(1):focus ~ text:nth-of-type(1), g:nth-of-type(2):focus ~ text:nth-of-type(2) { font-weight: bold }`;

function render({ model, el }) {
  const [width, height] = model.get("_size");
  const patch = model.get("_patch"); // the pixels along a side of a shape's picture, whose middle is its centre
  const svg = el.appendChild(document.createElementNS(SVG, "svg"));
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("style", `width:100%; max-width:${4 * width}px; background:#9e9e9e; touch-action:none`);
  const groups = [0, 1].map((which) => {
    const group = svg.appendChild(document.createElementNS(SVG, "g"));
    group.setAttribute("tabindex", 0);
    group.setAttribute("role", "img");
    group.appendChild(document.createElementNS(SVG, "image"));
    return group;
  });
  const names = [..."AB"].map((name) => {
    const text = svg.appendChild(document.createElementNS(SVG, "text"));
    text.textContent = name;
    return text;
  });
  svg.appendChild(document.createElementNS(SVG, "style")).textContent = STYLE;
  let places = model.get("value");

  const draw = () => {
    groups.forEach((group, which) => {
      const [x, y] = places[which];
      const image = group.firstChild;
      const side = { x: x - patch / 2, y: y - patch / 2, width: patch, height: patch };
      for (const [key, number] of Object.entries(side)) image.setAttribute(key, number);
      image.setAttribute("href", model.get("_pictures")[which]);
      names[which].setAttribute("x", x);
      names[which].setAttribute("y", y);
      group.setAttribute("aria-label", `${"AB"[which]} at ${x}, ${y}. The arrow keys move it.`);
    });
  };
  const hear = () => {
    places = model.get("value");
    draw();
  };
  const tell = () => {
    model.set("value", places);
    model.save_changes();
  };
  const move = (which, x, y) => {
    const inside = (value, size) => Math.round(Math.min(Math.max(value, 8), size - 8));
    places = places.map((place, i) => (i === which ? [inside(x, width), inside(y, height)] : place));
    draw();
  };

  // the point of an event in pixels of the picture
  const point = (event) => {
    const frame = svg.getBoundingClientRect();
    return [((event.clientX - frame.left) * width) / frame.width, ((event.clientY - frame.top) * height) / frame.height];
  };
  // What lies at a point: the shape in front, if it has a pixel there, else the one behind; else the nearest centre
  const hit = ([x, y]) => {
    const bytes = model.get("_masks");
    const masks = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const has = (which) => {
      const [column, row] = [x, y].map((value, axis) => Math.floor(value - places[which][axis] + patch / 2));
      const within = Math.min(column, row) >= 0 && Math.max(column, row) < patch;
      return within && masks[which * patch * patch + row * patch + column] > 0;
    };
    if (has(1)) return 1;
    if (has(0)) return 0;
    const far = places.map((place) => Math.hypot(x - place[0], y - place[1]));
    return far[1] <= far[0] ? 1 : 0;
  };

  let held = null;
  svg.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    const from = point(event);
    const which = hit(from);
    held = { which, from, place: places[which] };
    svg.setPointerCapture(event.pointerId);
    groups[which].focus({ preventScroll: true });
  });
  svg.addEventListener("pointermove", (event) => {
    if (!held) return;
    const [x, y] = point(event);
    move(held.which, held.place[0] + x - held.from[0], held.place[1] + y - held.from[1]);
  });
  for (const end of ["pointerup", "pointercancel"])
    svg.addEventListener(end, () => {
      if (held) tell();
      held = null;
    });
  let waiting = null;
  groups.forEach((group, which) =>
    group.addEventListener("keydown", (event) => {
      const step = ARROWS[event.key];
      if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      const size = event.shiftKey ? 5 : 1;
      move(which, places[which][0] + size * step[0], places[which][1] + size * step[1]);
      clearTimeout(waiting); // a key that is held down is told once
      waiting = setTimeout(tell, 200);
    }),
  );

  const changes = ["change:value", "change:_pictures"];
  for (const change of changes) model.on(change, hear);
  draw();
  return () => changes.forEach((change) => model.off(change, hear));
}

export default { render };
