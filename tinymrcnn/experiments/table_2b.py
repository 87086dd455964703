"""Table 2b: classes that compete for a pixel (softmax), masks of their own for every class (sigmoid), and one mask for
all classes."""

from tinymrcnn.experiments.plan import Comparison, Plan, Variant

PLAN = Plan(
    name="table-2b",
    title="Softmax, sigmoid and class-agnostic masks",
    claim="On ResNet-50-C4 a sigmoid mask for each class brings 5.5 points of mask AP over a softmax in which the "
    "classes compete; one mask for all classes is nearly as good (29.7 against 30.3).",
    variants=(
        Variant("softmax", "shapes_c4", {"mask.loss": "softmax"}, article={"segm/AP": 24.8}),
        Variant(
            "softmax, decoded among all classes",
            "shapes_c4",
            {"mask.loss": "softmax"},
            test={"mask.softmax_decoding": "all"},
        ),
        Variant("sigmoid", "shapes_c4", article={"segm/AP": 30.3}),
        Variant("class-agnostic", "shapes_c4", {"mask.class_agnostic_masks": True}, article={"segm/AP": 29.7}),
    ),
    comparisons=(
        Comparison("sigmoid", "softmax", article=5.5, smallest=1.0, primary=True),
        Comparison("sigmoid", "class-agnostic", article=0.6, smallest=0.5),
        Comparison("sigmoid", "softmax, decoded among all classes"),
    ),
    seeds=8,
)
