"""Table 2a: the backbone: one map (C4) or a pyramid (FPN), shallow or deep."""

from tinymrcnn.experiments.plan import Comparison, Plan, Variant

# ResNet-101 has more blocks than ResNet-50 in the third stage only: 23 for 6
DEEP = {"resnet.depths": (2, 2, 6, 1)}

PLAN = Plan(
    name="table-2a",
    title="C4 against FPN, two depths each",
    claim="A feature pyramid brings about 3 points of mask AP over a single map at stride 16, and a deeper network "
    "about 2.",
    variants=(
        Variant("C4", "shapes_c4", article={"segm/AP": 30.3}),
        Variant("C4, deeper", "shapes_c4", DEEP, article={"segm/AP": 32.7}),
        Variant("FPN", "shapes", article={"segm/AP": 33.6}),
        Variant("FPN, deeper", "shapes", DEEP, article={"segm/AP": 35.4}),
    ),
    comparisons=(
        Comparison("FPN", "C4", article=3.3),
        Comparison("FPN, deeper", "C4, deeper", article=2.7),
        Comparison("C4, deeper", "C4", article=2.4),
        Comparison("FPN, deeper", "FPN", article=1.8),
    ),
    steps=1000,
    trunk_steps=0,
    pilot_steps=400,
)
