"""A small Mask R-CNN and torchvision's twin of it, with the same weights: what the parity tests share.

The twin is made of torchvision's own classes, so that it runs the code of maskrcnn_resnet50_fpn, and only its widths
and depths are smaller. Random weights give near-uniform scores, so `spread` draws larger ones, and `calibrate` scales
the predictors to what a trained network puts out, so that detections are distinct."""

import numpy as np

from tinymrcnn.autograd import no_grad
from tinymrcnn.bench.networks import build_theirs
from tinymrcnn.models import build_model

SMALL = dict(
    depths=(1, 2, 1, 1), widths=(8, 8, 16, 16), stem_width=8, fpn_channels=12, rpn_channels=12, box_hidden=20,
    mask_layers=(10, 10), mask_channels=8,
)  # fmt: skip
EVERYTHING = 10**6  # as a sample's size: then chance decides nothing


def spread(name, shape, rng):
    """Weights for which every part of the network has something to say."""
    if name.endswith("running_var"):
        return rng.uniform(0.5, 2, shape)
    if name.endswith(("bias", "running_mean")):
        return rng.normal(0, 0.1, shape)
    if len(shape) == 1:
        return rng.uniform(0.7, 1.3, shape)
    fan_in = np.prod(shape[1:]) if "conv5_mask" not in name else shape[0]
    # torchvision sorts proposals by the sigmoid, which must not saturate: of ties, the order is anyone's
    small = {"rpn.head.bbox_pred.weight": 0.2, "rpn.head.cls_logits.weight": 0.2, "backbone.fpn.inner": 0.5}
    scale = next((value for start, value in small.items() if name.startswith(start)), 1.4)
    return rng.normal(0, scale / np.sqrt(fan_in), shape)


def small_model(preset="torchvision_resnet50_fpn", seed=0, **overrides):
    """Our model, in train mode, with few channels and spread weights."""
    model = build_model(preset, **{**SMALL, **overrides})
    rng = np.random.default_rng(seed)
    model.load_state_dict(
        {name: spread(name, a.shape, rng).astype(np.float32) for name, a in model.state_dict().items()}
    )
    return model.train()


@no_grad()
def calibrate(model, image):
    """Scale the output layers, channel by channel, to mean 0 and a standard deviation on this image: 2 of the RPN's
    and the classes' logits, 3 of the masks', and so much of the corrections that boxes move and grow by a tenth or
    two. The RPN's logits are turned so that they are low where there is nothing, as in the padding of a batch, whose
    cells are all alike: torchvision promises no order among equals. Returns the model."""
    batch, predictor = model.transform([image]), model.roi_heads.box_predictor
    features = model.features(batch)
    hidden = [model.rpn.head.conv(feature) for feature in features]
    for layer, deviation in ((model.rpn.head.cls_logits, 2.0), (model.rpn.head.bbox_pred, 0.15)):
        standardize(layer, [layer(x).data for x in hidden], deviation)
    grey = np.broadcast_to(np.reshape(model.config.transform.pixel_mean, (3, 1, 1)), (3, 64, 64)).astype(np.float32)
    nothing = model.features(model.transform([grey]))[0]
    logits = model.rpn.head.cls_logits
    sign = np.where(logits(model.rpn.head.conv(nothing)).data.mean(axis=(0, 2, 3)) > 0, -1, 1).astype(np.float32)
    logits.weight.data *= sign.reshape(-1, 1, 1, 1)
    logits.bias.data *= sign
    proposals = [boxes[::7] for boxes in model.propose(model.run_rpn(features, batch), batch)]
    hidden = model.roi_heads.box_head(model.pool(features, proposals, model.config.box.pool))
    for layer, deviation in ((predictor.cls_score, 2.0), (predictor.bbox_pred, 1.0)):
        standardize(layer, [layer(hidden).data], deviation)
    hidden = model.roi_heads.mask_head(model.pool(features, proposals, model.config.mask.pool))
    hidden, layer = model.roi_heads.mask_predictor.conv5_mask(hidden), model.roi_heads.mask_predictor.mask_fcn_logits
    standardize(layer, [layer(hidden).data], 3.0)
    return model


def standardize(layer, outputs, deviation):
    values = np.concatenate([np.moveaxis(output, 1, 0).reshape(output.shape[1], -1) for output in outputs], axis=1)
    scale = deviation / values.std(axis=1)
    layer.weight.data *= scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
    layer.bias.data[...] = (layer.bias.data - values.mean(axis=1)) * scale


def twin_of(model, dtype=np.float32):
    """torchvision's model with the weights of ours, in train mode."""
    import torch

    theirs = build_theirs(model.config).to(torch.float64 if dtype == np.float64 else torch.float32)
    state = {name: torch.from_numpy(array) for name, array in model.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert unexpected == [] and all(name.endswith("num_batches_tracked") for name in missing)
    return theirs.train()


def run_stages(theirs, images) -> dict:
    """What torchvision's model makes of images, stage by stage, every stage fed with the one before: a flat dict of
    host arrays. Rows of all images are joined; "proposals 1" are those of image 1."""
    import torch
    from torchvision.models.detection.rpn import concat_box_prediction_layers

    s, heads = {}, theirs.roi_heads
    with torch.no_grad():
        batch, _ = theirs.transform([torch.from_numpy(image) for image in images])
        x, sizes, count = batch.tensors, batch.image_sizes, len(images)
        s["images"], s["sizes"] = x, torch.tensor(sizes)
        body = theirs.backbone.body
        s["C1"] = body.maxpool(body.relu(body.bn1(body.conv1(x))))
        s |= {f"C{i}": level for i, level in enumerate(body(x).values(), start=2)}
        maps = theirs.backbone(x)
        s |= {f"P{i}": level for i, level in enumerate(maps.values(), start=2)}
        levels = list(maps.values())
        objectness, deltas = theirs.rpn.head(levels)
        level_sizes = [o[0].numel() for o in objectness]
        s["level sizes"] = torch.tensor(level_sizes)
        anchors = theirs.rpn.anchor_generator(batch, levels)
        s["anchors"] = anchors[0]
        assert all(torch.equal(anchors[0], others) for others in anchors)
        logits, deltas = concat_box_prediction_layers(objectness, deltas)
        decoded = theirs.rpn.box_coder.decode(deltas, anchors).view(count, -1, 4)
        s["logits"], s["deltas"] = logits.reshape(count, -1), deltas.reshape(count, -1, 4)
        # cells of the padding are all alike, and torchvision promises no order among equals: told apart by up to 1e-3
        noise = torch.rand(s["logits"].shape, generator=torch.Generator().manual_seed(0)).to(logits.dtype)
        s["ranked"] = s["logits"] + 1e-3 * noise
        proposals, scores = theirs.rpn.filter_proposals(decoded, s["ranked"], sizes, level_sizes)
        s["box features"] = heads.box_roi_pool(maps, proposals, sizes)
        s["class logits"], s["box deltas"] = heads.box_predictor(heads.box_head(s["box features"]))
        boxes, *_ = heads.postprocess_detections(s["class logits"], s["box deltas"], proposals, sizes)
        s["mask features"] = heads.mask_roi_pool(maps, boxes, sizes)
        s["mask logits"] = heads.mask_predictor(heads.mask_head(s["mask features"]))
        detections, _ = heads(maps, proposals, sizes)
        before = [dict(detection) for detection in detections]
        results = theirs.transform.postprocess(detections, sizes, [image.shape[1:] for image in images])
        for i in range(count):
            s[f"proposals {i}"], s[f"proposal scores {i}"] = proposals[i], scores[i]
            s |= {f"{name} {i}": tensor for name, tensor in before[i].items()}
            s[f"final boxes {i}"], s[f"pasted {i}"] = results[i]["boxes"], results[i]["masks"]
    return {name: tensor.numpy() for name, tensor in s.items()}


def as_torch(images, targets):
    import torch

    wanted = ("boxes", "labels", "masks")
    return (
        [torch.from_numpy(image) for image in images],
        [{name: torch.from_numpy(target[name]) for name in wanted} for target in targets],
    )


def relative_error(a, b) -> float:
    """The largest difference of arrays of one shape, relative to b's largest value."""
    a, b = np.asarray(a, np.float64), np.asarray(b.detach() if hasattr(b, "detach") else b, np.float64)
    assert a.shape == b.shape
    return float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-3))
