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


# %% exercise-3 wrong: nothing found
def final_scores(boxes, scores, score_threshold, iou_threshold, limit):
    return np.zeros(0, np.float32)


# %% exercise-3 wrong: a score equal to the threshold is kept
from tinymrcnn.boxes import nms


def final_scores(boxes, scores, score_threshold, iou_threshold, limit):
    kept = []
    for label in range(1, scores.shape[1]):
        good = scores[:, label] >= score_threshold
        kept.append(scores[good, label][nms(boxes[good], scores[good, label], iou_threshold)])
    return np.sort(np.concatenate(kept))[::-1][:limit]


# %% exercise-3 wrong: NMS over all classes together
from tinymrcnn.boxes import nms


def final_scores(boxes, scores, score_threshold, iou_threshold, limit):
    rows, labels = np.nonzero(scores[:, 1:] > score_threshold)
    of_pairs = scores[rows, labels + 1]
    return np.sort(of_pairs[nms(boxes[rows], of_pairs, iou_threshold)])[::-1][:limit]


# %% exercise-3 wrong: the limit holds for each class
from tinymrcnn.boxes import nms


def final_scores(boxes, scores, score_threshold, iou_threshold, limit):
    kept = []
    for label in range(1, scores.shape[1]):
        good = scores[:, label] > score_threshold
        kept.append(scores[good, label][nms(boxes[good], scores[good, label], iou_threshold)][:limit])
    return np.sort(np.concatenate(kept))[::-1]


# %% exercise-3 wrong: the background is a class
from tinymrcnn.boxes import nms


def final_scores(boxes, scores, score_threshold, iou_threshold, limit):
    kept = []
    for label in range(scores.shape[1]):
        good = scores[:, label] > score_threshold
        kept.append(scores[good, label][nms(boxes[good], scores[good, label], iou_threshold)])
    return np.sort(np.concatenate(kept))[::-1][:limit]


# %% exercise-3 wrong: only the best class of every RoI
from tinymrcnn.boxes import nms


def final_scores(boxes, scores, score_threshold, iou_threshold, limit):
    kept, best = [], scores.argmax(1)
    for label in range(1, scores.shape[1]):
        good = (scores[:, label] > score_threshold) & (best == label)
        kept.append(scores[good, label][nms(boxes[good], scores[good, label], iou_threshold)])
    return np.sort(np.concatenate(kept))[::-1][:limit]


# %% exercise-3 wrong: the worst first
from tinymrcnn.boxes import nms


def final_scores(boxes, scores, score_threshold, iou_threshold, limit):
    kept = []
    for label in range(1, scores.shape[1]):
        good = scores[:, label] > score_threshold
        kept.append(scores[good, label][nms(boxes[good], scores[good, label], iou_threshold)])
    return np.sort(np.concatenate(kept))[:limit]


# %% exercise-3 wrong: no NMS
def final_scores(boxes, scores, score_threshold, iou_threshold, limit):
    of_pairs = scores[:, 1:][scores[:, 1:] > score_threshold]
    return np.sort(of_pairs)[::-1][:limit]


# %% exercise-3 right: batched
from tinymrcnn.boxes import batched_nms


def final_scores(boxes, scores, score_threshold, iou_threshold, limit):
    rows, labels = np.nonzero(scores[:, 1:] > score_threshold)
    of_pairs = scores[rows, labels + 1]
    return of_pairs[batched_nms(boxes[rows], of_pairs, labels, iou_threshold)][:limit]


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
