"""Figure 6: masks where objects of one class overlap: FCIS with and without voting, MNC, and Mask R-CNN.

The metric "fall" (judging.py) asks for masks in the true boxes: how much worse they are where boxes of a class overlap
than where they do not. So neither the boxes nor non-maximum suppression, which removes one of two objects, have a part
in it, and a model whose masks are worse everywhere does not fall for that."""

from tinymrcnn.experiments.plan import Comparison, Plan, Variant

PLAN = Plan(
    name="figure-6",
    title="Masks of overlapping objects",
    claim="FCIS shows systematic errors where instances overlap; Mask R-CNN does not. The article shows pictures and "
    "gives no number.",
    variants=(
        Variant("MNC", "shapes_mnc"),
        Variant("FCIS", "shapes_fcis"),
        Variant("FCIS without voting", "shapes_fcis", test={"fcis.voting": False}),
        Variant("Mask R-CNN, C4", "shapes_c4"),
        Variant("Mask R-CNN, FPN", "shapes"),
    ),
    comparisons=(
        Comparison("FCIS", "Mask R-CNN, FPN", "fall", smallest=2.0, primary=True),
        Comparison("FCIS", "Mask R-CNN, C4", "fall", smallest=2.0),
        Comparison("MNC", "Mask R-CNN, FPN", "fall", smallest=2.0),
        Comparison("Mask R-CNN, FPN", "FCIS"),
        Comparison("Mask R-CNN, C4", "FCIS"),
        Comparison("Mask R-CNN, FPN", "MNC"),
        Comparison("FCIS", "FCIS without voting"),
    ),
    seeds=8,
    steps=1000,
    trunk_steps=0,
    pictures="half of them crowded",
    tests="crowded",
    pilot_steps=400,
)
