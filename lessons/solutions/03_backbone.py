"""Solutions of lesson 03, the backbone."""


# %% exercise-1
def centre(layers, j):
    """The centre of the receptive field of cell j of the last layer, in pixels."""
    first = last = j
    for kernel, stride, padding in reversed(layers):
        first = first * stride - padding
        last = last * stride - padding + kernel - 1
    return (first + last + 1) / 2


# %% exercise-2
# Where a stride of 2 meets an even side, the colleague's layers put one zero less before than behind, so their first
# cell lies one pixel of their input further on. A pixel of C4 is 16 pixels wide: together 1 + 2 + 4 + 8 + 16 = 31.
def padding(n, kernel, stride):
    """How many zeros a layer of our ResNet puts before and behind a side of n: (before, behind)."""
    return kernel // 2, kernel // 2


# %% exercise-3
def bottleneck(block, x):
    """relu(shortcut + F(x)) for a resnet.Bottleneck and a Tensor x."""
    out = ops.relu(block.bn1(block.conv1(x)))
    out = ops.relu(block.bn2(block.conv2(out)))
    out = block.bn3(block.conv3(out))
    return ops.relu(out + (x if block.downsample is None else block.downsample(x)))


# %% exercise-4
# 1x1 from 256 to 64, 3x3 from 64 to 64, 1x1 from 64 to 256, and the normalisations; two 3x3 from 256 to 256.
answer = (256 * 64 + 9 * 64 * 64 + 64 * 256 + 2 * (64 + 64 + 256), 2 * 9 * 256 * 256 + 2 * (256 + 256))
