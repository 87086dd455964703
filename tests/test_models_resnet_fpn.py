"""ResNet and FPN: sizes, the blocks' arithmetic on maps small enough to work by hand, and the names of the weights."""

import numpy as np
import pytest

from tinymrcnn.autograd import Tensor
from tinymrcnn.models.fpn import FPN, FPNSettings
from tinymrcnn.models.presets import get_config
from tinymrcnn.models.resnet import (
    BasicBlock,
    Bottleneck,
    ResNet,
    ResNetSettings,
    conv_norm,
    make_norm,
    make_shortcut,
    make_stage,
)
from tinymrcnn.nn import BatchNorm2d, Conv2d, FrozenBatchNorm2d, GroupNorm
from tinymrcnn.nn.init import without_drawing
from tinymrcnn.ops import conv2d

UNSCALED = 1 / np.sqrt(np.float32(1 + 1e-5))  # a normalisation layer fresh from the factory, in eval mode


def ramp(n, c, h, w):
    return Tensor(np.arange(n * c * h * w, dtype=np.float32).reshape(n, c, h, w) / 10)


def tap(convolution, row, column):
    """Make a convolution read one place of its window: output channel o takes input channel o."""
    convolution.weight.data[...] = 0
    for o in range(min(convolution.weight.shape[:2])):
        convolution.weight.data[o, o, row, column] = 1


# Blocks


def test_basic_block():
    block = BasicBlock(2, 2, 1, ResNetSettings()).eval()
    tap(block.conv1, 1, 1)
    tap(block.conv2, 1, 1)
    block.bn1.bias.data[...] = [-2, 0]  # the first ReLU cuts channel 0 at 2
    block.bn2.bias.data[...] = [0, -20]  # the second one cuts the sum
    x = ramp(2, 2, 3, 5)
    assert block.downsample is None
    inner = np.maximum(x.data * UNSCALED + np.float32([-2, 0]).reshape(1, 2, 1, 1), 0)
    expected = np.maximum(x.data + inner * UNSCALED + np.float32([0, -20]).reshape(1, 2, 1, 1), 0)
    np.testing.assert_allclose(block(x).data, expected, rtol=1e-5)
    assert (expected == 0).any()


def test_basic_block_with_stride():
    block = BasicBlock(2, 3, 2, ResNetSettings()).eval()
    tap(block.conv1, 1, 1)
    tap(block.conv2, 1, 1)
    tap(block.downsample[0], 0, 0)
    x = ramp(1, 2, 5, 8)
    expected = np.zeros((1, 3, 3, 4), np.float32)
    expected[:, :2] = x.data[:, :, ::2, ::2] * (UNSCALED**2 + UNSCALED)
    np.testing.assert_allclose(block(x).data, expected, rtol=1e-5)


@pytest.mark.parametrize(("stride_in_1x1", "start"), [(False, 1), (True, 2)])
def test_where_the_bottleneck_strides(stride_in_1x1, start):
    """The 3x3 convolution reads its right neighbour: of all cells, or of those that the stride left over."""
    block = Bottleneck(4, 1, 2, ResNetSettings(stride_in_1x1=stride_in_1x1)).eval()
    for convolution, column in ((block.conv1, 0), (block.conv2, 2), (block.conv3, 0)):
        tap(convolution, convolution.weight.shape[2] // 2, column)
    block.downsample[0].weight.data[...] = 0
    x = ramp(1, 4, 4, 9)
    expected = np.zeros((1, 4, 2, 5), np.float32)
    taken = x.data[0, 0, ::2, start::2] * UNSCALED**3
    expected[0, 0, :, : taken.shape[1]] = taken[:, :5]
    np.testing.assert_allclose(block(x).data, expected, rtol=1e-5)


def test_bottleneck_without_stride():
    block = Bottleneck(8, 2, 1, ResNetSettings()).eval()
    for convolution in (block.conv1, block.conv2, block.conv3):
        tap(convolution, *[size // 2 for size in convolution.weight.shape[2:]])
    x = ramp(1, 8, 2, 3)
    expected = x.data.copy()
    expected[:, :2] += x.data[:, :2] * UNSCALED**3
    np.testing.assert_allclose(block(x).data, expected, rtol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "frozen"])
@pytest.mark.parametrize(("width", "groups", "expansion", "stride"), [(6, 2, 4, 1), (6, 3, 1, 2), (4, 4, 2, 1)])
def test_a_bottleneck_in_groups(width, groups, expansion, stride, norm):
    """It computes what a whole one does whose filters are zero where a group does not see."""
    settings = dict(block="bottleneck", norm=norm, expansion=expansion)
    grouped, whole = (Bottleneck(5, width, stride, ResNetSettings(**settings, groups=n)).eval() for n in (groups, 1))
    rng, each = np.random.default_rng(groups), width // groups
    state = {name: rng.uniform(0.2, 1, array.shape).astype(np.float32) for name, array in grouped.state_dict().items()}
    filters = rng.normal(size=(width, each, 3, 3)).astype(np.float32)
    sparse = np.zeros((width, width, 3, 3), np.float32)
    for first in range(0, width, each):
        sparse[first : first + each, first : first + each] = filters[first : first + each]
    grouped.load_state_dict({**state, "conv2.weight": filters})
    whole.load_state_dict({**state, "conv2.weight": sparse})
    x = Tensor(rng.normal(size=(2, 5, 6, 9)).astype(np.float32))
    found, expected = grouped(x).data, whole(x).data
    assert found.shape == (2, expansion * width, 6 // stride, -(-9 // stride)) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_shortcuts():
    assert make_shortcut(8, 8, 1, ResNetSettings(norm="batch")) is None
    assert make_shortcut(8, 16, 1, ResNetSettings(norm="batch"))[0].weight.shape == (16, 8, 1, 1)
    assert make_shortcut(8, 8, 2, ResNetSettings(norm="group"))[0].stride == 2


@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (8, 1), (16, 2), (64, 8), (128, 16)])
def test_group_norm_has_groups_of_8(channels, groups):
    norm = make_norm(channels, ResNetSettings(norm="group"))
    assert isinstance(norm, GroupNorm) and norm.num_groups == groups


def test_norms():
    for name, kind in (("batch", BatchNorm2d), ("frozen", FrozenBatchNorm2d), ("group", GroupNorm)):
        norm = make_norm(3, ResNetSettings(norm=name, norm_eps=0.25))
        assert type(norm) is kind and norm.eps == 0.25
    assert list(make_norm(3, ResNetSettings(norm="frozen")).parameters()) == []


def test_stages():
    settings = ResNetSettings(block="bottleneck", depths=(1, 3, 1, 1), widths=(3, 4, 5, 6))
    stage = make_stage(12, 1, 2, settings)
    assert [block.conv1.weight.shape for block in stage] == [(4, 12, 1, 1), (4, 16, 1, 1), (4, 16, 1, 1)]
    assert [block.conv2.stride for block in stage] == [2, 1, 1]
    assert [block.downsample is None for block in stage] == [False, True, True]
    assert stage(Tensor(np.zeros((2, 12, 7, 10), np.float32))).shape == (2, 16, 4, 5)


# ResNet


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize(
    ("strides", "cells", "dilations"),
    [
        ((1, 2, 2, 2), (4, 8, 16, 32), (1, 1, 1, 1)),
        ((1, 2, 2, 1), (4, 8, 16, 16), (1, 1, 1, 2)),
        ((1, 2, 1, 1), (4, 8, 8, 8), (1, 1, 2, 4)),
        ((2, 2, 1, 2), (8, 16, 16, 32), (1, 1, 2, 2)),
    ],
)
def test_stages_that_do_not_stride_are_dilated(block, strides, cells, dilations):
    settings = ResNetSettings(block=block, depths=(1, 2, 1, 2), widths=(2, 2, 2, 2), stem_width=2, strides=strides)
    assert tuple(settings.map_stride(stage) for stage in range(4)) == cells
    body = ResNet(settings)
    maps = body(Tensor(np.zeros((1, 3, 64, 96), np.float32)))
    assert [feature.shape[2:] for feature in maps] == [(64 // cell, 96 // cell) for cell in cells]
    for stage, dilation in enumerate(dilations):
        for part in getattr(body, f"layer{stage + 1}"):
            assert (part.conv2.dilation, part.conv2.padding) == (dilation, dilation)
            assert part.conv1.dilation == (dilation if block == "basic" else 1)


@pytest.mark.parametrize("norm", ["batch", "frozen", "group"])
@pytest.mark.parametrize(("block", "factor"), [("basic", 1), ("bottleneck", 4)])
def test_sizes(block, factor, norm):
    settings = dict(depths=(1, 2, 1, 1), widths=(3, 4, 5, 6), stem_width=2)
    body = ResNet(ResNetSettings(block=block, norm=norm, **settings))
    assert body.out_channels == [3 * factor, 4 * factor, 5 * factor, 6 * factor]
    maps = body(Tensor(np.random.default_rng(0).random((2, 3, 64, 96), np.float32)))
    expected = [(2, c, 64 // s, 96 // s) for c, s in zip(body.out_channels, (4, 8, 16, 32), strict=True)]
    assert [m.shape for m in maps] == expected
    assert all(m.dtype == np.float32 and np.isfinite(m.data).all() and m.data.any() for m in maps)
    if norm == "batch":
        maps = body(Tensor(np.zeros((1, 3, 65, 97), np.float32)))
        assert [m.shape[2:] for m in maps] == [(17, 25), (9, 13), (5, 7), (3, 4)]


@pytest.mark.parametrize(
    ("preset", "parameters"), [("detectron2_resnext101_fpn", 88_791_336), ("paper_resnext101_fpn", 83_455_272)]
)
def test_resnext101_is_as_large_as_torchvision_s(preset, parameters):
    """torchvision's documentation counts those of resnext101_32x8d and resnext101_64x4d, with their classifiers."""
    with without_drawing():
        body = ResNet(get_config(preset).resnet)
    assert body.out_channels == [256, 512, 1024, 2048]
    counted = sum(array.size for name, array in body.state_dict().items() if "running" not in name)
    assert counted + 2048 * 1000 + 1000 == parameters


def test_fewer_stages():
    body = ResNet(ResNetSettings(depths=(1,) * 4, widths=(3, 4, 5, 6), stem_width=2), 3)
    assert len(body(Tensor(np.zeros((1, 3, 32, 64), np.float32)))) == 3
    assert not any(name.startswith("layer4") for name in body.state_dict())


def test_the_stem():
    """A 7x7 convolution with stride 2, ReLU, and a 3x3 maximum with stride 2."""
    body = ResNet(ResNetSettings(depths=(1,) * 4, widths=(2,) * 4, stem_width=2), 1).eval()
    tap(body.conv1, 3, 3)
    stem = body.maxpool(body.bn1(body.conv1(ramp(1, 3, 8, 12)), relu=True))
    picked = ramp(1, 3, 8, 12).data[:, :2, ::2, ::2] * UNSCALED  # 4 x 6, growing to the right and downwards
    expected = picked[:, :, [1, 3]][:, :, :, [1, 3, 5]]
    np.testing.assert_allclose(stem.data, expected, rtol=1e-5)


def test_names_of_the_weights():
    settings = ResNetSettings(block="bottleneck", depths=(1,) * 4, widths=(2,) * 4, stem_width=2, norm="frozen")
    names = list(ResNet(settings, 2).state_dict())
    norm = ["weight", "bias", "running_mean", "running_var"]
    block = [f"conv{i}.weight" for i in (1, 2, 3)] + [f"bn{i}.{n}" for i in (1, 2, 3) for n in norm]
    block += ["downsample.0.weight"] + [f"downsample.1.{n}" for n in norm]
    expected = ["conv1.weight", *(f"bn1.{n}" for n in norm)]
    expected += [f"layer{i}.0.{name}" for i in (1, 2) for name in block]
    assert sorted(names) == sorted(expected)


# FPN


def identity_fpn(levels, extra_level=False):
    """All channels 1, all convolutions the identity."""
    fpn = FPN([1] * levels, FPNSettings(channels=1, extra_level=extra_level))
    for inner, layer in zip(fpn.inner_blocks, fpn.layer_blocks, strict=True):
        tap(inner[0], 0, 0)
        tap(layer[0], 1, 1)
    return fpn


def test_levels_are_sums_of_the_coarser_ones():
    maps = [ramp(2, 1, 5, 7), Tensor(100 + ramp(2, 1, 3, 4).data), Tensor(1000 + ramp(2, 1, 2, 2).data)]
    fine, middle, coarse = (m.data for m in maps)
    levels = identity_fpn(3)(maps)
    np.testing.assert_array_equal(levels[2].data, coarse)
    # nearest neighbour: cell i of n reads floor(i m / n)
    expected_middle = middle + coarse[:, :, [0, 0, 1]][:, :, :, [0, 0, 1, 1]]
    np.testing.assert_allclose(levels[1].data, expected_middle, rtol=1e-6)
    expected_fine = fine + expected_middle[:, :, [0, 0, 1, 1, 2]][:, :, :, [0, 0, 1, 1, 2, 2, 3]]
    np.testing.assert_allclose(levels[0].data, expected_fine, rtol=1e-6)


def test_the_3x3_convolutions_come_after_the_sums():
    fpn = identity_fpn(2)
    fpn.layer_blocks[1][0].weight.data[...] = 0  # the coarse level's output is silenced, not what goes on downwards
    fpn.layer_blocks[1][0].bias.data[...] = 7
    fpn.inner_blocks[0][0].bias.data[...] = 3
    maps = [Tensor(np.ones((1, 1, 4, 6), np.float32)), Tensor(np.full((1, 1, 2, 3), 10, np.float32))]
    fine, coarse = fpn(maps)
    np.testing.assert_array_equal(coarse.data, np.full((1, 1, 2, 3), 7))
    np.testing.assert_array_equal(fine.data, np.full((1, 1, 4, 6), 1 + 3 + 10))


@pytest.mark.parametrize("size", [(4, 6), (3, 5), (1, 1), (1, 2)])
def test_the_extra_level_is_every_second_cell(size):
    levels = identity_fpn(1, extra_level=True)([ramp(2, 1, *size)])
    assert len(levels) == 2
    np.testing.assert_array_equal(levels[1].data, levels[0].data[:, :, ::2, ::2])


def test_fpn_against_its_formula():
    rng = np.random.default_rng(3)
    fpn = FPN([3, 5, 2], FPNSettings(channels=4))
    for parameter in fpn.parameters():
        parameter.data[...] = rng.normal(size=parameter.shape)
    maps = [
        Tensor(rng.normal(size=(2, c, *size)).astype(np.float32))
        for c, size in ((3, (8, 12)), (5, (4, 6)), (2, (2, 3)))
    ]
    inner, layer = fpn.inner_blocks, fpn.layer_blocks
    merged, expected = None, []
    for i in (2, 1, 0):
        lateral = np.einsum("nchw,oc->nohw", maps[i].data, inner[i][0].weight.data[:, :, 0, 0])
        lateral = lateral + inner[i][0].bias.data.reshape(1, -1, 1, 1)
        merged = lateral if merged is None else lateral + merged.repeat(2, 2).repeat(2, 3)
        expected.insert(0, conv2d(Tensor(merged), layer[i][0].weight, layer[i][0].bias, padding=1).data)
    for level, wanted in zip(fpn(maps), expected, strict=True):
        np.testing.assert_allclose(level.data, wanted, rtol=1e-4, atol=1e-4)


def test_a_frozen_norm_moves_into_the_filters():
    rng = np.random.default_rng(0)
    conv, norm = Conv2d(3, 4, 3, 2, padding=1, bias=False), FrozenBatchNorm2d(4)
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(norm, name)[...] = rng.uniform(0.5, 2, 4)
    x = Tensor(rng.standard_normal((2, 3, 8, 11)).astype(np.float32), requires_grad=True)
    shortcut = Tensor(rng.standard_normal((2, 4, 4, 6)).astype(np.float32))
    for residual, relu in ((None, False), (None, True), (shortcut, True)):
        both = []
        for fused in (True, False):
            conv.weight.grad = x.grad = None
            out = conv_norm(x, conv, norm, residual, relu) if fused else norm(conv(x), residual, relu)
            out.backward(np.random.default_rng(1).standard_normal(out.shape).astype(np.float32))
            both.append((out.data, x.grad, conv.weight.grad))
        for ours, expected in zip(*both, strict=True):
            assert np.abs(ours - expected).max() <= 1e-6 * np.abs(expected).max()
