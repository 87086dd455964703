"""Table 1: MNC, FCIS and Mask R-CNN on ordinary pictures. The models are those of Figure 6."""

from tinymrcnn.experiments.plan import Comparison, Plan, Variant

PLAN = Plan(
    name="table-1",
    title="MNC, FCIS and Mask R-CNN",
    claim="Mask R-CNN (ResNet-101-C4: 33.1 points of mask AP, FPN: 35.7) does better than MNC (24.6) and FCIS (29.2).",
    variants=(
        Variant("MNC", "shapes_mnc", article={"segm/AP": 24.6}),
        Variant("FCIS", "shapes_fcis", article={"segm/AP": 29.2}),
        Variant("Mask R-CNN, C4", "shapes_c4", article={"segm/AP": 33.1}),
        Variant("Mask R-CNN, FPN", "shapes", article={"segm/AP": 35.7}),
    ),
    comparisons=(
        Comparison("FCIS", "MNC", article=4.6),
        Comparison("Mask R-CNN, C4", "MNC", article=8.5),
        Comparison("Mask R-CNN, C4", "FCIS", article=3.9),
        Comparison("Mask R-CNN, FPN", "FCIS", article=6.5),
        Comparison("Mask R-CNN, FPN", "Mask R-CNN, C4", article=2.6),
    ),
    steps=1000,
    trunk_steps=0,
    pictures="half of them crowded",
    pilot_steps=400,
)
