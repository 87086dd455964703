"""Frozen stages: nothing in them changes, everything else trains, and the network computes what it did before."""

import numpy as np
import pytest
from tiny_models import BACKBONES, batch_of, scene, tiny_model

from tinymrcnn.models import TrainConfig
from tinymrcnn.training import freeze_stages, make_optimizer, training_step

STAGES = ["conv1", "layer1", "layer2", "layer3", "layer4"]


def stage_of(name):
    """How many stages are frozen when this entry of the state_dict is: 1 with the stem, 6 never."""
    part = name.removeprefix("backbone.body.").split(".")[0].replace("bn1", "conv1")
    return 1 + STAGES.index(part) if name.startswith("backbone.body.") else 6


@pytest.mark.parametrize("norm", ["batch", "frozen", "group"])
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_step_changes_what_is_not_frozen(norm, count):
    model = tiny_model(norm=norm)
    before = model.state_dict()
    freeze_stages(model, count)
    assert model.state_dict().keys() == before.keys()
    config = TrainConfig(optimizer="sgd", lr=0.1, warmup_steps=0, weight_decay=0.1, steps=3, batch_size=2)
    images, targets = batch_of(scene(1), scene(2))
    training_step(model, make_optimizer(model.train(), config), 0, images, targets, config)
    constants = norm == "frozen"
    for name, array in model.state_dict().items():
        constant = constants and (".bn" in name or "downsample.1" in name)
        changed = not np.array_equal(array, before[name])
        assert changed == (stage_of(name) > count and not constant), name


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_network_computes_the_same_in_eval_mode(backbone):
    model, frozen = (tiny_model(**BACKBONES[backbone]).eval() for _ in range(2))
    freeze_stages(frozen, 3)
    images = [scene(1)[0], scene(2)[0]]
    maps, expected = (m.features(m.transform(images)) for m in (frozen, model))
    for one, other in zip(maps, expected, strict=True):
        np.testing.assert_allclose(one.data, other.data, rtol=1e-4, atol=1e-5)
    assert all(p.requires_grad == (stage_of(name) > 3) for name, p in frozen.named_parameters())


def test_a_frozen_normalisation_keeps_its_epsilon():
    """Where the variance is as small as the epsilon, another one would double what the stem gives."""
    model, frozen = (tiny_model(norm="batch", norm_eps=0.5).eval() for _ in range(2))
    for one in (model, frozen):
        one.backbone.body.bn1.running_var[:] = 0.5
    freeze_stages(frozen, 1)
    images = [scene(1)[0]]
    for one, other in zip(*(m.features(m.transform(images)) for m in (frozen, model)), strict=True):
        np.testing.assert_allclose(one.data, other.data, rtol=1e-4, atol=1e-5)


def test_frozen_stages_move_to_a_device(fake_device):
    images, targets = batch_of(scene(1), scene(2))
    config = TrainConfig(warmup_steps=0, steps=3, batch_size=2)
    lines = {}
    for device in ("cpu", "fake"):
        model = tiny_model()
        freeze_stages(model, 2)
        model.to(device)
        lines[device] = training_step(model, make_optimizer(model, config), 0, images, targets, config)
    assert lines["fake"] == pytest.approx(lines["cpu"], rel=1e-4)


def test_a_backbone_has_so_many_stages():
    for count in (-1, 6):
        with pytest.raises(ValueError, match=f"{count} stages cannot be frozen.* has 5, the stem, layer1, .*layer4"):
            freeze_stages(tiny_model(), count)
    c4 = tiny_model(**BACKBONES["c4"])
    with pytest.raises(ValueError, match="5 stages cannot be frozen.* has 4, the stem, layer1, layer2, layer3"):
        freeze_stages(c4, 5)
    freeze_stages(c4, 4)
    assert all(parameter.requires_grad for parameter in c4.roi_heads.parameters())
    assert not any(parameter.requires_grad for parameter in c4.backbone.parameters())
