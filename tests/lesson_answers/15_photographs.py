"""Answers to the exercises of lesson 15 that must be refused, and others that must be accepted, each in the place of
its exercise's cell."""


# %% exercise-1 wrong: as it was
def to_ids(labels, missing):
    ids = labels.copy()
    for gap in missing:
        ids += labels >= gap
    return ids


# %% exercise-1 wrong: the labels as they are
def to_ids(labels, missing):
    return labels


# %% exercise-1 wrong: above the gap only
def to_ids(labels, missing):
    ids = labels.copy()
    for gap in missing:
        ids += ids > gap
    return ids


# %% exercise-1 wrong: off by one, a gap too early
def to_ids(labels, missing):
    ids = labels.copy()
    for gap in missing:
        ids += ids >= gap - 1
    return ids


# %% exercise-1 wrong: the first gap only
def to_ids(labels, missing):
    ids = labels.copy()
    for gap in missing[:1]:
        ids += ids >= gap
    return ids


# %% exercise-1 wrong: the sign
def to_ids(labels, missing):
    ids = labels.copy()
    for gap in missing:
        ids -= ids >= gap
    return ids


# %% exercise-1 wrong: from the last gap to the first
def to_ids(labels, missing):
    ids = labels.copy()
    for gap in missing[::-1]:
        ids += ids >= gap
    return ids


# %% exercise-1 wrong: counted from 0
def to_ids(labels, missing):
    exist = np.array([i for i in range(1, 200) if i not in missing])
    return exist[labels]


# %% exercise-1 wrong: the gaps are filled, ids to labels
def to_ids(labels, missing):
    return labels - np.searchsorted(missing, labels)


# %% exercise-1 wrong: the package's names
def to_ids(labels, missing):
    return np.array([coco_categories(91)[label - 1]["label"] for label in labels])


# %% exercise-1 right: by counting all ids
def to_ids(labels, missing):
    exist = np.array([i for i in range(1, 200) if i not in missing])
    return exist[labels - 1]


# %% exercise-1 right: label by label
def to_ids(labels, missing):
    ids = []
    for label in labels:
        id_ = 0
        for _ in range(label):
            id_ += 1
            while id_ in missing:
                id_ += 1
        ids.append(id_)
    return ids


# %% exercise-2 wrong: zeros
def photograph_of(network_input, mean):
    return np.zeros_like(network_input)


# %% exercise-2 wrong: flipped before the mean
def photograph_of(network_input, mean):
    return (network_input[::-1] + mean.reshape(3, 1, 1)) / 255


# %% exercise-2 wrong: still blue first
def photograph_of(network_input, mean):
    return (network_input + mean.reshape(3, 1, 1)) / 255


# %% exercise-2 wrong: the sign
def photograph_of(network_input, mean):
    return (network_input - mean.reshape(3, 1, 1))[::-1] / 255


# %% exercise-2 wrong: 0 to 255
def photograph_of(network_input, mean):
    return (network_input + mean.reshape(3, 1, 1))[::-1]


# %% exercise-2 wrong: off by one, 256
def photograph_of(network_input, mean):
    return (network_input + mean.reshape(3, 1, 1))[::-1] / 256


# %% exercise-2 wrong: turned around in the picture instead of the colours
def photograph_of(network_input, mean):
    return (network_input + mean.reshape(3, 1, 1))[:, ::-1] / 255


# %% exercise-2 right: channel by channel
def photograph_of(network_input, mean):
    blue, green, red = (channel + m for channel, m in zip(network_input, mean, strict=True))
    return np.stack([red, green, blue]) / 255


# %% exercise-3 wrong: as they are
def background_to_the_front(classifier, corrections):
    return classifier, np.concatenate([np.zeros((4, corrections.shape[1])), corrections])


# %% exercise-3 wrong: in the reversed order
def background_to_the_front(classifier, corrections):
    return classifier[::-1], np.concatenate([np.zeros((4, corrections.shape[1])), corrections])


# %% exercise-3 wrong: zeros at the end
def background_to_the_front(classifier, corrections):
    none = np.zeros((4, corrections.shape[1]))
    return np.concatenate([classifier[-1:], classifier[:-1]]), np.concatenate([corrections, none])


# %% exercise-3 wrong: the background's corrections are left out
def background_to_the_front(classifier, corrections):
    return np.concatenate([classifier[-1:], classifier[:-1]]), corrections


# %% exercise-3 wrong: one row of zeros
def background_to_the_front(classifier, corrections):
    none = np.zeros((1, corrections.shape[1]))
    return np.concatenate([classifier[-1:], classifier[:-1]]), np.concatenate([none, corrections])


# %% exercise-3 wrong: rolled the other way
def background_to_the_front(classifier, corrections):
    return np.roll(classifier, -1, 0), np.concatenate([np.zeros((4, corrections.shape[1])), corrections])


# %% exercise-3 wrong: the corrections are rolled too
def background_to_the_front(classifier, corrections):
    none = np.zeros((4, corrections.shape[1]))
    return np.roll(classifier, 1, 0), np.concatenate([none, np.roll(corrections, 4, 0)])


# %% exercise-3 wrong: the background's scores are zeros
def background_to_the_front(classifier, corrections):
    none = np.zeros((4, corrections.shape[1]))
    return np.concatenate([0 * classifier[-1:], classifier[:-1]]), np.concatenate([none, corrections])


# %% exercise-3 right: rolled
def background_to_the_front(classifier, corrections):
    return np.roll(classifier, 1, 0), np.pad(corrections, ((4, 0), (0, 0)))


# %% exercise-4 wrong: all of them
def left_to_train(model, stages):
    return sum(p.size for p in model.parameters())


# %% exercise-4 wrong: off by one, layer1 is the first
def left_to_train(model, stages):
    frozen = tuple(f"backbone.body.layer{i + 1}." for i in range(stages))
    return sum(p.size for name, p in model.named_parameters() if not name.startswith(frozen))


# %% exercise-4 wrong: off by one, a layer too many
def left_to_train(model, stages):
    groups = [("conv1.", "bn1."), ("layer1.",), ("layer2.",), ("layer3.",), ("layer4.",)]
    frozen = tuple(f"backbone.body.{name}" for group in groups[: stages + 1] for name in group)
    return sum(p.size for name, p in model.named_parameters() if not name.startswith(frozen))


# %% exercise-4 wrong: conv1 anywhere in the name
def left_to_train(model, stages):
    words = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"][: stages + 1 if stages else 0]
    return sum(p.size for name, p in model.named_parameters() if not any(word in name for word in words))


# %% exercise-4 wrong: the stem without its normalisation
def left_to_train(model, stages):
    groups = ["conv1.", "layer1.", "layer2.", "layer3.", "layer4."]
    frozen = tuple(f"backbone.body.{name}" for name in groups[:stages])
    return sum(p.size for name, p in model.named_parameters() if not name.startswith(frozen))


# %% exercise-4 wrong: those that are frozen
def left_to_train(model, stages):
    groups = [("conv1.", "bn1."), ("layer1.",), ("layer2.",), ("layer3.",), ("layer4.",)]
    frozen = tuple(f"backbone.body.{name}" for group in groups[:stages] for name in group)
    return sum(p.size for name, p in model.named_parameters() if name.startswith(frozen))


# %% exercise-4 wrong: arrays instead of numbers
def left_to_train(model, stages):
    groups = [("conv1.", "bn1."), ("layer1.",), ("layer2.",), ("layer3.",), ("layer4.",)]
    frozen = tuple(f"backbone.body.{name}" for group in groups[:stages] for name in group)
    return sum(1 for name, p in model.named_parameters() if not name.startswith(frozen))


# %% exercise-4 right: by the third part of the name
def left_to_train(model, stages):
    stage_of = {"conv1": 0, "bn1": 0, "layer1": 1, "layer2": 2, "layer3": 3, "layer4": 4}
    total = 0
    for name, p in model.named_parameters():
        parts = name.split(".")
        if not name.startswith("backbone.body.") or stage_of[parts[2]] >= stages:
            total += p.size
    return total
