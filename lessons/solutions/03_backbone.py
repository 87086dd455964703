"""Solutions of lesson 03, the backbone."""


# %% exercise-1
def output_size(n, kernel, stride, padding):
    """How many cells a convolution gives along a side of n cells."""
    return (n + 2 * padding - kernel) // stride + 1


# %% exercise-2
def centre(layers, j):
    """The centre of the receptive field of cell j of the last layer, in pixels."""
    first = last = j
    for kernel, stride, padding in reversed(layers):
        first = first * stride - padding
        last = last * stride - padding + kernel - 1
    return (first + last + 1) / 2


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
