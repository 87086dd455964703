"""The package's Numba kernels as WebAssembly object files, from their unchanged Python sources.

    python lessons/explainer/kernels.py FOLDER

Numba turns each function below into LLVM's text, and llvmlite's own WebAssembly backend turns that into an object file,
FOLDER/NAME.o. So the same lines of Python serve three machines: a CPU, a GPU by CUDA, and a browser.
FOLDER/kernels.json says how they are called: for every kernel the types of its arguments and of its results.

build.py calls this file in a process of its own, links the objects and puts them into the page.
"""

import json
import os
import re
import sys
from pathlib import Path

# Before Numba is imported: nothing of this machine's CPU gets into LLVM's text, and LLVM does not optimise it for that
# CPU. It would replace the fields of structures by distances in bytes, which are others where a pointer has 32 bits.
os.environ |= {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_OPT": "0"}

import llvmlite.binding as llvm  # noqa: E402
import numba  # noqa: E402
from numba import types  # noqa: E402

from tinymrcnn.boxes.masks import paste_kernel, tap  # noqa: E402
from tinymrcnn.boxes.nms import iou, nms_cpu  # noqa: E402
from tinymrcnn.ops.activations import _combine_cpu  # noqa: E402
from tinymrcnn.ops.im2col import _col2im_cpu, _im2col_cpu  # noqa: E402
from tinymrcnn.ops.pooling import _forward_cpu as _max_pool_cpu  # noqa: E402
from tinymrcnn.ops.winograd import _transform_input, _transform_output  # noqa: E402
from tinymrcnn.roi.roi_align import roi_align_forward_cpu, sample_position, samples_per_bin, taps  # noqa: E402
from tinymrcnn.roi.roi_align import roi_bins as align_bins  # noqa: E402
from tinymrcnn.roi.roi_pool import bin_cells, roi_pool_forward_cpu  # noqa: E402
from tinymrcnn.roi.roi_pool import roi_bins as pool_bins  # noqa: E402

TARGET = "wasm32-unknown-unknown"


def product(a, a_step, b, c, c_step, rows, inner, columns):
    """c = a b, for which the package calls BLAS: (rows, inner) times (inner, columns), all as flat arrays. The rows of
    a and of c lie a_step and c_step numbers apart. Four rows at a time, so that each row of b is read once for four."""
    for i in range(rows):
        c[i * c_step : i * c_step + columns] = 0
    for i in range(0, rows - 3, 4):
        c0, c1, c2, c3 = c[i * c_step :], c[(i + 1) * c_step :], c[(i + 2) * c_step :], c[(i + 3) * c_step :]
        for k in range(inner):
            at, row = i * a_step + k, b[k * columns :]
            a0, a1, a2, a3 = a[at], a[at + a_step], a[at + 2 * a_step], a[at + 3 * a_step]
            for j in range(columns):
                c0[j] += a0 * row[j]
                c1[j] += a1 * row[j]
                c2[j] += a2 * row[j]
                c3[j] += a3 * row[j]
    for i in range(rows // 4 * 4, rows):
        for k in range(inner):
            for j in range(columns):
                c[i * c_step + j] += a[i * a_step + k] * b[k * columns + j]


# What the page calls: its name there -> (the function, the types of its arguments), with the package's own types

i8, f4, b1 = types.int64, types.float32, types.boolean
LINE, MATRIX, CUBE, MAPS = (types.Array(f4, dimensions, "C") for dimensions in (1, 2, 3, 4))
PLACES, STARTS, KEEP = types.Array(types.int32, 4, "C"), types.Array(i8, 1, "C"), types.Array(b1, 1, "C")
BOXES = types.Array(types.float64, 2, "C")
SHARE = (i8, i8)  # thread, threads
WINDOW = types.StarArgUniTuple(i8, 7)  # *numbers, which arrive one after the other

KERNELS = {
    "product": (product, (LINE, i8, LINE, LINE, i8, i8, i8, i8)),
    "im2col": (_im2col_cpu, (*SHARE, MAPS, MATRIX, i8, WINDOW)),
    "col2im": (_col2im_cpu, (*SHARE, MATRIX, MAPS, WINDOW)),
    "winograd_input": (_transform_input, (MAPS, CUBE, *4 * (i8,))),
    "winograd_output": (_transform_output, (CUBE, MAPS, *3 * (i8,), LINE, f4, MAPS)),
    "combine": (_combine_cpu, (*SHARE, MATRIX, LINE, LINE, MATRIX, LINE, f4, MATRIX)),
    "max_pool": (_max_pool_cpu, (*SHARE, MAPS, MAPS, PLACES, i8, i8, i8)),
    "roi_pool": (roi_pool_forward_cpu, (*SHARE, MAPS, MATRIX, f4, MAPS, PLACES)),
    "roi_align": (roi_align_forward_cpu, (*SHARE, MAPS, MATRIX, f4, i8, b1, MAPS)),
    "nms": (nms_cpu, (*SHARE, MATRIX, STARTS, f4, KEEP)),
    "paste": (paste_kernel, (*SHARE, CUBE, BOXES, CUBE)),
    # the arithmetic alone, for the page's answers to "where from"
    "pool_bins": (pool_bins, (f4, f4, f4, i8)),
    "pool_cells": (bin_cells, (i8, f4, i8, i8)),
    "align_bins": (align_bins, (f4, f4, f4, i8, b1)),
    "samples_per_bin": (samples_per_bin, (f4, i8)),
    "sample_position": (sample_position, (f4, f4, i8, i8, i8)),
    "taps": (taps, (f4, i8)),
    "iou": (iou, (MATRIX, i8, i8)),
    "paste_tap": (tap, (i8, types.float64, types.float64, i8)),
}


def compiled(function, arguments, name):
    """(LLVM's text of a Python function, whose entry is called `name`; the Numba type of its result). Without parallel
    loops, and with the error model of the package: a division by 0 gives infinity."""
    dispatcher = numba.njit(getattr(function, "py_func", function), error_model="numpy")
    dispatcher.compile(arguments)
    result = dispatcher.overloads[arguments]
    text = without_python(str(result.library._final_module))
    return text.replace(result.fndesc.llvm_func_name, name), result.signature.return_type


def without_python(text):
    """LLVM's text without Numba's wrappers for Python, and without counting references: nothing is freed, the page's
    JavaScript forgets all memory of a call at once."""
    for body in re.findall(r"^define .*?^}\n", text, re.M | re.S):
        name = re.search(r'@"?([^"(]+)"?\(', body).group(1)
        if name.startswith(("_ZN7cpython", "cfunc.")):
            text = text.replace(body, "")
        elif name in ("NRT_incref", "NRT_decref"):
            text = text.replace(body, f"define internal void @{name}(ptr %p) alwaysinline {{\n ret void\n}}\n")
    text = re.sub(r'^target (triple|datalayout) = ".*"\n', "", text, flags=re.M)
    text = re.sub(r'"target-cpu"="[^"]*"|"target-features"="[^"]*"', "", text)
    return re.sub(r"(= )common ((?:local_)?unnamed_addr )?global", r"\1internal global", text)  # wasm has no `common`


def object_file(text):
    """The bytes of a WebAssembly object file, optimised and vectorised."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(TARGET).create_target_machine(
        opt=3, features="+simd128,+bulk-memory", reloc="static", codemodel="default"
    )
    module = llvm.parse_assembly(text)
    module.triple, module.data_layout = TARGET, str(machine.target_data)
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = options.slp_vectorization = True
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    module.verify()
    return machine.emit_object(module)


def short_names(kinds):
    """float32 -> "float32", an array of them in 2 dimensions -> "float32 2"; the types in a tuple each for itself."""
    flat = [one for kind in kinds for one in (kind if isinstance(kind, types.BaseTuple) else [kind])]
    return [f"{one.dtype} {one.ndim}" if isinstance(one, types.Array) else str(one) for one in flat]


def main():
    folder, table = Path(sys.argv[1]), {}
    for name, (function, arguments) in KERNELS.items():
        text, result = compiled(function, arguments, name)
        (folder / f"{name}.o").write_bytes(object_file(text))
        results = [] if result == types.none else list(getattr(result, "types", [result]))
        table[name] = [short_names(arguments), short_names(results)]
    (folder / "kernels.json").write_text(json.dumps(table))


if __name__ == "__main__":
    main()
