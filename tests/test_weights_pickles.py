"""The machine that reads pickles: what files of weights hold comes back, and nothing else is built, called or run."""

import io
import os
import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest

from tinymrcnn.archives import RefusedError
from tinymrcnn.weights.foreign import pickles
from tinymrcnn.weights.foreign.pickled_arrays import ARRAYS
from tinymrcnn.weights.foreign.pickles import MAX_NESTING, read_pickle

PROTOCOLS = (2, 3, 4, 5)


def read(program, **arguments):
    return read_pickle(io.BytesIO(program), len(program), ARRAYS, **arguments)


def refused(program, message, **arguments):
    with pytest.raises(RefusedError, match=message):
        read(program, **arguments)


def arrays():
    rng = np.random.default_rng(0)
    return {
        "matrix": rng.normal(size=(3, 4)).astype(np.float32),
        "turned": rng.normal(size=(3, 4)).T,
        "every second": np.arange(10, dtype=np.int64)[::2],
        "scalar array": np.array(7, np.int32),
        "empty": np.zeros((0, 3), np.float16),
        "flags": np.array([True, False, True]),
        "bytes": np.arange(250, 256).astype(np.uint8),
    }


# What comes back


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_and_containers(protocol):
    value = {
        "numbers": [0, 1, -1, 255, 256, 65535, 65536, -(2**31), 2**31, 2**63, -(2**63), 2**70, 1.5, -0.0, float("inf")],
        "constants": (None, True, False),
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "text": ["", "a", "ä€😀", "x" * 300],
        "bytes": [b"a", b"\xff" * 300],
        3: {None: {}, 2.5: []},
        "ordered": OrderedDict(a=1, b=OrderedDict()),
    }
    value["shared"] = value["tuples"]
    program = pickle.dumps(value, protocol)
    back = read(program)
    assert back == value and back["shared"] is back["tuples"]
    assert type(back["ordered"]) is dict and list(back["ordered"]) == ["a", "b"]
    assert str(back["numbers"][13]) == "-0.0" and [type(flag) for flag in back["constants"][1:]] == [bool, bool]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("core", ["core", "_core"])
def test_arrays(protocol, core):
    program = pickle.dumps(arrays(), protocol)
    other = "_core" if core == "core" else "core"
    if protocol < 4:  # there a name of any length can replace another
        program = program.replace(f"numpy.{other}.".encode(), f"numpy.{core}.".encode())
    back = read(program)
    for name, array in arrays().items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape, name
        assert np.array_equal(back[name], array), name


def test_numbers_of_numpy_and_strings_of_python_2():
    assert read(pickle.dumps([np.float32(1.5), np.int64(-3)])) == [1.5, -3]
    # an array as Python 2 pickles it: its memory is a string
    content = struct.pack("<3f", 1, -2, 1e30)
    program = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01bt\x85"[:-1]
        + b"R(K\x01K\x03\x85cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + b"\x89T" + struct.pack("<i", len(content)) + content + b"tb."
    )  # fmt: skip
    back = read(program)
    assert back.dtype == np.float32 and np.array_equal(back, np.array([1, -2, 1e30], np.float32))
    assert np.array_equal(back, pickle.loads(program, encoding="latin1"))


def test_it_reads_one_pickle_and_no_byte_more():
    file = io.BytesIO(pickle.dumps([1]) + pickle.dumps("two", 2) + b"rest")
    assert read_pickle(file, 1000, {}) == [1] and read_pickle(file, 1000, {}) == "two" and file.read() == b"rest"
    refused(b"\x80\x02N", "ends in the middle")
    with pytest.raises(RefusedError, match="truncated"):
        read_pickle(io.BytesIO(pickle.dumps("long text")), 8, {})


# What would run code


class Trap:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_foreign_object_is_refused_by_name_and_not_run(tmp_path, protocol):
    sprung = tmp_path / "sprung"
    refused(
        pickle.dumps(Trap(os.mkdir, str(sprung)), protocol),
        rf"asks for the Python object '{os.mkdir.__module__}\.mkdir'",
    )
    refused(pickle.dumps({"model": [Trap(exec, f"open({str(sprung)!r}, 'w')")]}, protocol), r"object '\w+\.exec'")
    refused(pickle.dumps(Trap(getattr, [], "append"), protocol), r"object '\w+\.getattr'")
    refused(pickle.dumps(Trap, protocol), r"object 'test_weights_pickles\.Trap'")
    assert not sprung.exists()


def test_an_object_within_an_array_is_refused_too(tmp_path):
    array = np.array([Trap(os.mkdir, str(tmp_path / "sprung"))], dtype=object)
    for protocol in PROTOCOLS:
        refused(pickle.dumps(array, protocol), "type 'O8'|object '(nt|posix).mkdir'")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "program, message",
    [
        (b"\x80\x02(Vx\nios\nsystem\n.", "instruction UNICODE"),
        (b"\x80\x02(ios\nsystem\n.", "instruction INST"),
        (b"\x80\x02(cos\nsystem\no.", r"'os\.system'"),
        (b"\x80\x02(ccollections\nOrderedDict\no.", "instruction OBJ"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "instruction NEWOBJ"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"\x80\x02K\x01Q.", "instruction BINPERSID"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", r"'builtins\.eval'"),
        (b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93.", r"'collections\.OrderedDict\.__init__'"),
        (b"\x80\x02cno\x1b[2J\nname\n.", r"'no\\x1b\[2J\.name'"),
        (b"\x80\x02c" + b"a" * 100_000 + b"\nb\n.", "a name in its pickle does not end"),
        (b"\x80\x02K\x01)R.", "calls a int, which cannot be called"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "calls a str, which cannot be called"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R.", "encoding 'zlib'"),
        (b"\x80\x02]}X\x01\x00\x00\x00aK\x01sb.", "list where a dict must be"),
        (b"\x80\x02\xff.", "instruction ff"),
    ],
)  # fmt: skip
def test_other_ways_to_objects(program, message):
    refused(program, message)


def test_the_state_of_a_dictionary_is_left_out():
    """torch hangs a _metadata attribute on its OrderedDict."""
    back = read(b"\x80\x02ccollections\nOrderedDict\n)R}X\x09\x00\x00\x00_metadataK\x01sb.")
    assert back == {} and not hasattr(back, "_metadata")


# What would fill the memory or the stack


def numpy_array(shape, content, code=b"f4", order=b"<"):
    """The program that makes an array, with nothing checked."""
    shape = pickle.dumps(shape, 2)[2:-1]
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01"
        + shape + b"cnumpy\ndtype\nU" + bytes([len(code)]) + code + b"\x89\x88\x87R(K\x03U\x01" + order
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89B" + struct.pack("<I", len(content)) + content + b"tb."
    )  # fmt: skip


def test_absurd_shapes(little_memory):
    assert np.array_equal(read(numpy_array((1, 2), bytes(8))), np.zeros((1, 2), np.float32))
    absurd = [(10**12,), (2**31, 2**31, 2**31), (10**400, 10**400), (0, 10**30), (3,), (1,) * 40, (-2, -1), (True, 2)]
    for shape in [*absurd, (2.0,), "ab", None]:
        refused(numpy_array(shape, bytes(8)), "It (holds an array of|is damaged: it holds an array)")
    refused(numpy_array((10**400,), bytes(8)), r"shape \(more than 10\^15\) \(float32\), but 8 bytes")


@pytest.mark.parametrize("code", [b"O8", b"V8", b"U2", b"S8", b"M8", b"c8", b"(4)f4", b"f4,f4", b">f4", b"f" * 100])
def test_types_of_arrays(code):
    refused(numpy_array((1,), bytes(8), code), "holds an array of type '")


def test_other_states_of_arrays():
    refused(numpy_array((2,), bytes(8), order=b">"), "big-endian")
    program = numpy_array((2,), bytes(8))
    state = program[program.index(b"R(K\x01") + 1 : -1]
    refused(program[:-1] + state + b".", "ndarray where a dict must be")  # a second time
    refused(b"\x80\x02cnumpy\ndtype\nU\x02f4\x85RN\x86b.", "damaged")


@pytest.mark.parametrize("opcode, size", [(b"B", "I"), (b"\x8e", "Q"), (b"\x96", "Q"), (b"X", "I"), (b"T", "i")])
def test_claimed_lengths(little_memory, opcode, size):
    for length in (5, 2 ** (8 * struct.calcsize(size) - 1) - 1):
        refused(b"\x80\x04" + opcode + struct.pack("<" + size, length) + b"abc", "ends in the middle")
    if size == "i":
        refused(b"\x80\x04" + opcode + struct.pack("<i", -1) + b"abc", "ends in the middle")


def test_a_place_in_the_memo_takes_no_memory(little_memory):
    assert read(b"\x80\x02K\x07r\xff\xff\xff\xff0j\xff\xff\xff\xff.") == 7
    refused(b"\x80\x02j\xff\xff\xff\xff.", "damaged")


def test_too_many_instructions(little_memory, monkeypatch):
    monkeypatch.setattr(pickles, "MAX_INSTRUCTIONS", 1000)
    assert read(b"\x80\x02" + b"N0" * 498 + b"N.") is None
    refused(b"\x80\x02" + b"N0" * 500 + b"N.", "more than 1,000 instructions")
    refused(b"\x80\x02" + b"}" * 2000 + b".", "more than 1,000 instructions")


@pytest.mark.parametrize("wrap", [b"\x85", b"a"], ids=["tuples", "lists"])
def test_endless_nesting(little_memory, wrap):
    def nested(depth):
        lists = b"]" * depth + b"a" * (depth - 1)
        return b"\x80\x02" + (lists if wrap == b"a" else b")" + b"\x85" * (depth - 1)) + b"."

    value, depth = read(nested(MAX_NESTING)), 1
    while value:
        value, depth = value[0], depth + 1
    assert depth == MAX_NESTING
    refused(nested(MAX_NESTING + 1), f"nested more than {MAX_NESTING} deep")
    refused(nested(20_000), f"nested more than {MAX_NESTING} deep")


def test_containers_in_themselves_and_shared_ones(little_memory):
    refused(b"\x80\x02]q\x00h\x00a.", "contain themselves")
    refused(b"\x80\x02}q\x00K\x01h\x00s.", "contain themselves")
    laughs = b"]K\x01aq\x01"
    for _ in range(20):  # a list of ten times the list before: 10^20 in all, if one walked through them
        laughs += b"0](" + b"h\x01" * 10 + b"eq\x01"
    value = read(b"\x80\x02" + laughs + b".")
    assert len(value) == 10 and value[0] is value[9]


@pytest.mark.parametrize(
    "copy",
    [b"c_codecs\nencode\nh\x09h\x08\x86R", b"ccollections\nOrderedDict\nh\x07\x85R",
     numpy_array((100_000,), b"", b"i1")[2:-8] + b"h\x09tb"],
    ids=["bytes", "dictionaries", "arrays"],
)  # fmt: skip
def test_copies_of_copies(little_memory, copy):
    """A little program whose functions would make a gigabyte out of a hundred kilobytes."""
    text = b"X" + struct.pack("<I", 100_000) + b"a" * 100_000 + b"q\x09X\x06\x00\x00\x00latin1q\x08"
    pairs = b"](" + b"K\x01K\x02\x86" * 20_000 + b"eq\x07"
    refused(b"\x80\x02]" + text + pairs + b"(" + copy * 10_000 + b"e.", "is a bomb")


def test_a_deep_key_is_not_hashed():
    refused(b"\x80\x02})" + b"\x85" * 50_000 + b"K\x01s.", "a tuple as the key of a dictionary")
    refused(b"\x80\x02ccollections\nOrderedDict\n])" + b"\x85" * 50_000 + b"K\x01\x86a\x85R.", "a tuple as the key")


# What makes no sense


@pytest.mark.parametrize(
    "program",
    [b"", b".", b"\x80\x020.", b"\x80\x02t.", b"\x80\x02\x86.", b"\x80\x02Na.", b"\x80\x02NNs.", b"\x80\x02}(Nu.",
     b"\x80\x02h\x01.", b"\x80\x02K\x01K\x01\x93.", b"\x80\x02U\x01\xffU", b"\x80\x02X\x01\x00\x00\x00\xff.",
     b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", b"\x80\x02ccollections\nOrderedDict\nNNN\x87R.",
     b"\x80\x02e."],
)  # fmt: skip
def test_broken_programs(program):
    refused(program, "damaged|truncated")


def test_changed_bytes_give_a_value_or_a_clear_error(little_memory):
    """A third of all prefixes, and 1,000 files with some bytes changed: no other error, and no memory to speak of."""
    rng, errors = np.random.default_rng(0), 0
    for protocol in (2, 5):
        program = pickle.dumps({"model": arrays(), "text": ["a", ("b", 3)], "scalar": np.float32(2)}, protocol)
        for length in range(0, len(program), 3):
            refused(program[:length], "truncated|damaged|Its pickle|It ")
        for _ in range(500):
            changed = np.frombuffer(program, np.uint8).copy()
            places = rng.integers(len(program), size=rng.integers(1, 4))
            changed[places] = rng.integers(256, size=len(places))
            try:
                read(changed.tobytes())
            except RefusedError as error:
                errors += 1
                assert str(error).startswith("It") and str(error).endswith(".")
    assert 300 < errors < 1000
