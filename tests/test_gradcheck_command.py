"""`tinymrcnn gradcheck`: passes as it is, and names the loss and the parameters where one backward is wrong."""

import re

import pytest

from tinymrcnn import cli
from tinymrcnn.autograd import record
from tinymrcnn.commands import gradcheck
from tinymrcnn.models import box_branch, fpn, mask_branch

ROW = re.compile(r"^(loss_\w+) +(\S+) +(\S+)   (right, it is 0|right|WRONG)(.*)$", re.MULTILINE)


@pytest.fixture
def table(monkeypatch, capsys):
    """table(paths, *arguments): the exit code, and {(loss, part): (error, verdict, the rest of the line)}, for the
    parameters whose paths begin so; all others would take half a minute."""
    every = gradcheck.parts_of

    def run(paths, *arguments):
        def some(model):
            parts = every(model)
            few = {p: {path: w for path, w in ws.items() if path.startswith(paths)} for p, ws in parts.items()}
            return {part: weights for part, weights in few.items() if weights}

        monkeypatch.setattr(gradcheck, "parts_of", some)
        code = cli.main(["gradcheck", *arguments])
        return code, {(loss, part): rest for loss, part, *rest in ROW.findall(capsys.readouterr().out)}

    return run


HEADS = {
    "loss_objectness": {"rpn.head"},
    "loss_rpn_box_reg": {"rpn.head"},
    "loss_classifier": {"roi_heads.box_head", "roi_heads.box_predictor"},
    "loss_box_reg": {"roi_heads.box_head", "roi_heads.box_predictor"},
    "loss_mask": {"roi_heads.mask_head", "roi_heads.mask_predictor"},
}


def test_as_it_is_every_gradient_is_right(table):
    code, rows = table((
        "backbone.body.conv1", "rpn.head.conv", "roi_heads.box_head.fc6", "roi_heads.mask_predictor.mask_fcn"
    ))  # fmt: skip
    assert code == 0 and len(rows) == 5 * 4
    for (loss, part), (error, verdict, _) in rows.items():
        assert verdict == ("right" if part in HEADS[loss] or part.startswith("backbone") else "right, it is 0")
        assert float(error) < 1e-6 and (float(error) > 0) == (verdict == "right")


def test_a_backward_that_is_wrong_by_a_thousandth(table, monkeypatch):
    right = box_branch.ops.cross_entropy

    def wrong(input, target, **options):
        loss = right(input, target, **options)
        return record(loss.data, (loss,), lambda grad, needs: (grad * 1.001,), "cross_entropy")

    monkeypatch.setattr(box_branch.ops, "cross_entropy", wrong)
    code, rows = table(("roi_heads.box_predictor", "roi_heads.mask_predictor"))
    assert code == 1
    verdicts = {key: verdict for key, (_, verdict, _) in rows.items()}
    assert [key for key, verdict in verdicts.items() if verdict == "WRONG"] == [
        ("loss_classifier", "roi_heads.box_predictor")
    ]
    said = rows["loss_classifier", "roi_heads.box_predictor"][2]
    assert "roi_heads.box_predictor.cls_score.weight" in said and "bbox_pred" not in said
    assert "by backward()" in said and "by central differences" in said


def test_a_gradient_that_does_not_arrive(table, monkeypatch):
    resize = fpn.ops.interpolate
    monkeypatch.setattr(fpn.ops, "interpolate", lambda x, size: resize(x.detach(), size=size))
    code, rows = table(("backbone.fpn.inner_blocks.3", "backbone.fpn.layer_blocks.3"))
    assert code == 1 and {verdict for _, verdict, _ in rows.values()} == {"WRONG"}
    said = rows["loss_mask", "backbone.fpn"][2]
    assert "inner_blocks.3" in said and "layer_blocks" not in said


def test_settings(table, monkeypatch):
    kinds, right = [], mask_branch.mask_loss
    from tinymrcnn.models import mask_rcnn

    def noted(*arguments, **options):
        kinds.append(options["kind"])
        return right(*arguments, **options)

    monkeypatch.setattr(mask_rcnn, "mask_loss", noted)
    code, rows = table(("roi_heads.mask_predictor",), "--set", "mask.loss=softmax", "--set", "norm=frozen")
    assert code == 0 and len(rows) == 5 and set(kinds) == {"softmax"}
    assert cli.main(["gradcheck", "--set", "nonsense=1"]) == 2
    assert cli.main(["gradcheck", "--set", "model=mnc", "--set", "backbone=c5"]) == 2
