"""Heads on a stored trunk: what the paper's ablations compare, with everything before it the same for all variants.

The paper's section 4.2 trains the RPN by itself, and the variants on its proposals. Here the backbone and the RPN are
trained once for each seed, by the RPN's losses alone, so that no variant of the heads has a part in them. Their
proposals are stored, of the training pictures and the test pictures; then every variant trains new heads on them, and
the backbone along with them.
"""

import numpy as np

from tinymrcnn.autograd import no_grad
from tinymrcnn.backend import to_device, to_numpy
from tinymrcnn.data.loader import load_batch
from tinymrcnn.models import rpn
from tinymrcnn.models.two_stage import Samples, TwoStage

# A proposal that scores less is hardly ever an object: of every picture this many are stored, the best
STORED = 100


class RPNOnly:
    """A model as training_step() trains it, with the losses of its RPN alone."""

    def __init__(self, model: TwoStage):
        self.model = model

    def loss_sums(self, images: list, targets: list, *, step: int):
        model = self.model
        batch = model.transform(images, targets, step=step)
        outputs = model.run_rpn(model.features(batch), batch)
        samples = Samples(model.sample_anchors(outputs.anchors, batch), [])
        return rpn.rpn_loss(outputs, batch.gt_boxes, samples=samples.anchors, settings=model.config.rpn), samples


class Heads:
    """A model as training_step() trains it, with the losses of its branches alone, on stored proposals.

    proposals: of every step a list with one (P_i, 4) array an image, in pixels of the picture."""

    def __init__(self, model: TwoStage, proposals: list[list[np.ndarray]]):
        self.model, self.proposals = model, proposals

    def loss_sums(self, images: list, targets: list, *, step: int):
        model = self.model
        batch = model.transform(images, targets, step=step)
        samples = model.sample(_on_device(self.proposals[step], model), batch)
        return model.branch_losses(model.features(batch), batch, samples), Samples([], samples)


@no_grad()
def propose(model: TwoStage, images: list) -> list[np.ndarray]:
    """The STORED best proposals of every image, (P_i, 4) on the host."""
    batch = model.transform(images)
    proposals = model.propose(model.run_rpn(model.features(batch), batch), batch)
    return [to_numpy(boxes[:STORED]) for boxes in proposals]


@no_grad()
def detect(model: TwoStage, images: list, proposals: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
    """What model.detect(images) returns, from stored proposals."""
    batch = model.transform(images)
    found = model.branch_detections(model.features(batch), batch, _on_device(proposals, model))
    return model.rescale(found, batch)


def training_proposals(model: TwoStage, dataset, steps: int, batch_size: int, seed: int) -> list[list[np.ndarray]]:
    """The proposals of the pictures of every step, as the loader will show them."""
    model.eval()
    return [propose(model, load_batch(dataset, batch_size, step, seed)[1]) for step in range(steps)]


def take_over(model: TwoStage, trunk: TwoStage) -> None:
    """Give the model the backbone and the RPN of the trunk."""
    ours, stored = model.state_dict(), trunk.state_dict()
    model.load_state_dict(ours | {name: stored[name] for name in stored if name.startswith(("backbone.", "rpn."))})


def _on_device(proposals: list[np.ndarray], model: TwoStage) -> list:
    return [to_device(boxes, model.device) for boxes in proposals]
