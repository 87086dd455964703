"""A small machine for PTX: runs what a CUDA kernel was compiled to, without a GPU, and counts instructions.

It knows the instructions that Numba's kernels consist of, and fails at any other and at a read or write outside the
arrays. PTX is not what a GPU executes: ptxas makes of it other instructions, and often more (`assembled`). But where
the PTX does less, the GPU does less. Lesson 16 and the tests of the kernels use it.
"""

import functools
import importlib
import importlib.util
import math
import operator
import re
import shutil
import struct
import subprocess
import tempfile
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numba
import numpy as np

from tinymrcnn.kernels import compile_to_ptx

INSTRUCTION = re.compile(r"(?:@(!?)(%p\d+)\s+)?([a-z][\w.:]*)\s*(.*?);$")
MEMORY = re.compile(r"\.(local|shared) \.align \d+ \.b8\s+(\w+)\[(\d+)\];")
PLACE = re.compile(r"\[([%\w]+)(?:\+(-?\d+))?\]")
FLOATS = {"f32": np.float32, "f64": np.float64}
COMPARE = {name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}
BITWISE = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}
ROUND = {"rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil, "rni": np.rint}

Instruction = namedtuple("Instruction", "negated predicate operation arguments")
Assembled = namedtuple("Assembled", "registers spilled shared instructions")


def compiled(kernel, *args):
    """The PTX of a kernel for these arguments, compute capability 8.0."""
    capability = SimpleNamespace(compute_capability=(8, 0))
    with mock.patch("numba.cuda.dispatcher.get_current_device", lambda: capability):  # functions of kernels ask it
        return compile_to_ptx(kernel, numba.types.void(*map(numba.typeof, args)))


@functools.cache
def problem():
    """Why no kernel can be compiled here, a sentence; or None."""
    try:
        importlib.import_module("numba.cuda.np")  # numba-cuda has it; what Numba itself has of CUDA does not suffice
        compiled(SimpleNamespace(py_func=lambda: None))
    except Exception as error:  # whatever a missing compiler raises
        reason = str(error).strip().splitlines() or [""]
        return (
            f"No PTX can be made here ({type(error).__name__}: {reason[0]:.80}). "
            "On Linux, in the clone: pip install -e '.[test]' brings a compiler that needs no GPU."
        )
    return None


def assembled(ptx):
    """What ptxas makes of it for compute capability 8.0: registers of a thread, bytes that did not fit in them, bytes
    of shared memory of a block, machine instructions in the text. None where there is no ptxas."""
    places = getattr(importlib.util.find_spec("nvidia"), "submodule_search_locations", None) or ()
    found = [str(path) for place in places for path in Path(place).glob("*/bin/ptxas*")] + [shutil.which("ptxas")]
    if found[0] is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx)
        command = [found[0], "-arch=sm_80", "-v", str(source), "-o", str(result)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        size = text_size(result.read_bytes())
    numbers = (re.search(rf"(\d+) {what}", said) for what in ("registers", "bytes spill stores", "bytes smem"))
    return Assembled(*(int(number.group(1)) if number else 0 for number in numbers), size // 16)  # 16 bytes each


def text_size(cubin):
    """The bytes of machine code in a cubin, which is an ELF file of 64 bits."""
    start, (size, count, names) = struct.unpack_from("<Q", cubin, 40)[0], struct.unpack_from("<HHH", cubin, 58)
    sections = [struct.unpack_from("<IIQQQQ", cubin, start + k * size) for k in range(count)]
    base = sections[names][4]
    return sum(length for name, *_, length in sections if cubin[base + name :].startswith(b".text."))


def parse(ptx):
    """The instructions of the one kernel in the text, the labels: name -> the index of the next instruction, and the
    local and shared memory: name -> (which, bytes)."""
    program, labels = [], {}
    memory = {name: (kind, int(size)) for kind, name, size in MEMORY.findall(ptx)}
    for line in ptx[ptx.index("{", ptx.index(".entry")) + 1 :].splitlines():
        line = line.split("//")[0].strip()
        if line.endswith(":"):
            labels[line[:-1]] = len(program)
        elif found := INSTRUCTION.match(line):
            negated, predicate, operation, arguments = found.groups()
            words = [word.strip(" {}") for word in arguments.split(",")] if arguments else []
            program.append(Instruction(negated, predicate, operation.split("."), words))
    return program, labels, memory


def whole(value, kind):
    """A whole number as the type reads it: "s64", "u32", "b16"."""
    bits = int(kind[1:])
    value = int(value) & ((1 << bits) - 1)
    return value - (1 << bits) if kind[0] == "s" and value >> (bits - 1) else value


def parameters(args):
    """The values of a kernel's parameters in Numba's order: an array is nothing twice, its size, the bytes of an
    element, its address, its shape and its strides."""
    values = []
    for arg in args:
        if isinstance(arg, np.ndarray):
            values += [0, 0, arg.size, arg.itemsize, arg.ctypes.data, *arg.shape, *arg.strides]
        else:
            values.append(arg)
    return values


class Memory:
    """The arrays among the arguments, and local and shared memory, by address."""

    def __init__(self, args, raw):
        arrays = [arg for arg in args if isinstance(arg, np.ndarray)]
        self.arrays = [(array.ctypes.data, array.nbytes, array.reshape(-1)) for array in (*arrays, *raw)]

    def at(self, address, kind):
        for start, size, array in self.arrays:
            if start <= address < start + size:
                if array.dtype == np.uint8:  # bytes for numbers of any type
                    array = array.view(f"{kind[0].replace('b', 'u')}{int(kind[1:]) // 8}")
                assert (address - start) % array.itemsize == 0 and int(kind[1:]) == 8 * array.itemsize
                return array, (address - start) // array.itemsize
        raise IndexError(f"No array lies at {address:#x}.")


def run_thread(ptx, args, thread=0, threads=1, block=0, blocks=1, shared=None):
    """Run a kernel's thread; a generator that stops at every barrier, and returns how many instructions it executed.

    shared: the shared memory of the block, by name."""
    program, labels, named = ptx
    raw = {name: np.zeros(size, np.uint8) for name, (kind, size) in named.items() if kind == "local"} | (shared or {})
    memory, values = Memory(args, raw.values()), parameters(args)
    registers = {"%tid.x": thread, "%ntid.x": threads, "%ctaid.x": block, "%nctaid.x": blocks}
    registers |= {name: array.ctypes.data for name, array in raw.items()}

    def read(word, kind):
        if word in registers:
            value = registers[word]
        elif word.startswith(("0f", "0d")):
            bits = np.array(int(word[2:], 16), np.uint32 if word[1] == "f" else np.uint64)
            value = bits.view(np.float32 if word[1] == "f" else np.float64)[()]
        else:
            value = int(word)
        return value if kind[0] == "f" or kind == "pred" else whole(value, kind)

    def place(word, kind):
        base, offset = PLACE.match(word).groups()
        return memory.at(registers[base] + int(offset or 0), kind)

    at = count = 0
    while True:
        negated, predicate, (name, *how), words = program[at]
        at, count = at + 1, count + 1
        if predicate and registers[predicate] == bool(negated):
            continue
        kind = how[-1] if how else ""
        if name == "ret":
            return count
        if name == "bra":
            at = labels[words[0]]
            continue
        if name in ("bar", "barrier"):
            yield
            continue
        if name == "st":
            array, index = place(words[0], kind)
            for k, word in enumerate(words[1:]):  # several, if it stores a vector
                array[index + k] = read(word, kind)
            continue
        if name == "ld" and how[0] != "param":
            array, index = place(words[-1], kind)
            for k, word in enumerate(words[:-1]):
                value = array[index + k]
                registers[word] = value if kind[0] == "f" else int(value)
            continue
        target, *sources = words
        if name == "ld":
            value = values[int(PLACE.match(sources[0]).group(1).rsplit("_", 1)[1])]
        elif name == "atom":
            array, index = place(sources[0], kind)
            value = array[index]
            assert how[-2] == "add"
            array[index] += read(sources[1], kind)
        elif name == "cvt":
            value = read(sources[0], kind)
            if how[0] in ROUND:
                value = ROUND[how[0]](value)
            if how[-2] in FLOATS:
                value = FLOATS[how[-2]](value)
            else:
                value = whole(value, how[-2])
        else:
            kinds = (kind, kind, "pred" if name == "selp" else kind)
            value = compute(name, how, kind, *(read(word, each) for word, each in zip(sources, kinds, strict=False)))
        registers[target] = value if isinstance(value, (np.floating, bool)) or kind == "pred" else int(value)


def compute(name, how, kind, a, b=None, c=None):
    """The result of an instruction that only computes."""
    if name in ("mov", "cvta"):
        return a
    if name == "setp":
        unordered = isinstance(a, np.floating) and (math.isnan(a) or math.isnan(b))
        if how[0] in ("nan", "num"):
            return unordered == (how[0] == "nan")
        if isinstance(a, np.floating) and how[0].endswith("u"):
            return unordered or bool(COMPARE[how[0][:-1]](a, b))
        return bool(COMPARE[how[0]](a, b))
    if name == "selp":
        return a if c else b
    if name == "not":
        return not a if kind == "pred" else whole(~a, kind)
    if name in BITWISE:
        return BITWISE[name](a, b)
    if name in ("shl", "shr"):
        bits = int(kind[1:])
        return whole(a << min(b, bits) if name == "shl" else a >> min(b, bits), kind)
    if kind in FLOATS:
        number = {
            "add": lambda: a + b, "sub": lambda: a - b, "mul": lambda: a * b, "neg": lambda: -a, "abs": lambda: abs(a),
            "div": lambda: a / b, "rcp": lambda: 1 / a, "min": lambda: np.fmin(a, b), "max": lambda: np.fmax(a, b),
            "fma": lambda: np.float64(a) * np.float64(b) + np.float64(c),
        }  # fmt: skip
        with np.errstate(all="ignore"):
            return FLOATS[kind](number[name]())
    if name in ("mul", "mad") and how[0] == "wide":
        return whole(a * b + (c or 0), f"{kind[0]}{2 * int(kind[1:])}")
    number = {
        "add": lambda: a + b, "sub": lambda: a - b, "mul": lambda: a * b, "mad": lambda: a * b + c, "neg": lambda: -a,
        "div": lambda: int(math.copysign(1, a) * math.copysign(1, b)) * (abs(a) // abs(b)), "min": lambda: min(a, b),
        "max": lambda: max(a, b), "rem": lambda: int(math.copysign(abs(a) % abs(b), a)),
    }  # fmt: skip
    assert name not in ("mul", "mad") or how[0] == "lo"
    return whole(number[name](), kind)


def run_block(ptx, args, threads, block=0, blocks=1, some=None):
    """Run the threads of a block (or only `some`) from barrier to barrier: returns how many instructions each executed,
    and how many barriers there were."""
    shared = {name: np.zeros(size, np.uint8) for name, (kind, size) in ptx[2].items() if kind == "shared"}
    running = {t: run_thread(ptx, args, t, threads, block, blocks, shared) for t in some or range(threads)}
    counts, rounds = [], 0
    while running:
        rounds += 1
        for thread in list(running):
            try:
                next(running[thread])
            except StopIteration as end:
                counts.append(end.value)
                del running[thread]
    return counts, rounds - 1
