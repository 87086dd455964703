"""Answers to the exercises of lesson 11 that must be refused, and others that must be accepted, each in the place of
its exercise's cell."""


# %% exercise-1 wrong: zero
def break_even(proposals, shared, box, mask):
    return 0.0


# %% exercise-1 wrong: all proposals
def break_even(proposals, shared, box, mask):
    return float(proposals)


# %% exercise-1 wrong: the box branch counts too
def break_even(proposals, shared, box, mask):
    return proposals * mask / (shared + box + mask)


# %% exercise-1 wrong: box for mask
def break_even(proposals, shared, box, mask):
    return proposals * box / (shared + box)


# %% exercise-1 wrong: rounded up
def break_even(proposals, shared, box, mask):
    return -(-proposals * mask // (shared + mask))


# %% exercise-1 wrong: the inverse
def break_even(proposals, shared, box, mask):
    return proposals * (shared + mask) / mask


# %% exercise-1 wrong: the shared layers run once more on the proposals
def break_even(proposals, shared, box, mask):
    return proposals * (shared + mask) / (shared + mask)


# %% exercise-1 right: from the equation
def break_even(proposals, shared, box, mask):
    side_by_side = proposals * (shared + box + mask)
    return (side_by_side - proposals * (shared + box)) / (shared + mask)


# %% exercise-2 wrong: zero
def strided_stage(inputs, width, blocks, size, stride, stride_in_1x1):
    return 0


# %% exercise-2 wrong: the 3x3 convolution on the large grid
def strided_stage(inputs, width, blocks, size, stride, stride_in_1x1):
    total, after = 0, (size // stride) ** 2
    total += inputs * 4 * width * after
    for i, channels in enumerate([inputs] + [4 * width] * (blocks - 1)):
        before = size**2 if i == 0 else after
        first = after if i or stride_in_1x1 else before
        total += channels * width * first + 9 * width**2 * before + 4 * width**2 * after
    return total


# %% exercise-2 wrong: no shortcut
def strided_stage(inputs, width, blocks, size, stride, stride_in_1x1):
    total, after = 0, (size // stride) ** 2
    for i, channels in enumerate([inputs] + [4 * width] * (blocks - 1)):
        first = after if i or stride_in_1x1 else size**2
        total += channels * width * first + 9 * width**2 * after + 4 * width**2 * after
    return total


# %% exercise-2 wrong: a shortcut only where the stage strides
def strided_stage(inputs, width, blocks, size, stride, stride_in_1x1):
    after = (size // stride) ** 2
    total = inputs * 4 * width * after if stride > 1 else 0
    for i, channels in enumerate([inputs] + [4 * width] * (blocks - 1)):
        first = after if i or stride_in_1x1 else size**2
        total += channels * width * first + 9 * width**2 * after + 4 * width**2 * after
    return total


# %% exercise-2 wrong: the shortcut on the large grid
def strided_stage(inputs, width, blocks, size, stride, stride_in_1x1):
    after = (size // stride) ** 2
    total = inputs * 4 * width * size**2
    for i, channels in enumerate([inputs] + [4 * width] * (blocks - 1)):
        first = after if i or stride_in_1x1 else size**2
        total += channels * width * first + 9 * width**2 * after + 4 * width**2 * after
    return total


# %% exercise-2 wrong: the stride is always in the first convolution
def strided_stage(inputs, width, blocks, size, stride, stride_in_1x1):
    after = (size // stride) ** 2
    total = inputs * 4 * width * after
    for channels in [inputs] + [4 * width] * (blocks - 1):
        total += (channels * width + 9 * width**2 + 4 * width**2) * after
    return total


# %% exercise-2 wrong: the other way round
def strided_stage(inputs, width, blocks, size, stride, stride_in_1x1):
    after = (size // stride) ** 2
    total = inputs * 4 * width * after
    for i, channels in enumerate([inputs] + [4 * width] * (blocks - 1)):
        first = size**2 if i == 0 and stride_in_1x1 else after
        total += channels * width * first + 9 * width**2 * after + 4 * width**2 * after
    return total


# %% exercise-2 wrong: every block reads the inputs
def strided_stage(inputs, width, blocks, size, stride, stride_in_1x1):
    after = (size // stride) ** 2
    total = inputs * 4 * width * after
    for i in range(blocks):
        first = after if i or stride_in_1x1 else size**2
        total += inputs * width * first + 9 * width**2 * after + 4 * width**2 * after
    return total


# %% exercise-2 right: in one formula
def strided_stage(inputs, width, blocks, size, stride, stride_in_1x1):
    after = size // stride * (size // stride)
    first = inputs * width * (after if stride_in_1x1 else size * size)
    later = (blocks - 1) * 4 * width * width * after
    return first + later + 4 * inputs * width * after + 13 * blocks * width**2 * after


# %% exercise-3 wrong: as it was
def masks_of_classes(logits, labels):
    return 1 / (1 + np.exp(-logits[np.arange(len(labels)), labels - 1]))


# %% exercise-3 wrong: zeros
def masks_of_classes(logits, labels):
    return np.zeros((len(labels), *logits.shape[2:]))


# %% exercise-3 wrong: the background's channel
def masks_of_classes(logits, labels):
    return 1 / (1 + np.exp(-logits[:, 0]))


# %% exercise-3 wrong: a softmax
def masks_of_classes(logits, labels):
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return p[np.arange(len(labels)), labels]


# %% exercise-3 wrong: the class against the background
def masks_of_classes(logits, labels):
    own = logits[np.arange(len(labels)), labels]
    return 1 / (1 + np.exp(logits[:, 0] - own))


# %% exercise-3 wrong: the logits
def masks_of_classes(logits, labels):
    return logits[np.arange(len(labels)), labels]


# %% exercise-3 wrong: the sign
def masks_of_classes(logits, labels):
    return 1 / (1 + np.exp(logits[np.arange(len(labels)), labels]))


# %% exercise-3 wrong: transposed
def masks_of_classes(logits, labels):
    return 1 / (1 + np.exp(-logits[np.arange(len(labels)), labels].transpose(0, 2, 1)))


# %% exercise-3 wrong: cells, not probabilities
def masks_of_classes(logits, labels):
    return logits[np.arange(len(labels)), labels] >= 0


# %% exercise-3 wrong: the strongest class
def masks_of_classes(logits, labels):
    return 1 / (1 + np.exp(-logits.max(1)))


# %% exercise-3 wrong: the package's function
def masks_of_classes(logits, labels):
    return decode_masks(tinymrcnn.Tensor(logits), labels, settings=get_config("shapes").mask)


# %% exercise-3 right: one by one
def masks_of_classes(logits, labels):
    return np.stack([1 / (1 + np.exp(-own[label])) for own, label in zip(logits, labels, strict=True)])


# %% exercise-3 right: by the hyperbolic tangent
def masks_of_classes(logits, labels):
    picked = np.take_along_axis(logits, labels[:, None, None, None], axis=1)[:, 0]
    return (1 + np.tanh(picked / 2)) / 2


# %% exercise-4 wrong: as they are
def to_original(boxes, size, original_size):
    return boxes


# %% exercise-4 wrong: height and width exchanged
def to_original(boxes, size, original_size):
    down, right = original_size[0] / size[0], original_size[1] / size[1]
    return boxes * np.array([down, right, down, right], boxes.dtype)


# %% exercise-4 wrong: one scale for both sides
def to_original(boxes, size, original_size):
    return boxes * np.float32(original_size[1] / size[1])


# %% exercise-4 wrong: the inverse
def to_original(boxes, size, original_size):
    down, right = size[0] / original_size[0], size[1] / original_size[1]
    return boxes * np.array([right, down, right, down], boxes.dtype)


# %% exercise-4 wrong: to whole pixels
def to_original(boxes, size, original_size):
    down, right = original_size[0] / size[0], original_size[1] / size[1]
    return np.round(boxes * np.array([right, down, right, down], boxes.dtype))


# %% exercise-4 wrong: off by one
def to_original(boxes, size, original_size):
    down, right = (original_size[0] - 1) / (size[0] - 1), (original_size[1] - 1) / (size[1] - 1)
    return boxes * np.array([right, down, right, down], boxes.dtype)


# %% exercise-4 right: column by column
def to_original(boxes, size, original_size):
    (h, w), (height, width) = size, original_size
    x1, y1, x2, y2 = boxes.T
    return np.stack([x1 / w * width, y1 / h * height, x2 / w * width, y2 / h * height], 1)
