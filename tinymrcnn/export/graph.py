"""An ONNX graph that is written as Python calls: g.Relu(g.Add(x, y)) adds two nodes and returns the name of the last
one's result.

What the operators do: https://onnx.ai/onnx/operators.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinymrcnn import __version__
from tinymrcnn.backend import to_numpy
from tinymrcnn.nn import Module

OPSET = 21  # the first whose GroupNormalization has a weight for every channel
IR_VERSION = 10  # of the file format, which came with that opset
EXTRA = "pip install -e '.[export]'"


def import_onnx() -> Any:
    """The package onnx. Raises RuntimeError, with what to do, where it is not installed."""
    try:
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise RuntimeError(f"To write ONNX files the package onnx is needed, in a clone {EXTRA}.") from error
    return onnx


class Graph:
    """Nodes, and the constants that they read. A value is known by its name, a str.

    g.Conv(x, weight, strides=[2, 2]) adds a node of any operator. Its inputs are names, arrays, or numbers and lists of
    them (int64 and float32), which become constants; None leaves an optional input out. It returns the name of the
    result; with outputs=2, a tuple of names.

    model: constants that belong to a part of it have the part's name."""

    def __init__(self, model: Module) -> None:
        self.onnx = import_onnx()
        self.names = {id(module): name for name, module in model.named_modules()}
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def __getattr__(self, kind: str) -> Any:
        return functools.partial(self._node, kind)

    def _node(self, kind: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{kind}_{len(self.nodes)}" + (f"_{i}" if i else "") for i in range(outputs)]
        read = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        self.nodes.append(self.onnx.helper.make_node(kind, read, names, name=names[0], **attributes))
        return names[0] if outputs == 1 else tuple(names)

    def constant(self, value: Any, name: str | None = None) -> str:
        """The name of a constant; "" for None, which stands for no input."""
        if value is None:
            return ""
        name = name or f"constant_{len(self.constants)}"
        if name in self.constants:  # a head that is used for every level
            return name
        array = np.asarray(value)
        if not isinstance(value, (np.ndarray, np.generic)):
            array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        self.constants[name] = self.onnx.numpy_helper.from_array(np.array(array, order="C"), name)
        return name

    def weight(self, module: Module, array: Any, name: str = "weight") -> str:
        """A constant of a part of the model, in float32, under the name that it has in the state_dict; "" for None."""
        return (
            ""
            if array is None
            else self.constant(to_numpy(array).astype(np.float32), f"{self.names[id(module)]}.{name}")
        )

    # What needs more than one node, or a type

    def to(self, value: str, dtype: Any) -> str:
        return self.Cast(value, to=self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def size(self, value: str, axis: int) -> str:
        """How long an axis is, (1,) int64."""
        return self.Shape(value, start=axis, end=axis + 1)

    def arange(self, count: str, dtype: Any) -> str:
        """0, 1, 2, ...; count: (1,) int64."""
        return self.to(self.Range(0, self.Squeeze(count, [0]), 1), dtype)

    def where(self, condition: str) -> str:
        """The places at which a condition (N,) holds, in their order."""
        return self.Squeeze(self.NonZero(condition), [0])

    # The whole

    def model(self, inputs: Sequence[Any], outputs: Sequence[Any], text: str, metadata: dict[str, str]) -> Any:
        """The graph as an onnx.ModelProto, which onnx's own checker has passed.

        inputs, outputs: (name, value, dtype, shape), a text in a shape standing for a size of any length; the names
        take the places of those of the values. text: what there is to know of them. metadata: texts by name."""
        helper = self.onnx.helper
        renamed = {value: name for name, value, _, _ in (*inputs, *outputs)}
        for node in self.nodes:
            for part in (node.input, node.output):
                part[:] = [renamed.get(value, value) for value in part]
        described = [
            [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
             for name, _, dtype, shape in side]
            for side in (inputs, outputs)
        ]  # fmt: skip
        graph = helper.make_graph(self.nodes, "tinymrcnn", *described, list(self.constants.values()), doc_string=text)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, doc_string=text,
            producer_name="tinymrcnn", producer_version=__version__,
        )  # fmt: skip
        helper.set_model_props(model, metadata)
        self.onnx.checker.check_model(model, full_check=True)
        return model
