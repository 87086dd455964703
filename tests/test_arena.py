"""lessons/arena.py, two shapes to drag: what is taken hold of, and what Python is told."""

import base64
import io
import json

import numpy as np
import pytest
from chromium import Chromium, find_chromium
from PIL import Image

pytest.importorskip("anywidget", reason="a widget: pip install -e '.[lessons]'")
traitlets = pytest.importorskip("traitlets")
from arena import PATCH, Arena  # noqa: E402

SHAPES = ((5, 26, 0.0), (1, 24, 0.0))  # a ring and, in front of it, a circle
BROWSER = """(async () => {
  const { code, values, masks } = FACTS;
  values._masks = new DataView(Uint8Array.from(atob(masks), (letter) => letter.charCodeAt(0)).buffer);
  const heard = {};
  globalThis.told = [];
  globalThis.notebook = {
    get: (name) => values[name],
    set: (name, value) => {
      values[name] = value;
      (heard[`change:${name}`] || []).forEach((call) => call());
    },
    on: (name, call) => (heard[name] ||= []).push(call),
    off: (name, call) => (heard[name] = heard[name].filter((other) => other !== call)),
    save_changes: () => told.push(values.value),
  };
  const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  const { default: widget } = await import(address);
  document.body.style.margin = 0;
  const el = document.body.appendChild(Object.assign(document.createElement("div"), { style: "width: 448px" }));
  globalThis.close = widget.render({ model: notebook, el });
  globalThis.left = () => document.querySelectorAll("image")[1].x.baseVal.value;
})()"""


@pytest.fixture(scope="module")
def arena():
    return Arena(SHAPES)


@pytest.fixture
def page(arena):
    """A page with one view of the widget, four pixels of the screen for one of the picture."""
    if find_chromium() is None:
        pytest.skip("opens a page: there is no Chromium or Chrome")
    values = {name: getattr(arena, name) for name in ("value", "_size", "_patch", "_pictures")}
    facts = json.dumps({"code": arena._esm, "values": values, "masks": base64.b64encode(arena._masks).decode()})
    with Chromium(800, 600) as page:
        page.run(BROWSER.replace("FACTS", facts))
        yield page


def drag(page, start, by):
    page.mouse("Pressed", *(4 * value for value in start))
    page.mouse("Moved", *(4 * (value + step) for value, step in zip(start, by, strict=True)))
    page.mouse("Released", *(4 * (value + step) for value, step in zip(start, by, strict=True)))
    return page.run("told.at(-1)")


def test_the_pictures_are_those_of_the_shapes(arena):
    masks = np.frombuffer(arena._masks, np.uint8).reshape(2, PATCH, PATCH)
    y, x = np.mgrid[:PATCH, :PATCH] + 0.5 - PATCH / 2
    np.testing.assert_array_equal(masks[1], np.hypot(x, y) <= 24)
    assert masks[0][40, 40] == 0 and masks[0][40, 62] == 1  # a ring has a hole
    for mask, address in zip(masks, arena._pictures, strict=True):
        picture = Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))
        np.testing.assert_array_equal(np.asarray(picture)[..., 3] >= 128, mask)


def test_other_shapes(arena):
    before = arena._pictures
    arena.show(((2, 10, 0.0), SHAPES[1]))
    assert arena._pictures[0] != before[0] and arena._pictures[1] == before[1]
    assert int(np.frombuffer(arena._masks, np.uint8)[: PATCH**2].sum()) == pytest.approx(
        200, rel=0.1
    )  # half of 20 * 20
    arena.show(SHAPES)
    assert arena._pictures == before


@pytest.mark.parametrize("value", [[[1, 2]], [[1, 2], [3]], [[1, 2], ["x", 3]]])
def test_what_is_no_place_is_refused(arena, value):
    with pytest.raises(traitlets.TraitError):
        arena.value = value


def test_the_shape_in_front_is_taken_where_both_are(page):
    assert drag(page, (70, 50), (10, -5)) == [[50, 48], [68, 49]]
    assert drag(page, (26, 48), (-3, 7)) == [[47, 55], [68, 49]]  # A alone lies there
    assert page.run("told.length") == 2 and page.messages == []


def test_beside_both_the_nearest_is_taken_and_none_leaves_the_picture(page):
    assert drag(page, (3, 90), (80, -88)) == [[104, 8], [58, 54]]
    assert drag(page, (110, 94), (-108, 1)) == [[104, 8], [8, 55]]


def test_keys_move_what_has_the_focus(page):
    page.run("""document.querySelectorAll("g")[0].focus()""")
    for key, shift in (("ArrowLeft", False), ("ArrowDown", True), ("x", False)):
        event = json.dumps({"key": key, "shiftKey": shift, "bubbles": True})
        page.run(f"document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {event}))")
    page.wait("told.length == 1")
    assert page.run("told[0]") == [[49, 53], [58, 54]]
    assert page.run("""document.activeElement.getAttribute("aria-label")""").startswith("A at 49, 53.")


def test_python_moves_them_until_the_view_is_closed(page):
    page.run("notebook.set('value', [[50, 48], [60, 20]])")
    assert page.run("left()") == 60 - PATCH / 2
    page.run("close(), notebook.set('value', [[50, 48], [90, 20]])")
    assert page.run("left()") == 60 - PATCH / 2
