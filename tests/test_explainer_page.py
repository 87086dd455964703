"""The explainer in a browser: every control does something, nothing is written to the console, nothing is asked for
from outside."""

from pathlib import Path

import numpy as np
import pytest
from chromium import Chromium, find_chromium
from PIL import Image

TESTS = Path(__file__).resolve().parent
PAGE = (TESTS.parent / "lessons/explainer/index.html").as_uri()
SUMS = TESTS / "explainer_sums.js"
READY = (
    "typeof app == 'object' && app.found && !app.waiting.size && document.querySelector('#mask-readout').textContent"
)
# All that can be seen: the text, the lines, the pixels
SEEN = """(() => {
  const pixels = [...document.querySelectorAll("canvas")].map((canvas) => canvas.toDataURL());
  const values = [...document.querySelectorAll("input, select")].map((input) => `${input.value} ${input.checked}`);
  const text = [document.querySelector("main").innerHTML, ...pixels, ...values].join();
  let hash = 0;
  for (let i = 0; i < text.length; i++) hash = (hash * 31 + text.charCodeAt(i)) | 0;
  return hash;
})()"""
SETTLED = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="opens a page: there is no Chromium or Chrome")


@pytest.fixture(scope="module")
def page():
    with Chromium() as page:
        page.open(PAGE, READY)
        yield page


def fresh(page, address=""):
    page.open("about:blank", "true")
    page.open(PAGE + address, READY)
    page.run("document.documentElement.style.scrollBehavior = 'auto'")  # a click must not chase its target


def test_the_console_is_heard(tmp_path):
    """Else a silent console would prove nothing."""
    file = tmp_path / "page.html"
    file.write_text('<script>console.log("heard"); missing();</script><img src="http://127.0.0.1:9/none.png">')
    with Chromium() as page:
        page.open(file.as_uri())
        page.run(SETTLED)
        text = " ".join(page.messages)
    assert "heard" in text and "missing is not defined" in text and "asked for http://127.0.0.1:9/none.png" in text


@pytest.mark.exhaustive
def test_every_control_does_something(page):
    fresh(page)
    before = page.run(SEEN)
    assert before == page.run(SEEN)
    controls = page.run("""[...document.querySelectorAll("button, select, input, [tabindex]")].map((element, i) => {
      element.dataset.test = i;
      return [i, element.localName, element.type || "", element.id || element.textContent.slice(0, 30)];
    })""")
    assert len(controls) > 80
    idle = []
    chosen = page.run(
        "[...document.querySelectorAll('[aria-pressed=true]')].map((button) => Number(button.dataset.test))"
    )
    for number, tag, kind, name in sorted(controls, key=lambda control: control[0] in chosen):  # when others are chosen
        selector = f'[data-test="{number}"]'
        if kind == "file" or not page.run(f"Boolean(document.querySelector('{selector}'))"):
            continue
        if kind == "range" or tag == "select":
            code = f"""(() => {{
              const element = document.querySelector('{selector}');
              if (element.localName == "select") element.selectedIndex = element.options.length - 1;
              if (element.type == "range") element.value = element.value == element.max ? element.min : element.max;
              element.dispatchEvent(new Event("input", {{ bubbles: true }}));
              element.dispatchEvent(new Event("change", {{ bubbles: true }}));
            }})()"""
            if name == "roi-bins":
                code = code.replace("element.options.length - 1", "4")
            page.run(code)
        elif tag == "div":
            page.click(selector, 0.3, 0.6)
            page.run(SETTLED)
            before = page.run(SEEN)
            page.press("ArrowLeft")
        else:
            page.click(selector)
        page.wait("!sweeping && detection === null")
        page.run(SETTLED)
        after = page.run(SEEN)
        if after == before:
            idle.append((number, tag, kind, name))
        before = after
    assert page.messages == []
    assert not idle, "\n".join(map(str, idle))


@pytest.mark.exhaustive
def test_the_sums_give_the_numbers(page):
    """What "where from" adds up is the number that the network computed."""
    fresh(page, "#picture=1")
    page.run(SUMS.read_text(encoding="utf-8"))
    worst = page.run("worstOfSums(app)")
    assert len(worst) == 9
    assert worst.pop("roi_pool") == 0
    assert max(worst.values()) < 1e-3, worst


@pytest.mark.exhaustive
@pytest.mark.parametrize("level, cell, size", [(0, (16, 16), 43), (1, (8, 8), 99)])
def test_a_cell_depends_on_its_receptive_field(page, level, cell, size):
    """Its outermost lines of pixels change the cell, and those one further do not."""
    fresh(page)
    page.run(SUMS.read_text(encoding="utf-8"))
    left, top, right, bottom = page.run(f"receptiveField({level}, {{ x: {cell[0]}, y: {cell[1]} }})")
    assert right - left == bottom - top == size
    middle = (left + right) // 2
    for inside, outside in ((left, left - 1), (right - 1, right)):
        for place, changes in ((inside, True), (outside, False)):
            assert page.run(f"cellChanges({level}, {list(cell)}, [{place}, {middle}], false)") is changes
    for inside, outside in ((top, top - 1), (bottom - 1, bottom)):
        for place, changes in ((inside, True), (outside, False)):
            assert page.run(f"cellChanges({level}, {list(cell)}, [{middle}, {place}], true)") is changes


def test_an_answer_leads_back(page):
    """From a pixel's mask to a cell of the grid, from there step by step to the map, and to the map's own sum."""
    fresh(page)
    page.click("#paste-readout .follow")
    page.run(SETTLED)
    assert page.run("app.state.step") == 7
    for step in (5, 4, 3, 2, 1, 0):
        page.click("#mask-readout .follow")
        page.run(SETTLED)
        assert page.run("app.state.step") == step
    page.click("#mask-readout .follow")
    page.run(SETTLED)
    assert page.run("app.state.cell").startswith("1,")
    page.click("#map-readout .follow")
    page.run(SETTLED)
    assert page.run("app.state.cell").startswith("0,")
    assert "Back at the pixels" in page.run("document.querySelector('#map-readout').textContent")
    assert page.messages == []


def region(page):
    return page.run("regionOf(app.found, app.state)")


def drag(page, hold, across):
    """Take hold of a part of the region on the picture of part 6, and move it so many of its pixels to the right."""
    x, y = page.place(f'#lab-picture [data-hold="{hold}"]')
    scale = page.run("document.querySelector('#lab-picture canvas').getBoundingClientRect().width / 128")
    page.mouse("Moved", x, y)
    page.mouse("Pressed", x, y)
    for step in range(1, 11):
        page.mouse("Moved", x + across * scale * step / 10, y)
    page.mouse("Released", x + across * scale, y)
    page.run(SETTLED)


def test_the_region_is_dragged_by_body_edge_and_corner(page):
    fresh(page, "#roi=40,40,80,80")
    drag(page, "body", 4)
    assert region(page) == pytest.approx([44, 40, 84, 80], abs=0.1)
    drag(page, "right", 8)
    assert region(page) == pytest.approx([44, 40, 92, 80], abs=0.1)
    drag(page, "top-left", -6)
    assert region(page) == pytest.approx([38, 40, 92, 80], abs=0.1)
    assert page.run("trace.points.length") > 15
    # the kernels agree with the explanation of the bin that the page writes out
    words = page.run("document.querySelector('#pool-readout strong').textContent")
    value = page.run("(() => { const s = app.state, [c, r] = chosenBin(s); "
                     "return poolRegion(app.found, s).pool[(r * s.bins + c) * 64 + s.roiChannel]; })()")  # fmt: skip
    assert words == f"RoIPool: {value:.3f}".replace("-", "−")
    assert page.messages == []


def test_the_region_is_dragged_by_a_finger(page):
    fresh(page, "#roi=40,40,80,80")
    page.ask("Emulation.setTouchEmulationEnabled", enabled=True)
    x, y = page.place('#lab-align [data-hold="body"]')
    before = page.run("scrollY")
    page.ask("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
    for step in range(1, 11):
        page.ask("Input.dispatchTouchEvent", type="touchMove", touchPoints=[{"x": x, "y": y + 5 * step}])
    page.ask("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    page.ask("Emulation.setTouchEmulationEnabled", enabled=False)
    page.run(SETTLED)
    assert region(page)[0] == pytest.approx(40, abs=0.1) and region(page)[1] > 50
    assert page.run("scrollY") == before  # the finger moved the region, not the page


@pytest.mark.exhaustive
def test_a_swept_region_draws_stairs_and_a_saw_tooth(page):
    fresh(page, "#roi=30,40,70,80&level=2&bins=7")
    page.click("#sweep")
    page.wait("!sweeping && trace.points.length > 100")
    points = page.run("trace.points")
    pool, align = ([point[name] for point in points] for name in ("pool", "align"))
    off = [point["poolOff"] for point in points]
    assert len(set(pool)) <= 8 and len(set(align)) > 50  # RoIPool stands still, then jumps
    steps = [b - a for a, b in zip(off[:-1], off[1:], strict=True)]
    jumps = [step for step in steps if step > 3]
    assert len(jumps) >= 2 and all(-0.5 < step <= 0 for step in steps if step not in jumps)  # slowly down, at once up
    assert all(point["alignOff"] == 0 for point in points)


@pytest.mark.exhaustive
def test_nothing_moves_by_itself_for_those_who_ask_for_rest(page):
    fresh(page, "#roi=30,40,70,80")
    page.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    try:
        page.click("#sweep")
        assert page.run("trace.points.length") > 100  # at once
        page.run(SETTLED)
        assert region(page)[0] == 46
    finally:
        page.ask("Emulation.setEmulatedMedia", features=[])


@pytest.mark.exhaustive
def test_the_state_lies_in_the_address(page):
    fresh(page, "#picture=2&object=1&level=2&bins=3&roi=20,30,70,90&remembered=20,30,70,90&step=3&channel=5")
    state = page.run("app.state")
    wanted = {"picture": 2, "object": 1, "level": 2, "bins": 3, "roi": "20,30,70,90", "step": 3, "channel": 5}
    assert wanted.items() <= state.items()
    assert page.run("document.querySelector('#roi-bins').value") == "3"
    page.run("app.set({ bins: 5 })")
    page.wait("location.hash.includes('bins=5')")
    # what makes no sense is left out, and does no harm
    fresh(page, "#picture=77&bins=1e9&roi=a,b&cell=<b>&level=-3&nothing=1&step=&maskCell=9")
    assert page.run("[app.state.bins, app.state.level, app.state.step, app.state.picture, app.state.cell]") == [
        7,
        0,
        7,
        0,
        "",
    ]
    assert all(isinstance(value, (int, float)) for value in region(page))
    assert page.messages == []


@pytest.mark.exhaustive
def test_both_challenges_with_the_region_can_be_solved(page):
    """By a search: a step of a tenth of a pixel that RoIPool notices, and one of a pixel that it does not."""
    fresh(page, "#level=3&bins=3")
    solved = page.run("""(async () => {
      const found = new Set();
      for (let x = 20; x < 36; x += 0.1) {
        for (const step of [0.1, 1]) {
          const at = (left) => [left, 30, left + 50, 80].map((value) => Math.round(100 * value) / 100).join();
          app.set({ remembered: at(x), roi: at(x + step) });
          app.showWaiting();
          for (const { textContent } of document.querySelectorAll("#regions-readout .solved")) found.add(textContent);
        }
      }
      return [...found];
    })()""")
    assert sorted(words.split()[0] for words in solved) == ["Moved", "Told"]


def test_the_steps_of_nms_keep_what_the_network_keeps(page):
    fresh(page, "#picture=2")
    names = page.run("[...document.querySelector('#nms-list').options].map((option) => option.text)")
    lists = [i for i, name in enumerate(names) if name.startswith("detections")]
    assert len(lists) >= 3
    kept = 0
    for i in lists:
        page.run(f"""(() => {{
          const list = document.querySelector("#nms-list");
          list.selectedIndex = {i};
          list.dispatchEvent(new Event("change"));
        }})()""")
        page.run(SETTLED)
        page.click("#nms-all")
        kept += page.run("walk.kept.length")
    assert kept == page.run("app.found.detections.kept.length") > 4


def test_painting_and_drawing(page):
    fresh(page)
    page.click("#paint-empty")
    page.wait("app.state.picture == -1")
    page.run(SETTLED)
    assert page.run("app.found.detections.scores.filter((score) => score > 0.5).length") == 0
    page.click('#tools [aria-label="circle"]')
    page.click("#stage", 0.5, 0.5)
    page.wait("app.found.detections.scores[0] > 0.9")
    assert page.run("CLASSES[app.found.detections.labels[0]]") == "circle"
    # the network's own mask, drawn by hand, is right
    page.run("app.set({ drawn: toHex(app.found.masks.data.subarray(0, 784).map((share) => share >= 0.5 ? 1 : 0)) })")
    page.run(SETTLED)
    page.click("#draw-see")
    text = page.run("document.querySelector('#draw-readout').innerText")
    assert "an IoU of 1.00" in text and "Solved" in text
    assert page.messages == []


def test_a_photograph(page, tmp_path):
    """Any picture file, brought down to what the network knows; another file is told apart."""
    fresh(page)
    photo = np.full((300, 400, 3), 90, np.uint8)
    photo[100:190, 150:240] = (230, 200, 40)
    Image.fromarray(photo).save(tmp_path / "photo.jpg")
    (tmp_path / "notes.jpg").write_text("no picture")
    found = page.ask("Runtime.evaluate", expression="document.querySelector('#photo')")["result"]["objectId"]
    page.ask("DOM.setFileInputFiles", files=[str(tmp_path / "photo.jpg")], objectId=found)
    page.wait("app.found.picture.width == 160")
    assert page.run("[app.found.picture.height, CLASSES[app.found.detections.labels[0]]]") == [120, "square"]
    page.ask("DOM.setFileInputFiles", files=[str(tmp_path / "notes.jpg")], objectId=found)
    page.wait("document.querySelector('#stage-status').textContent.includes('cannot be read')")
    assert page.messages == []


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_sticks_out(page, width):
    page.ask("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    fresh(page)
    assert page.run("document.documentElement.scrollWidth") <= width
    small = page.run("""[...document.querySelectorAll("button:not(.follow), select")].filter((element) => {
      const box = element.getBoundingClientRect();
      return box.width && (box.height < 32 || box.width < 32);
    }).map((element) => element.outerHTML.slice(0, 80))""")
    assert small == []  # large enough for a finger
    unnamed = page.run("""[...document.querySelectorAll("button, select, input, [tabindex]")].filter((element) => {
      const words = [element.ariaLabel, element.textContent, element.closest("label")?.textContent];
      return !words.some((text) => text?.trim());
    }).map((element) => element.outerHTML.slice(0, 80))""")
    assert unnamed == []
    page.ask("Emulation.setDeviceMetricsOverride", width=1200, height=1000, deviceScaleFactor=1, mobile=False)


def test_without_a_script_the_picture_and_the_text_are_there(page):
    page.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open("about:blank", "true")
        page.open(PAGE)
        shown = page.run("document.querySelector('#stage img').naturalWidth")
        assert shown == 512
        assert page.run("getComputedStyle(document.querySelector('.controls')).display") == "none"
    finally:
        page.ask("Emulation.setScriptExecutionDisabled", value=False)
