"""The engine: Tensors that remember how they were computed, and the checker of their gradients."""

from tinymrcnn.autograd.functions import cat, in_parts, maximum, minimum, stack, where
from tinymrcnn.autograd.gradcheck import GradcheckError, NondifferentiableError, gradcheck
from tinymrcnn.autograd.graph import no_grad
from tinymrcnn.autograd.tensor import Tensor, record

__all__ = [
    "GradcheckError", "NondifferentiableError", "Tensor", "cat", "gradcheck", "in_parts", "maximum", "minimum",
    "no_grad", "record", "stack", "where",
]  # fmt: skip
