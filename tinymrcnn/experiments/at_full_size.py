"""Table 1 on COCO and Figure 8 on Cityscapes with the paper's schedules, for those who have the pictures and GPUs.

They were not run: the lines say what to run, beside the article's numbers. Sources:

- Mask R-CNN: the paper's section 3.1, and appendix A for Cityscapes, which gives no rate of its own for the 4,000
  steps from COCO; the sizes between its 800 and 1024 are detectron2's. Warm-up and frozen stages (the stem and the
  first) are the authors' code's, Detectron's. The RPN learns jointly, as there; the paper trains it first, alone.
- FCIS: the authors' configuration, for 8 GPUs with a picture each. It adds up their gradients, where ours are a
  mean over the batch: 8 times its rate of 5e-4, and an eighth of its weight decay of 5e-4. Its epochs show a picture
  and its mirror image: 8 of them are 8 * 2 * 118,287 / 8 steps. The rate drops after 5.33. Ours has no OHEM.
- MNC: batch, rate and weight decay are the authors' for VGG-16 on VOC, where gradients are a mean, too. For COCO they
  published no steps: these are the ResNet paper's (appendix), for its RPN on COCO, at the same batch and rate."""

from typing import NamedTuple


class Line(NamedTuple):
    """One model to train. article: its mask AP there. start: the file that it starts from, and its folder where another
    line needs it. settings: FIELD=VALUE, besides those that all have."""

    title: str
    article: str
    preset: str
    start: str
    batch: int
    steps: int
    settings: tuple[str, ...]


class FullSize(NamedTuple):
    title: str
    needs: str
    lines: tuple[Line, ...]


ALL = ("optimizer=sgd", "momentum=0.9", "schedule=step", "clip_norm=0")
PAPER = ("weight_decay=1e-4", "drops=(0.75,)", "warmup_steps=500")
TWO_A_GPU, ONE_A_GPU = ("lr=0.02", *PAPER), ("lr=0.01", *PAPER)  # 8 GPUs
FCIS = ("lr=4e-3", "weight_decay=6.25e-5", "drops=(0.66625,)", "warmup_steps=250")
MNC = ("lr=1e-3", "weight_decay=5e-4", "drops=(0.75,)", "warmup_steps=0")
DEPTH_101 = "resnet.depths=(3,4,23,3)"
# --backbone takes a file of Caffe2 for one of the ResNet paper's authors, who have strides in 1x1 convolutions
RESNEXT = "resnet.stride_in_1x1=False"
CITIES = ("min_size=1024", "max_size=2048", "train_min_sizes=(800,832,864,896,928,960,992,1024)")

R50, R101, X101 = "--backbone R-50.pkl", "--backbone R-101.pkl", "--backbone X-101-64x4d.pkl"
COCO_RUN = "runs/coco_resnet50_fpn"
IMAGENET = """weights of ImageNet to start from. Those of the authors' code are in
https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/: MSRA/R-50.pkl, MSRA/R-101.pkl, FBResNeXt/X-101-64x4d.pkl.
--backbone takes them as they are, and torchvision's resnet50, resnet101 and resnext101_64x4d, too (as .pth; the first
two halve their maps in other convolutions than the paper's)"""

COCO = FullSize(
    "Table 1 on COCO",
    "COCO's train2017 and val2017 (118,287 and 5,000 pictures; the paper's trainval35k and minival), in the paper 8 "
    f"GPUs for one to two days, and {IMAGENET}",
    (
        Line("MNC, ResNet-101-C4", "24.6 on test-dev", "paper_resnet101_mnc", R101, 8, 320_000, MNC),
        Line("FCIS, ResNet-101-C5 dilated", "29.2 on test-dev", "paper_resnet101_fcis", R101, 8, 236_574, FCIS),
        Line(
            "Mask R-CNN, ResNet-101-C4", "33.1 on test-dev, 32.7 on val2017", "paper_resnet50_c4", R101, 16, 160_000,
            (*TWO_A_GPU, DEPTH_101),
        ),
        Line(
            "Mask R-CNN, ResNet-101-FPN", "35.7 on test-dev, 35.4 on val2017", "paper_resnet101_fpn", R101, 16,
            160_000, TWO_A_GPU,
        ),
        Line(
            "Mask R-CNN, ResNeXt-101-FPN", "37.1 on test-dev, 36.7 on val2017", "paper_resnext101_fpn", X101, 8,
            160_000, (*ONE_A_GPU, RESNEXT),
        ),
        Line(
            "Mask R-CNN, ResNet-50-FPN, from which `cityscapes` goes on", "33.6 on val2017, in Table 2a",
            "paper_resnet50_fpn", f"{R50} --out {COCO_RUN}", 16, 160_000, TWO_A_GPU,
        ),
    ),
)  # fmt: skip
CITYSCAPES = FullSize(
    "Figure 8 on Cityscapes",
    "a folder cityscapes with leftImg8bit/ and gtFine/ (2,975 and 500 pictures, 8 classes), in the paper 8 GPUs for "
    f"four hours, for the second line the last model of `tinymrcnn reproduce coco`, and for the first {IMAGENET}",
    (
        Line(
            "Mask R-CNN, ResNet-50-FPN, fine annotations only", "26.2 on test, 31.5 on val", "paper_resnet50_fpn", R50,
            8, 24_000, (*ONE_A_GPU, *CITIES),
        ),
        Line(
            "Mask R-CNN, ResNet-50-FPN, from COCO, the model of Figure 8", "32.0 on test, 36.4 on val",
            "paper_resnet50_fpn", f"--weights {COCO_RUN}/model.npz", 8, 4_000, (*ONE_A_GPU, *CITIES),
        ),
    ),
)  # fmt: skip
EXPERIMENTS = {
    "coco": (
        COCO,
        "--data train2017 annotations/instances_train2017.json --val val2017 annotations/instances_val2017.json",
    ),
    "cityscapes": (CITYSCAPES, "--data cityscapes"),
}


def text(name: str) -> str:
    """What an experiment needs, and its lines."""
    experiment, data = EXPERIMENTS[name]
    lines = [f"{experiment.title}. Not run here. It needs {experiment.needs}.", ""]
    for line in experiment.lines:
        lines += [f"{line.title} (the article's mask AP: {line.article}):", f"  {command(line, data)}", ""]
    return "\n".join(lines)


def command(line: Line, data: str) -> str:
    """What trains and evaluates one model."""
    sets = " ".join(f"--set '{setting}'" for setting in (*ALL, *line.settings))
    size = f"--batch-size {line.batch} --steps {line.steps}"
    return f"tinymrcnn train --preset {line.preset} {data} {line.start} --freeze-at 2 {size} {sets}"
