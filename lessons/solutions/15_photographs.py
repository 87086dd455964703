"""Solutions of lesson 15, photographs."""


# %% exercise-1
def to_ids(labels, missing):
    """labels (D,), from 1 on without a gap, to COCO's ids (D,). missing: the ids that were left out, ascending."""
    ids = labels.copy()
    for gap in missing:
        ids += ids >= gap  # what has grown so far is compared, not the label
    return ids


# %% exercise-2
def photograph_of(network_input, mean):
    """(3, H, W) floats."""
    return (network_input + mean.reshape(3, 1, 1))[::-1] / 255


# %% exercise-3
def background_to_the_front(classifier, corrections):
    """(C, F) and (4 C, F)."""
    none = np.zeros((4, corrections.shape[1]), corrections.dtype)
    return np.concatenate([classifier[-1:], classifier[:-1]]), np.concatenate([none, corrections])


# %% exercise-4
def left_to_train(model, stages):
    """An int."""
    groups = [("conv1.", "bn1."), ("layer1.",), ("layer2.",), ("layer3.",), ("layer4.",)]
    frozen = tuple(f"backbone.body.{name}" for group in groups[:stages] for name in group)
    return sum(p.size for name, p in model.named_parameters() if not name.startswith(frozen))
