"""Pictures of images with their objects (overlay.py), and the drawings that several places share (figures.py)."""

from tinymrcnn.draw.figures import (
    ROLE_COLORS,
    describe,
    draw_anchors,
    draw_curves,
    draw_errors,
    draw_graph,
    draw_grid,
    draw_roi_grid,
    plot_boxes,
    plot_cells,
    write_picture,
)
from tinymrcnn.draw.overlay import COLORS, check_font, class_color, draw_instances, shrunk

__all__ = [
    "COLORS",
    "ROLE_COLORS",
    "check_font",
    "class_color",
    "describe",
    "draw_anchors",
    "draw_curves",
    "draw_errors",
    "draw_graph",
    "draw_grid",
    "draw_instances",
    "draw_roi_grid",
    "plot_boxes",
    "plot_cells",
    "shrunk",
    "write_picture",
]
