// Parts 4 and 5: proposals above a score, and non-maximum suppression step by step.

"use strict";

const proposalsFrame = new Frame("proposals");
const nmsFrame = new Frame("nms");
const LEVEL_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#b3247a"];

function showProposals(found) {
  const { proposals, picture } = found;
  const least = Number($("proposal-score").value) / 100;
  const { rpn } = app.detector.config;
  const above = proposals.kept.filter((i) => sigmoid(proposals.candidates.scores[i]) >= least);
  proposalsFrame.paint(picturePixels(picture, 0.35));
  proposalsFrame.draw(
    [...above].reverse().map((i) => {
      const share = sigmoid(proposals.candidates.scores[i]);
      return rectangle(boxOf(proposals.candidates.boxes, i), {
        stroke: LEVEL_COLOURS[proposals.candidates.levels[i]],
        width: 1 + 1.5 * share,
        "stroke-opacity": 0.3 + 0.7 * share,
      });
    }),
  );
  $("proposal-score-out").textContent = percent(least);
  const total = found.rpn.anchors.reduce((sum, level) => sum + level.length / 4, 0);
  const ofLevel = LEVELS.map((name, level) => [
    `${swatch(LEVEL_COLOURS[level])} P${name}`,
    found.rpn.anchors[level].length / 4,
    proposals.candidates.levels.filter((l) => l === level).length,
    proposals.kept.filter((i) => proposals.candidates.levels[i] === level).length,
    above.filter((i) => proposals.candidates.levels[i] === level).length,
  ]);
  $("proposals-readout").innerHTML =
    `<p><strong>${above.length}</strong> of ${proposals.kept.length} proposals are above ${percent(least)}.</p>
    ${table(["level", "anchors", "best", "proposals", "shown"], ofLevel)}
    <p>Of ${total} anchors the best ${rpn.pre_nms_test} of each level are corrected; of those the ones stay that
      overlap no better one by an IoU above ${rpn.nms}; and of these the best ${rpn.post_nms_test} of all levels.</p>`;
}

$("proposal-score").addEventListener("input", () => {
  if (app.found) showProposals(app.found);
});
app.part([], showProposals);

// Non-maximum suppression. A list: boxes, best first, with their scores. walk: how many have been looked at.

const walk = { list: null, looked: 0, kept: [], dropped: new Map(), last: "" };

// The candidates of each class, as the box branch has them, then the best proposals of each level.
function nmsLists(found) {
  const { rpn, box } = app.detector.config;
  const { candidates } = found.detections;
  const { candidates: proposed } = found.proposals;
  const rowsOf = (groups, group) => groups.flatMap((of, i) => (of === group ? [i] : []));
  const classes = CLASSES.map((name, label) => {
    const rows = rowsOf(candidates.labels, label);
    const words = `detections: ${name} (${rows.length})`;
    return { name: words, of: "detections", threshold: box.nms, ...sortedBoxes(candidates, rows, (score) => score) };
  });
  const levels = LEVELS.map((name, level) => {
    const rows = rowsOf(proposed.levels, level).slice(0, 60);
    const words = `proposals of P${name} (the best ${rows.length})`;
    return { name: words, of: "proposals", threshold: rpn.nms, ...sortedBoxes(proposed, rows, sigmoid) };
  });
  return [...classes, ...levels].filter(({ boxes }) => boxes.length);
}

function sortedBoxes({ boxes, scores }, rows, share) {
  const sorted = [...rows].sort((a, b) => scores[b] - scores[a]);
  return { boxes: sorted.map((i) => Array.from(boxOf(boxes, i))), scores: sorted.map((i) => share(scores[i])) };
}

function startWalk() {
  Object.assign(walk, {
    looked: 0,
    kept: [],
    dropped: new Map(),
    last: "Nothing is decided yet. The best box comes first.",
  });
  showWalk();
}

// Looks at the next box: kept, unless a kept one overlaps it too much.
function stepWalk() {
  const { list } = walk;
  const i = walk.looked;
  if (!list || i >= list.boxes.length) return false;
  walk.looked += 1;
  const overlaps = walk.kept.map((k) => [k, overlap(app.detector.kernels, list.boxes[k], list.boxes[i])]);
  const over = overlaps.find(([, iou]) => iou > app.state.threshold);
  if (over) walk.dropped.set(i, over);
  else walk.kept.push(i);
  const box = `Box ${i + 1}, score ${number(list.scores[i])}:`;
  if (over)
    walk.last = `${box} <strong>dropped</strong>. ${iouInNumbers(list.boxes[over[0]], list.boxes[i], over[0] + 1)}`;
  else if (!overlaps.length) walk.last = `${box} <strong>kept</strong>, the best of all.`;
  else {
    const [k, most] = overlaps.reduce((a, b) => (b[1] > a[1] ? b : a));
    const why = most > 0 ? iouInNumbers(list.boxes[k], list.boxes[i], k + 1) : "It overlaps no kept box.";
    walk.last = `${box} <strong>kept</strong>. ${why}`;
  }
  return true;
}

function iouInNumbers(a, b, name) {
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  const wide = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0]));
  const high = Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const shared = wide * high;
  const iou = shared / (area(a) + area(b) - shared);
  const sign = iou > app.state.threshold ? "&gt;" : "≤";
  const [first, second, both] = [area(a), area(b), shared].map((value) => number(value, 0));
  return `With box ${name} it shares ${both} pixels of ${first} + ${second} − ${both}:
    IoU ${number(iou)} ${sign} ${number(app.state.threshold)}.`;
}

function showWalk() {
  const { list } = walk;
  nmsFrame.paint(picturePixels(app.found.picture, 0.35));
  $("nms-step").disabled = $("nms-all").disabled = !list || walk.looked >= list.boxes.length;
  if (!list) {
    nmsFrame.draw();
    $("nms-readout").innerHTML = "<p>There are no boxes.</p>";
    return;
  }
  const order = list.boxes.map((_, i) => i).reverse();
  nmsFrame.draw(
    order.map((i) => {
      const current = i === walk.looked - 1;
      if (walk.kept.includes(i)) return outlined(list.boxes[i], { stroke: ALIGN, width: current ? 4 : 3 });
      if (walk.dropped.has(i)) return rectangle(list.boxes[i], { stroke: POOL, width: current ? 3 : 1, dash: "5 4" });
      return rectangle(list.boxes[i], { stroke: "#555", width: 1, "stroke-opacity": 0.5 });
    }),
  );
  const rows = [
    ["boxes", list.boxes.length],
    ["looked at", walk.looked],
    ["kept", walk.kept.length],
    ["dropped", walk.dropped.size],
  ];
  $("nms-readout").innerHTML =
    `<p>${walk.last}</p>${table([], rows)}<p>Blue and thick: kept. Dashed: dropped. Thin: still waiting.</p>`;
}

app.part([], (found) => {
  const lists = nmsLists(found);
  const select = $("nms-list");
  const before = select.selectedIndex;
  select.innerHTML = lists.map(({ name }) => `<option>${name}</option>`).join("");
  // at first the class with the most candidates
  const sizes = lists.map(({ of, boxes }) => (of === "detections" ? boxes.length : 0));
  select.selectedIndex = before >= 0 && before < lists.length ? before : sizes.indexOf(Math.max(...sizes));
  walk.list = lists[select.selectedIndex] || null;
  select.onchange = () => {
    walk.list = lists[select.selectedIndex];
    app.set({ threshold: walk.list.threshold }); // the network's own
    startWalk();
  };
  startWalk();
});
app.part(["threshold"], () => startWalk());
slider("nms-threshold", "threshold", (value) => number(value));
$("nms-step").addEventListener("click", () => {
  stepWalk();
  showWalk();
});
$("nms-all").addEventListener("click", () => {
  while (stepWalk());
  showWalk();
});
$("nms-again").addEventListener("click", startWalk);
