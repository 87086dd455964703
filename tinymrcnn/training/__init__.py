"""Training: the loop, and the learning rate as a function of the step."""

from tinymrcnn.training.schedule import learning_rate
from tinymrcnn.training.trainer import make_optimizer, read_log, train, training_step

__all__ = ["learning_rate", "make_optimizer", "read_log", "train", "training_step"]
