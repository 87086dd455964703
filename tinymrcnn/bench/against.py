"""Ours beside inference engines: the same graph, weights, input, threads and process.

A work is our layers and the ONNX graph that export/ writes of them. ONNX Runtime and OpenVINO take the graph as it is;
torch and ncnn take its few operators one by one, in the way that suits them: maps channels-last, and a ReLU within the
convolution before it. Every result is compared with ours before anything is timed.
"""

import collections
import importlib
import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinymrcnn.autograd import Tensor, no_grad
from tinymrcnn.backend import channels_first
from tinymrcnn.bench.cases import Case
from tinymrcnn.bench.networks import build_ours, networks
from tinymrcnn.bench.watch import counting_operations
from tinymrcnn.export.graph import Graph, import_onnx
from tinymrcnn.export.layers import conv, export_body
from tinymrcnn.models.fuse import fused
from tinymrcnn.nn import Conv2d, Module, Parameter

TOLERANCE = 1e-4  # of the largest value of a map
Results = Callable[[], list[Any]]  # runs the work; arrays (1, C, H, W), or what becomes such by as_array


@dataclass(frozen=True)
class Work:
    """name: of the row. run: our layers, on a Tensor (1, C, H, W), to a list of Tensors. model: the same as an
    onnx.ModelProto. image: (1, C, H, W) float32, channels-last in memory."""

    name: str
    run: Callable[[Tensor], list[Tensor]]
    model: Any
    image: np.ndarray

    def ours(self) -> list[np.ndarray]:
        with no_grad():
            return [result.data for result in self.run(Tensor(self.image))]


# The works


# (kernel, stride, channels in and out, size of the input)
CONVOLUTIONS = {
    "3x3 convolution, 256 channels, 100x136": (3, 1, 256, 256, (100, 136)),
    "3x3 convolution, 64 channels, 200x272": (3, 1, 64, 64, (200, 272)),
    "3x3 convolution, 128 channels, 200x272, stride 2": (3, 2, 128, 128, (200, 272)),
    "1x1 convolution, 512 to 256 channels, 100x136": (1, 1, 512, 256, (100, 136)),
}
BODIES = {"R50-FPN body, 320x416": (320, 416), "R50-FPN body, 800x1088": (800, 1088)}


def convolutions(quick: bool) -> Iterator[Work]:
    """With a bias, and random weights."""
    for name, (kernel, stride, inputs, outputs, size) in CONVOLUTIONS.items():
        if quick:
            inputs, outputs, size = inputs // 16, outputs // 16, (10, 14)
        layer = Conv2d(inputs, outputs, kernel, stride, kernel // 2)
        layer.bias = Parameter(np.random.default_rng(1).standard_normal(outputs, np.float32))
        g, image = Graph(Module(conv=layer)), random_image(inputs, size)
        result = conv(g, "images", layer)
        shape = [1, outputs, *(side // stride for side in size)]
        sides = [("images", "images", np.float32, image.shape)], [("map0", result, np.float32, shape)]
        yield Work(name, alone(layer), g.model(*sides, "A convolution.", {}), image)


def alone(layer: Conv2d) -> Callable[[Tensor], list[Tensor]]:
    constant = fused(layer)
    return lambda x: [constant(x)]


def bodies(quick: bool) -> Iterator[Work]:
    """P2 to P6. The random weights are those of `bench model`."""
    model = build_ours(next(iter(networks(quick).values())))
    backbone = fused(model).backbone  # engines pack the filters once, too
    for name, size in BODIES.items():
        size = (64, 96) if quick else size
        yield Work(name, lambda x: backbone.fpn(backbone.body(x)), export_body(model, size), random_image(3, size))


WORKS = {"conv": convolutions, "model": bodies}


def random_image(channels: int, size: tuple[int, int]) -> np.ndarray:
    return channels_first(np.random.default_rng(0).standard_normal((1, *size, channels), np.float32))


# The graph for engines that do not read ONNX


@dataclass(frozen=True)
class Step:
    """An operator of the graph. kind: Conv, Add, MaxPool or Resize (twice as many cells). inputs, output: names.
    constants: weight and bias. options: ONNX's attributes. relu: whether a ReLU follows."""

    kind: str
    inputs: list[str]
    output: str
    constants: list[np.ndarray]
    options: dict[str, Any]
    relu: bool


def steps(model: Any) -> list[Step]:
    """The nodes of a graph that export/layers.py wrote, where a ReLU stands right behind what it is for."""
    onnx, found = import_onnx(), list[Step]()
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Relu":
            before = found.pop()
            found.append(Step(before.kind, before.inputs, node.output[0], before.constants, before.options, True))
            continue
        options = {option.name: onnx.helper.get_attribute_value(option) for option in node.attribute}
        inputs = [name for name in node.input if name and name not in constants]
        own = [constants[name] for name in node.input if name in constants]
        found.append(Step(node.op_type, inputs, node.output[0], own, options, False))
    return found


def outputs_of(model: Any) -> list[str]:
    return [value.name for value in model.graph.output]


# The engines


def torch_side(work: Work, threads: int) -> Results:
    """torch as it is called by itself, on channels-last maps, its faster layout; same_threads has set its threads."""
    torch = importlib.import_module("torch")
    functional, last = torch.nn.functional, {"memory_format": torch.channels_last}
    image = torch.from_numpy(np.ascontiguousarray(work.image)).contiguous(**last)
    program, outputs = [], outputs_of(work.model)
    last_reader = {name: step.output for step in steps(work.model) for name in step.inputs}
    for step in steps(work.model):
        weights = [torch.from_numpy(array.copy()) for array in step.constants]
        weights = [weight.contiguous(**last) if weight.ndim == 4 else weight for weight in weights]
        done = [name for name in step.inputs if last_reader[name] == step.output and name not in outputs]
        program.append((step, weights, done))

    def run():
        maps = {"images": image}
        for step, weights, done in program:
            inputs, options = [maps[name] for name in step.inputs], step.options
            if step.kind == "Conv":
                out = functional.conv2d(*inputs, *weights, options["strides"], options["pads"][:2])
            elif step.kind == "Add":
                out = torch.add(*inputs)
            elif step.kind == "MaxPool":
                out = functional.max_pool2d(*inputs, options["kernel_shape"], options["strides"], options["pads"][:2])
            else:
                out = functional.interpolate(*inputs, scale_factor=2, mode="nearest")
            maps[step.output] = out.relu_() if step.relu else out
            for name in done:  # their memory is free again
                del maps[name]
        return [maps[name] for name in outputs]

    return torch.inference_mode()(run)


def ort_side(work: Work, threads: int) -> Results:
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = runtime.InferenceSession(work.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = {"images": np.ascontiguousarray(work.image)}
    return lambda: session.run(outputs_of(work.model), inputs)


def openvino_side(work: Work, threads: int) -> Results:
    core = importlib.import_module("openvino").Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(threads)}
    compiled = core.compile_model(core.read_model(work.model.SerializeToString()), "CPU", hints)
    request, inputs = compiled.create_infer_request(), {0: np.ascontiguousarray(work.image)}
    return lambda: list(request.infer(inputs).values())


def ncnn_side(work: Work, threads: int) -> Results:
    ncnn = importlib.import_module("ncnn")
    net = ncnn.Net()
    net.opt.num_threads = threads
    for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{name}", False)
    with tempfile.TemporaryDirectory() as folder:
        names = write_ncnn(work.model, Path(folder))
        if net.load_param(f"{folder}/net.param") or net.load_model(f"{folder}/net.bin"):
            raise RuntimeError(f"ncnn cannot read the graph that was written for it: {work.name}.")
    array = np.ascontiguousarray(work.image[0])
    image = ncnn.Mat(array).clone()  # a Mat looks at the array's memory, and does not hold the array

    def run():
        extractor = net.create_extractor()
        extractor.input("images", image)
        return [extractor.extract(name)[1] for name in names]

    return run


def write_ncnn(model: Any, folder: Path) -> list[str]:
    """Write net.param, a layer a line, and net.bin, the weights one after the other; the names of the outputs.

    A layer: type, name, the numbers of inputs and outputs, their names, and parameters by number. A map that is read
    more than once has a Split behind it, with a name for every reader.
    https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure and operators"""
    program, lines = steps(model), ["Input images 0 1 images"]
    reads = collections.Counter(name for step in program for name in step.inputs)
    reads.update(outputs_of(model))
    taken: collections.Counter[str] = collections.Counter()

    def read(name: str) -> str:
        taken[name] += 1
        return name if reads[name] == 1 else f"{name}_{taken[name]}"

    def layer(kind: str, inputs: list[str], outputs: list[str], parameters: str = "") -> None:
        counts = f"{len(inputs)} {len(outputs)}"
        lines.append(" ".join([kind, f"layer{len(lines)}", counts, *inputs, *outputs, parameters]))

    with open(folder / "net.bin", "wb") as file:
        for step in program:
            inputs, out, options = [read(name) for name in step.inputs], step.output, step.options
            first = f"{out}_before_relu" if step.relu and step.kind == "Add" else out
            if step.kind == "Conv":
                weight, bias = step.constants
                sizes = f"1={weight.shape[2]} 3={options['strides'][0]} 4={options['pads'][0]}"
                layer("Convolution", inputs, [out], f"0={len(weight)} {sizes} 5=1 6={weight.size} 9={int(step.relu)}")
                file.write(b"\0\0\0\0" + weight.tobytes() + bias.tobytes())  # in float32, says the first number
            elif step.kind == "Add":
                layer("BinaryOp", inputs, [first], "0=0")
            elif step.kind == "MaxPool":
                sizes = f"1={options['kernel_shape'][0]} 2={options['strides'][0]} 3={options['pads'][0]}"
                layer("Pooling", inputs, [out], f"0=0 {sizes} 5=1")
            else:
                layer("Interp", inputs, [out], "0=1 1=2.0 2=2.0")
            if first != out:
                layer("ReLU", [first], [out])
            if reads[out] > 1:
                layer("Split", [out], [f"{out}_{i + 1}" for i in range(reads[out])])
    blobs = sum(int(line.split()[3]) for line in lines)
    (folder / "net.param").write_text(f"7767517\n{len(lines)} {blobs}\n" + "\n".join(lines) + "\n", encoding="ascii")
    return [read(name) for name in outputs_of(model)]


ENGINES = {"torch": torch_side, "ort": ort_side, "openvino": openvino_side, "ncnn": ncnn_side}
PACKAGES = {**{name: name for name in ENGINES}, "ort": "onnxruntime"}


# Side by side


def installed(engines: list[str]) -> dict[str, str]:
    """Those of the engines that are installed, with their versions."""
    packages = {name: PACKAGES[name] for name in engines}
    there = {name: package for name, package in packages.items() if importlib.util.find_spec(package)}
    return {name: importlib.metadata.version(package) for name, package in there.items()}


def as_array(result: Any) -> np.ndarray:
    array = np.array(result.numpy() if hasattr(result, "numpy") else result)  # a copy: engines use memory again
    return array if array.ndim == 4 else array[None]  # ncnn has no batches


def case_of(work: Work, engines: list[str], threads: int) -> Case:
    """The row of a work. Raises RuntimeError, naming the engine, for a result that is not ours within TOLERANCE."""
    with counting_operations() as count:
        expected = work.ours()
    sides: dict[str, Callable[[], object]] = {"ours": work.ours}
    largest = {}
    for name in engines:
        run = ENGINES[name](work, threads)
        found = [as_array(result) for result in run()]
        if [array.shape for array in found] != [array.shape for array in expected]:
            raise RuntimeError(f"{name} computes maps of other sizes than ours, of {work.name}: nothing is timed.")
        errors = [abs(a - b).max() / abs(b).max() for a, b in zip(found, expected, strict=True)]
        largest[name] = float(np.max(errors))
        if not largest[name] <= TOLERANCE:
            raise RuntimeError(
                f"{name} differs from ours by {largest[name]:.1e} of the largest value, of {work.name}, more than "
                f"{TOLERANCE:.0e}: it does other work, and nothing is timed."
            )
        sides[name] = run
    differences = ", ".join(f"{name} {error:.0e}" for name, error in largest.items())
    return Case(work.name, count(), "FLOP", sides, f"the largest differences from ours: {differences}")


def ratios(row: dict) -> dict[str, float]:
    """Our time divided by that of every other side of a row, the best one first."""
    medians = {side: timing["median"] for side, timing in row["sides"].items()}
    ours = medians.pop("ours")
    return {side: ours / seconds for side, seconds in sorted(medians.items(), key=lambda item: item[1])}


def ratio_line(row: dict, engines: list[str]) -> str:
    """A line of the table: our milliseconds, those of every engine with the ratio, and the best of them."""
    found = ratios(row)
    cells = [f"{1000 * row['sides']['ours']['median']:.4g}"]
    cells += [f"{1000 * row['sides'][name]['median']:.4g} ({found[name]:.2f})" for name in engines]
    best, ratio = next(iter(found.items()))
    line = f"{row['name']:<52}" + "".join(f"{cell:>16}" for cell in cells) + f"  {best}, {ratio:.2f}  {row['verdict']}"
    return line.rstrip()


def table_head(engines: list[str]) -> str:
    return (
        f"{'milliseconds (ours / theirs)':<52}" + "".join(f"{name:>16}" for name in ("ours", *engines)) + "  the best"
    )
