"""The check cells of exercises whose answer is a CUDA kernel: it runs in the simulator, in several orders, and what it
does is compared with what is enough; and where there is a compiler, its PTX is run and its instructions are counted."""

import inspect
from collections import Counter, namedtuple
from types import SimpleNamespace

import numpy as np
import ptx
import simulator
from checking import _borrowed, _copies, _difference, _empty, _refuse, _say

ORDERS = (0, 1)  # seeds of the simulator, besides one thread after the other

# A launch that the kernel has to get right. expected: {array: what it holds afterwards}; the other arrays must be left
# as they are. limits: {(method of Trace, kind of step, array): the most that is accepted}.
Case = namedtuple("Case", "blocks threads arguments expected limits", defaults=({},))


def examine_kernel(number, kernel, *cases, hints, mistakes=None, instructions=None):
    """Judge a kernel, and print the verdict; what should come out is not shown.

    cases: the last one, which may be large, is what is counted, and runs for one thread after the other only; the
    others run in other orders, too. Races are looked for in all of them.
    mistakes: {what is wrong: a kernel that makes the mistake}. instructions: how many PTX instructions are accepted for
    each number of the result in the last case; not checked where there is no compiler."""
    function = getattr(kernel, "py_func", kernel)
    if name := _borrowed(function):
        _say(number, f"it uses `{name}`, which is the package's: write it yourself.")
        return
    problem, remark = _judged(kernel, cases, mistakes or {}), ""
    if problem is None:
        problem, remark = _counted(kernel, cases[-1], instructions)
    if problem:
        _refuse(number, problem, hints)
    else:
        _say(number, None, remark)


def launched(kernel, case, seed=None):
    """Run one case in the simulator: the arrays afterwards, by name, and the Trace."""
    arguments = _copies(case.arguments)
    trace = simulator.run(kernel, case.blocks, case.threads, *arguments, seed=seed)
    names = inspect.signature(getattr(kernel, "py_func", kernel)).parameters
    return {n: a for n, a in zip(names, arguments, strict=True) if isinstance(a, np.ndarray)}, trace


def whole(array):
    """A copy of an array that a kernel sees, for known mistakes that NumPy makes in one thread."""
    return np.array([array[index] for index in np.ndindex(array.shape)]).reshape(array.shape)


def instructions_of(kernel, case):
    """How many PTX instructions the threads of a case execute, all together."""
    arguments, kernel = _copies(case.arguments), SimpleNamespace(py_func=getattr(kernel, "py_func", kernel))
    program = ptx.parse(ptx.compiled(kernel, *arguments))
    blocks = range(case.blocks)
    return sum(sum(ptx.run_block(program, arguments, case.threads, block, case.blocks)[0]) for block in blocks)


def _judged(kernel, cases, mistakes):
    """What is wrong with what the kernel does, or None."""
    results = []
    for case in cases:
        try:
            results.append(launched(kernel, case))
        except (simulator.KernelError, TypeError) as error:  # a TypeError of the call: other parameters than asked for
            return f"launched as {_size(case)}, {error}."
    if not any(trace.steps for _, trace in results):
        return _empty
    wrong = [case for case, (arrays, _) in zip(cases, results, strict=True) if not _right(arrays, case)]
    if wrong:
        said = f"{len(wrong)} of {len(cases)} launches leave wrong numbers, the first is that of {_size(wrong[0])}."
        for name, mistake in mistakes.items():
            if all(map(_same, results, (_tried(mistake, case) for case in cases))):
                return f"{said} It looks as if {name}"
        return said
    for case, (_, trace) in zip(cases, results, strict=True):
        others = (launched(kernel, case, seed) for seed in ORDERS if case is not cases[-1])
        good = all([_right(arrays, case) for arrays, _ in others])
        if races := trace.races():
            luck = "It was right by luck." if good else "Only in some orders it is right."
            return f"two threads work on one element. {races[0]}. {luck}"
        if not good:
            return "in another order of the threads the numbers are wrong."
    for case, (_, trace) in zip(cases, results, strict=True):
        for (method, kind, array), most in case.limits.items():
            if (found := getattr(trace, method)(kind, array)) > most:
                said = TOO_MANY[method, kind].format(array, found, most)
                return f"the numbers are right, but launched as {_size(case)}, {said}"
    return None


TOO_MANY = {
    ("count", "read"): "the threads read from `{}` {} times; {} would do.",
    ("count", "write"): "the threads write to `{}` {} times; {} would do.",
    ("count", "add"): "the threads add to `{}` {} times; {} would do.",
    ("most", "add"): "one thread alone adds to `{}` {} times; if all shared the work, {} would do.",
    ("most", "write"): "one thread alone writes to `{}` {} times; if all shared the work, {} would do.",
    ("sectors", "read"): "the warps fetch {1} sectors of `{0}`; {2} would do, if neighbouring threads read neighbours.",
}


def _counted(kernel, case, most):
    """What is wrong with the compiled kernel, or None; and a remark on what it does for each number."""
    size = sum(np.size(array) for array in case.expected.values())
    steps = Counter((s.kind, s.array) for s in launched(kernel, case)[1].steps)
    words = {"read": "reads of", "write": "writes of", "add": "atomic additions to"}
    remark = ", ".join(f"{words[kind]} {array} {n / size:.3g}" for (kind, array), n in sorted(steps.items()))
    if ptx.problem() is None:
        try:
            count = instructions_of(kernel, case) / size
        except Exception as error:
            reason = [line for line in str(error).splitlines() if line.strip()] or [""]
            return f"plain Python runs it, but not as PTX ({type(error).__name__}: {reason[0]:.120}).", ""
        if most and count > most:
            return f"the numbers are right, but each takes {count:.0f} PTX instructions; {most} would do.", ""
        remark += f", PTX instructions {count:.0f}"
    return None, f"for each number: {remark}"


def _right(arrays, case):
    inputs = zip(arrays.values(), (a for a in case.arguments if isinstance(a, np.ndarray)), strict=True)
    wanted = {name: before for name, (_, before) in zip(arrays, inputs, strict=True)} | case.expected
    return not any(_difference(arrays[name], array, 1e-5) for name, array in wanted.items())


def _same(result, other):
    return other is not None and not any(_difference(result[0][n], array, 1e-5) for n, array in other[0].items())


def _tried(mistake, case):
    try:
        return launched(mistake, case)
    except simulator.KernelError:
        return None


def _size(case):
    return f"{case.blocks} block{'s' * (case.blocks > 1)} of {case.threads} threads"
