"""Training: the loop, the learning rate as a function of the step, and freezing for fine-tuning."""

from tinymrcnn.training.freezing import freeze_stages
from tinymrcnn.training.log import read_log
from tinymrcnn.training.schedule import learning_rate
from tinymrcnn.training.trainer import make_optimizer, train, training_step

__all__ = ["freeze_stages", "learning_rate", "make_optimizer", "read_log", "train", "training_step"]
