"""lessons/playground.py, the explainer's part 6 as a widget: its values are those of the package, in Python and in a
browser; what one drags there is told to Python, and the other way round."""

import base64
import io
import json

import numpy as np
import pytest
from chromium import Chromium, find_chromium
from PIL import Image
from roi_reference import roi_align_reference, roi_pool_reference
from tiny_models import C4, tiny_model

import tinymrcnn
from tinymrcnn.data import ShapesDataset

pytest.importorskip("anywidget", reason="a widget: pip install -e '.[lessons]'")
traitlets = pytest.importorskip("traitlets")
from playground import RoiPlayground  # noqa: E402

IMAGE = ShapesDataset(3, image_size=(128, 192), seed=1)[2][0]
# A widget's model in the browser, as anywidget hands it on; `told` is what Python would hear
BROWSER = """(async () => {
  const { code, values, bytes } = FACTS;
  const view = (text) => new DataView(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
  for (const name of Object.keys(bytes)) values[name] = view(bytes[name]);
  const heard = {};
  globalThis.told = [];
  globalThis.notebook = {
    get: (name) => values[name],
    set: (name, value) => {
      if (JSON.stringify(values[name]) === JSON.stringify(value)) return;
      values[name] = value;
      (heard[`change:${name}`] || []).forEach((call) => call());
    },
    on: (name, call) => (heard[name] ||= []).push(call),
    off: (name, call) => (heard[name] = heard[name].filter((other) => other !== call)),
    save_changes: () => told.push({ ...values }),
  };
  const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  const { default: widget } = await import(address);
  globalThis.views = [];
  for (const id of ["one", "two"]) {
    const el = document.body.appendChild(Object.assign(document.createElement("div"), { id }));
    const close = await widget.render({ model: notebook, el });
    views.push({ $: (name) => el.shadowRoot.getElementById(name), close });
  }
  const frame = () => new Promise((done) => requestAnimationFrame(() => done(true)));
  globalThis.settled = () => frame().then(frame);
  await settled();
  globalThis.numbers = (view, kind) =>
    [...view.$(`bins-${kind}`).querySelectorAll("text")].map((text) => Number(text.textContent.replace("−", "-")));
})()"""


@pytest.fixture(scope="module")
def model():
    return tinymrcnn.load_model()


@pytest.fixture(scope="module")
def playground(model):
    return RoiPlayground(model, IMAGE, (99, 31, 156.6, 91.3), level=4, bins=3)


@pytest.fixture
def page(playground):
    """A page with two views of the widget."""
    if find_chromium() is None:
        pytest.skip("opens a page: there is no Chromium or Chrome")
    state = {name: getattr(playground, name) for name in playground.keys if not name.startswith(("_view", "_model"))}
    bytes_of = {name: base64.b64encode(value).decode() for name, value in state.items() if isinstance(value, bytes)}
    values = {
        name: value for name, value in state.items() if name in (*playground.shared, "_table", "_shapes", "_picture")
    }
    facts = json.dumps({"code": playground._esm, "values": values, "bytes": bytes_of})
    with Chromium(1000, 1400) as page:
        page.run(BROWSER.replace("FACTS", facts))
        yield page


def test_it_begins_with_the_best_detection(model):
    playground = RoiPlayground(model.train(), IMAGE)
    assert model.training  # as before
    model.eval()
    np.testing.assert_allclose(playground.roi, model([IMAGE])[0]["boxes"][0], atol=0.051)
    assert playground.stride == 8
    strongest = playground.maps[1][0].std((0, 1))
    assert playground.channel == int(strongest.argmax())


@pytest.mark.parametrize("level, bins, ratio, aligned", [(2, 7, 2, True), (4, 3, 0, False), (5, 2, 3, True)])
def test_values_are_those_of_the_reference(playground, level, bins, ratio, aligned):
    playground.set_trait("level", level)
    for name, value in (("bins", bins), ("sampling_ratio", ratio), ("aligned", aligned)):
        playground.set_trait(name, value)
    map = playground.maps[level - 2].transpose(0, 3, 1, 2)[:, [playground.channel]]
    rois, scale = np.array([[0, *playground.roi]], np.float32), 1 / 2**level
    pool, align = (array[0] for array in playground.pooled())
    np.testing.assert_array_equal(pool, roi_pool_reference(map, rois, (bins, bins), scale)[0, 0])
    expected = roi_align_reference(map, rois, (bins, bins), scale, ratio, aligned)[0, 0]
    np.testing.assert_allclose(align, expected, rtol=1e-4, atol=1e-5)
    for name, value in (("level", 4), ("bins", 3), ("sampling_ratio", 2), ("aligned", True)):
        playground.set_trait(name, value)


def test_an_axis_by_hand(model):
    """A region from 24 to 88 on cells of 16 pixels, with 2 bins: RoIPool rounds it to cells 2 to 6, 2.5 cells for
    a bin; RoIAlign halves it, and samples at quarters."""
    playground = RoiPlayground(model, IMAGE, (24, 24, 88, 88), level=4, bins=2)
    cells, edges, samples = playground.axis(24.0, 88.0, 12)
    assert cells.tolist() == [[32, 80], [64, 112]]
    assert edges.tolist() == [24, 56, 88]
    assert samples.tolist() == [32, 48, 64, 80]


def test_the_figure_goes_along(playground):
    """As a picture in the same output, for places where no widget runs."""
    bundle, _ = playground._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == playground.model_id
    picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert picture.width > 700 and len(bundle["image/png"]) < 120_000
    figure = playground.figure()
    value, offset = figure.axes[3:]
    (_, pool), (pushes, align) = (line.get_data() for line in offset.get_lines())
    jumps = np.diff(pool) > 3
    assert pushes[-1] == 32 and 2 <= jumps.sum() <= 4 and np.ptp(np.diff(pool)[~jumps]) < 1e-3  # a saw-tooth
    np.testing.assert_allclose(align, 0, atol=1e-3)
    values = [line.get_ydata()[0] for line in value.get_lines()]
    np.testing.assert_allclose(values, [array[0, 1, 1] for array in playground.pooled()])


def test_what_makes_no_sense_is_refused(model, playground):
    for name, value in (("roi", [5, 5, 5, 9]), ("roi", [0, 0, np.nan, 9]), ("bins", 6), ("level", 6), ("channel", 64)):
        before = getattr(playground, name)
        with pytest.raises(traitlets.TraitError):
            playground.set_trait(name, value)
        assert getattr(playground, name) == before
    with pytest.raises(ValueError, match="P2 to P5"):
        RoiPlayground(tiny_model(**C4), IMAGE)


@pytest.mark.parametrize("device", ["cpu", "fake"])
def test_a_resized_picture(fake_device, device):
    """The region is in the pixels of the resized picture, which is shown as the model sees it: padded."""
    model = tiny_model(min_size=96, max_size=400, score_threshold=1.0).to(device)
    playground = RoiPlayground(model, IMAGE[:, :100])
    assert playground.pixels.shape == (96, 192, 3)
    assert [map.shape[1:3] for map in playground.maps] == [(24, 48), (12, 24), (6, 12), (3, 6)]
    assert all(type(map) is np.ndarray for map in playground.maps)
    assert playground.roi == [55.2, 28.8, 128.8, 67.2]  # nothing was found: the middle of 184 x 96


def test_a_view_has_python_s_values(page, playground):
    for kind, expected in zip(("pool", "align"), playground.pooled(), strict=True):
        np.testing.assert_allclose(page.run(f"numbers(views[0], '{kind}')"), expected.ravel(), atol=0.051)
    page.run("notebook.set('bins', 2), notebook.set('roi', [10, 20, 74.5, 84]), settled()")
    playground.bins, before = 2, playground.roi
    playground.roi = [10, 20, 74.5, 84]
    for view in (0, 1):
        for kind, expected in zip(("pool", "align"), playground.pooled(), strict=True):
            np.testing.assert_allclose(page.run(f"numbers(views[{view}], '{kind}')"), expected.ravel(), atol=0.051)
    playground.bins, playground.roi = 3, before
    assert page.messages == []


def test_dragging_is_told(page):
    """By the body, then by the lower right corner: the region moves as the pointer does, and the other view follows."""
    scale = page.run("192 / views[0].$('lab-pool').firstChild.getBoundingClientRect().width")
    left, top = page.run("(({ x, y }) => [x, y])(views[0].$('lab-pool').firstChild.getBoundingClientRect())")

    def drag(x, y, dx, dy, expected):
        page.mouse("Pressed", left + x / scale, top + y / scale)
        page.mouse("Moved", left + (x + dx) / scale, top + (y + dy) / scale)
        page.mouse("Released", left + (x + dx) / scale, top + (y + dy) / scale)
        page.wait(f"notebook.get('roi').every((value, i) => Math.abs(value - {expected}[i]) < 0.02)")
        page.run("settled()")

    page.run("notebook.set('roi', [20, 31, 77.6, 91.3]), settled()")
    drag(50, 60, 30, 8, [50, 39, 107.6, 99.3])
    drag(107.6, 99.3, 12, -9, [50, 39, 119.6, 90.3])
    lines = page.run("views.map((view) => view.$('lab-align').lastChild.innerHTML)")
    assert lines[0] == lines[1]
    page.run("views[0].$('sweep').click()")
    page.wait("views[0].$('trace').getAttribute('aria-label')?.match(/over (\\d+)/)?.[1] > 100")
    assert page.run("location.hash") == ""  # the address is the notebook's
    page.run("views[1].close(), views[0].$('roi-bins').value = '5'")
    page.run("views[0].$('roi-bins').dispatchEvent(new Event('change'))")
    page.wait("told.some(({ bins }) => bins == 5)")
    assert page.run("[0, 1].map((i) => numbers(views[i], 'pool').length)") == [25, 9]
    assert page.messages == []
