"""The engine: Tensors that remember how they were computed, and the checker of their gradients."""

from tinymrcnn.autograd.gradcheck import GradcheckError, NondifferentiableError, gradcheck
from tinymrcnn.autograd.operators import cat
from tinymrcnn.autograd.tensor import Tensor, no_grad, record

__all__ = ["GradcheckError", "NondifferentiableError", "Tensor", "cat", "gradcheck", "no_grad", "record"]
