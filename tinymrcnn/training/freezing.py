"""Freezing the first stages of a backbone, for fine-tuning: what they learned from many images stays as it is.

Counted as detectron2 does: stage 1 is the stem, stage 2 the first residual stage (layer1, which makes C2), and so
on. The public models were trained with the first two frozen. Lesson 15 shows what stays and what moves.
"""

from tinymrcnn.nn import BatchNorm2d, FrozenBatchNorm2d, Module


def freeze_stages(model, count: int) -> None:
    """Freeze the first `count` stages of the model's backbone; 0 freezes none. Call it before train().

    Their parameters get no gradient any more, and their batch normalisation becomes constant: in train mode it
    would still follow the batches. The names in the state_dict stay the same.
    Raises ValueError where the backbone has fewer stages (C4's ends with layer3: its layer4 runs on the RoIs)."""
    body = model.backbone.body
    layers = [f"layer{i + 1}" for i in range(len(body.out_channels))]
    stages = [["conv1", "bn1"], *([layer] for layer in layers)]
    if not 0 <= count <= len(stages):
        raise ValueError(
            f"{count} stages cannot be frozen: this backbone has {len(stages)}, the stem, {', '.join(layers)}."
        )
    for names in stages[:count]:
        for name in names:
            setattr(body, name, _frozen(getattr(body, name)))


def _frozen(module: Module) -> Module:
    """The module with its parameters fixed; in place of a batch normalisation the same function, fixed."""
    if isinstance(module, BatchNorm2d):
        constant = FrozenBatchNorm2d(len(module.running_mean), module.eps)
        constant.weight, constant.bias = module.weight.data, module.bias.data
        constant.running_mean, constant.running_var = module.running_mean, module.running_var
        return constant
    for name, child in list(module.named_children()):
        setattr(module, name, _frozen(child))
    return module.requires_grad_(False)
