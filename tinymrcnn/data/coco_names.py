"""The classes of COCO, on which the public models were trained: 80 names under the ids 1 to 90.

The article evaluates on them (section 4). Ten ids between 1 and 90 were never used. torchvision's models have a
label for them all the same (the label is the id, 91 classes with the background); detectron2's models count
the 80 names from 1 on (81 classes with the background).
"""

COCO_NAMES = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck", 9: "boat",
    10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench", 16: "bird", 17: "cat",
    18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant", 23: "bear", 24: "zebra", 25: "giraffe",
    27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase", 34: "frisbee", 35: "skis",
    36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat", 40: "baseball glove", 41: "skateboard",
    42: "surfboard", 43: "tennis racket", 44: "bottle", 46: "wine glass", 47: "cup", 48: "fork", 49: "knife",
    50: "spoon", 51: "bowl", 52: "banana", 53: "apple", 54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot",
    58: "hot dog", 59: "pizza", 60: "donut", 61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed",
    67: "dining table", 70: "toilet", 72: "tv", 73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard",
    77: "cell phone", 78: "microwave", 79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator", 84: "book",
    85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear", 89: "hair drier", 90: "toothbrush",
}  # fmt: skip


def coco_categories(num_classes: int) -> list[dict] | None:
    """The categories, a list of {"label", "name", "id"}, of a model that was trained on COCO, by its number of
    classes with the background: 91, where the unused ids are labels too, or 81. None for any other number."""
    if num_classes == 91:
        return [{"label": i, "name": COCO_NAMES.get(i, f"(unused {i})"), "id": i} for i in range(1, 91)]
    if num_classes == 81:
        return [{"label": label, "name": COCO_NAMES[i], "id": i} for label, i in enumerate(COCO_NAMES, start=1)]
    return None
