"""The arena of lesson 14: two shapes to drag over a grey picture, in a notebook."""

import base64
import io
from pathlib import Path

import anywidget
import numpy as np
import traitlets
from PIL import Image

from tinymrcnn.data.shapes import Shape, coverage

WIDTH, HEIGHT, PATCH = 112, 96, 80  # of the picture, and of the picture of one shape
COLORS = ((48, 93, 173), (64, 173, 93))  # of A and B


class Arena(anywidget.AnyWidget):
    """A picture of 112 x 96 pixels with the shapes A, behind, and B, in front of it, to move with the pointer or, where
    one has the focus, with the arrow keys (with Shift by 5 pixels).

    value: [[x, y] of A's centre, [x, y] of B's] in pixels; it is told when a shape is let go, and setting it moves
    the shapes."""

    value = traitlets.List(traitlets.List(traitlets.Float(), minlen=2, maxlen=2), minlen=2, maxlen=2).tag(sync=True)
    _esm = traitlets.Unicode().tag(sync=True)
    _size, _patch, _pictures = (traitlets.Any().tag(sync=True) for _ in range(3))
    _masks = traitlets.Bytes().tag(sync=True)

    def __init__(self, shapes, value=((50, 48), (58, 54))):
        """shapes: as show() takes them."""
        code = (Path(__file__).parent / "arena.js").read_text(encoding="utf-8")
        super().__init__(value=[list(place) for place in value], _esm=code, _size=[WIDTH, HEIGHT], _patch=PATCH)
        self.show(shapes)

    def show(self, shapes):
        """Change the two shapes: (label, radius, angle in radians) of each, the radius at most 38."""
        shares = np.zeros((2, PATCH, PATCH), np.float32)
        for share, (label, radius, angle) in zip(shares, shapes, strict=True):
            window, covered = coverage(Shape(label, PATCH / 2, PATCH / 2, radius, angle), PATCH, PATCH)
            share[window] = covered
        self._masks = (shares >= 0.5).astype(np.uint8).tobytes()
        self._pictures = [_address(share, color) for share, color in zip(shares, COLORS, strict=True)]


def _address(share, color):
    """A picture that is transparent beside the shape, as an address that holds it."""
    pixels = np.empty((PATCH, PATCH, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = color, (share * 255).round()
    Image.fromarray(pixels).save(file := io.BytesIO(), format="png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
