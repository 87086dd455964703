"""Table 2c: how an RoI is cut out of a map at stride 16: what is rounded, and whether a bin is a mean or a maximum."""

from tinymrcnn.experiments.plan import Comparison, Plan, Variant


def cut(name: str, operator: str, reduce: str, article: float) -> Variant:
    # the mean is the preset's own setting: not naming it makes the run the same one as in Table 2b
    settings = {"pooler.roi_op": operator} if operator != "roi_align" else {}
    if reduce == "max" and operator != "roi_pool":
        settings |= {"pooler.reduce": "max"}
    return Variant(name, "shapes_c4", settings, article={"segm/AP": article})


PLAN = Plan(
    name="table-2c",
    title="RoIPool, RoIWarp and RoIAlign at stride 16",
    claim="On ResNet-50-C4 RoIAlign brings about 3 points of mask AP over RoIPool. RoIWarp, which interpolates but "
    "rounds the RoI as RoIPool does, brings next to nothing: the alignment matters. Mean or maximum makes no "
    "difference.",
    variants=(
        cut("RoIPool", "roi_pool", "max", 26.9),
        cut("RoIWarp, max", "roi_warp", "max", 27.2),
        cut("RoIWarp, mean", "roi_warp", "mean", 27.1),
        cut("RoIAlign, max", "roi_align", "max", 30.2),
        cut("RoIAlign, mean", "roi_align", "mean", 30.3),
    ),
    comparisons=(
        Comparison("RoIAlign, mean", "RoIPool", article=3.4),
        Comparison("RoIAlign, mean", "RoIWarp, mean", article=3.2),
        Comparison("RoIAlign, max", "RoIWarp, max", article=3.0),
        Comparison("RoIWarp, mean", "RoIPool", article=0.2),
        Comparison("RoIAlign, mean", "RoIAlign, max", article=0.1),
    ),
)
