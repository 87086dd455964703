"""The learning rate as a function of the step.

It grows linearly from near 0 over the first `warmup_steps`, because the first gradients of a random network
are large and point anywhere. After that it either falls along half a cosine to 0 (Loshchilov & Hutter 2017,
formula 5) or stays and drops to a tenth at given points of the run, as in the article (section 3.1: once,
at three quarters). Lesson 10 draws it.
"""

import bisect
import math

from tinymrcnn.settings import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """The learning rate of a step, 0 to config.steps - 1, as a Python float."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "step":
        return config.lr * 0.1 ** bisect.bisect_right(config.drops, step / config.steps)
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))
