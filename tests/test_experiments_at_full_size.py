"""What the lines for full size set, beside the papers' numbers: read by the real parser, up to the opening of data."""

import shlex
from pathlib import Path

import pytest

from tinymrcnn import cli
from tinymrcnn.commands import train as command
from tinymrcnn.experiments.at_full_size import EXPERIMENTS, text
from tinymrcnn.models.presets import get_config
from tinymrcnn.settings import replace
from tinymrcnn.training.schedule import learning_rate
from tinymrcnn.weights.backbone import BGR, EPS, Backbone

# (AP, preset, start, images a step, steps, rate, weight decay, warm-up, first step at a tenth of the rate)
EXPECTED = {
    "coco": [
        ("24.6", "paper_resnet101_mnc", "R-101.pkl", 8, 320_000, 1e-3, 5e-4, 0, 240_000),
        # 8 epochs of all pictures and their mirror images, the drop after 5.33 epochs
        ("29.2", "paper_resnet101_fcis", "R-101.pkl", 8, 8 * 2 * 118_287 // 8, 8 * 5e-4, 5e-4 / 8, 250, 157_618),
        ("33.1", "paper_resnet50_c4", "R-101.pkl", 16, 160_000, 0.02, 1e-4, 500, 120_000),
        ("35.7", "paper_resnet101_fpn", "R-101.pkl", 16, 160_000, 0.02, 1e-4, 500, 120_000),
        ("37.1", "paper_resnext101_fpn", "X-101-64x4d.pkl", 8, 160_000, 0.01, 1e-4, 500, 120_000),
        ("33.6", "paper_resnet50_fpn", "R-50.pkl", 16, 160_000, 0.02, 1e-4, 500, 120_000),
    ],
    "cityscapes": [
        ("26.2", "paper_resnet50_fpn", "R-50.pkl", 8, 24_000, 0.01, 1e-4, 500, 18_000),
        ("32.0", "paper_resnet50_fpn", "runs/coco_resnet50_fpn/model.npz", 8, 4_000, 0.01, 1e-4, 500, 3_000),
    ],
}
ROWS = [(name, number) for name, rows in EXPECTED.items() for number in range(len(rows))]
DEPTHS = {"R-50.pkl": (3, 4, 6, 3), "R-101.pkl": (3, 4, 23, 3), "X-101-64x4d.pkl": (3, 4, 23, 3)}


def printed(name):
    """[(title, arguments)] of an experiment."""
    lines = text(name).splitlines()
    return [
        (title, shlex.split(line)[1:])
        for title, line in zip(lines, lines[1:], strict=False)
        if line.startswith("  tinymrcnn")
    ]


def parsed(arguments):
    options = vars(cli._parser().parse_args(arguments))
    return command.TrainOptions(**{k: v for k, v in options.items() if k not in ("command", "traceback", "mine")})


def caffe2(path):
    """What is read off a file of Detectron's, without its weights."""
    wide = {"resnet.groups": 64, "resnet.widths": (256, 512, 1024, 2048), "resnet.expansion": 1}
    settings = {"resnet.depths": DEPTHS[str(path)], "resnet.norm": "frozen", "resnet.norm_eps": EPS, **BGR}
    return Backbone(Path(path), "Caffe2", {}, settings | (wide if str(path).startswith("X") else {}))


def configs(options):
    """The Config and TrainConfig of a run with these options."""
    start = get_config(options.preset)
    if options.backbone:
        start = replace(start, **caffe2(options.backbone).settings)
    model_fields, train_fields = command._given(options, start)
    return replace(start, **model_fields), command._train_config(train_fields)


@pytest.mark.parametrize(("name", "number"), ROWS)
def test_the_schedule_of_every_row(name, number):
    assert len(printed(name)) == len(EXPECTED[name])
    ap, preset, start, batch, steps, lr, decay, warmup, drop = EXPECTED[name][number]
    title, arguments = printed(name)[number]
    options = parsed(arguments)
    assert f"mask AP: {ap} on " in title and options.preset == preset
    model, config = configs(options)
    assert (config.batch_size, config.steps, config.warmup_steps) == (batch, steps, warmup)
    assert (config.optimizer, config.momentum, config.clip_norm, config.ema) == ("sgd", 0.9, 0, 0) and config.flip
    assert config.lr == pytest.approx(lr) and config.weight_decay == pytest.approx(decay)
    rates = [learning_rate(step, config) for step in (warmup, drop - 1, drop, steps - 1)]
    assert rates == pytest.approx([lr, lr, lr / 10, lr / 10])
    # a frozen normalisation needs weights to start from
    assert (options.backbone or options.weights) == start and bool(options.weights) == start.endswith(".npz")
    assert options.freeze_at == 2 and model.resnet.norm == "frozen"


@pytest.mark.parametrize(("name", "number"), ROWS)
def test_the_model_of_every_row(name, number):
    """The file of the backbone changes nothing of the preset, but that Table 1's C4 is a ResNet-101."""
    options = parsed(printed(name)[number][1])
    model, _ = configs(options)
    expected = get_config(options.preset)
    if options.preset == "paper_resnet50_c4":
        expected = replace(expected, depths=(3, 4, 23, 3))
    if name == "cityscapes":
        sizes = tuple(range(800, 1025, 32))
        expected = replace(expected, min_size=1024, max_size=2048, train_min_sizes=sizes)
    assert model == expected


def test_cityscapes_goes_on_where_coco_ends():
    coco, cityscapes = (parsed(printed(name)[-1][1]) for name in EXPECTED)
    assert cityscapes.weights == f"{coco.out}/model.npz" and cityscapes.preset == coco.preset


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_only_the_files_are_missing(name, capsys, tmp_path, monkeypatch):
    """First that of the backbone; where it is there, the data."""
    monkeypatch.chdir(tmp_path)
    for _, arguments in printed(name):
        options = parsed(arguments)
        if options.backbone:
            assert cli.main(arguments) == 2
            assert f"There is no file of weights '{options.backbone}'." in capsys.readouterr().err
        with monkeypatch.context() as patch:
            patch.setattr(command, "read_backbone", caffe2)
            assert cli.main(arguments) == 2
        assert {"coco": "instances_train2017.json'", "cityscapes": "cityscapes'"}[name] in capsys.readouterr().err
