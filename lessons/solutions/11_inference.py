"""Solutions of lesson 11, Inference: every part replaces the cell of its exercise."""


# %% exercise-1
def break_even(proposals, shared, box, mask):
    """The number of detections at which both ways cost the same."""
    return proposals * mask / (shared + mask)


# %% exercise-2
def conv(inputs, outputs, kernel, cells):
    return inputs * outputs * kernel**2 * cells


def strided_stage(inputs, width, blocks, size, stride, stride_in_1x1):
    """Multiply-adds of a bottleneck stage on one RoI of size x size cells."""
    before, after = size**2, (size // stride) ** 2
    total = conv(inputs, 4 * width, 1, after)  # the shortcut
    for i, channels in enumerate([inputs] + [4 * width] * (blocks - 1)):
        first = before if i == 0 and not stride_in_1x1 else after
        total += conv(channels, width, 1, first) + conv(width, width, 3, after) + conv(width, 4 * width, 1, after)
    return total


# %% exercise-3
def masks_of_classes(logits, labels):
    """logits (D, K, m, m), labels (D,), from 1 to K - 1. Returns the probabilities (D, m, m) of each one's class."""
    return 1 / (1 + np.exp(-logits[np.arange(len(labels)), labels]))  # channel 0 is the background


# %% exercise-4
def to_original(boxes, size, original_size):
    """(N, 4) boxes in a picture of `size` to boxes in the same picture at `original_size`."""
    down, right = (new / old for new, old in zip(original_size, size, strict=True))
    return boxes * np.array([right, down, right, down], boxes.dtype)
