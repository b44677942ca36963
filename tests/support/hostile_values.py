"""Invalid values for every argument of a run, generated from the parser."""

import argparse

import numpy as np
import torch

from mammoth_compiled.config import build_parser, values

EMPTY = ["", " "]
GARBAGE = ["x", "None", "[1]", "{}", "1;2", "\udce9", "1\0", "ünï", "-"]
NOT_INTEGERS = [
    "1.5",
    "1e3",
    "0x10",
    "1_000",
    "\u0661",
    "nan",
    "inf",
    "9" * 20,
    "-" + "9" * 20,
    "9" * 5000,
]
NOT_FLOATS = ["nan", "NaN", "inf", "-inf", "Infinity", "1e999", "1_0", "\u0661", "0x1p3"]
NOT_PATHS = ["a" * 256, "d/" + "ü" * 128, "x/" * 2100, "nul\0byte", "caf\udce9", "dir\udcff/file"]
NOT_LISTS = [",", "onnx,", ",onnx", "onnx,,pt2", "onnx, ,pt2", "fp16,fp16", "zip", "caf\udce9"]

BELOW = {
    values.positive_int: ["0", "-1", "-3"],
    values.non_negative_int: ["-1"],
    values.seed_int: ["-1", str(2**63)],
    values.any_int: [str(2**63), str(-(2**63) - 1)],
    values.positive_float: ["0", "-0.0", "-1"],
    values.non_negative_float: ["-1", "-1e-9"],
    values.fraction: ["-0.1", "1", "7"],
    values.fraction_or_count: ["0", "-0.0", "-1", "1.5"],
    values.fraction_or_percentage: ["0", "-0.0", "-1", "100"],
    values.class_list: ["-1", "1-", "1-2-3", "0,,1", "0,x", "0-1.5"],
}
INTEGERS = (values.positive_int, values.non_negative_int, values.seed_int, values.any_int)
FLOATS = (
    values.positive_float,
    values.non_negative_float,
    values.finite_float,
    values.fraction,
    values.fraction_or_count,
    values.fraction_or_percentage,
)

TEXTS = (
    *(values.file_path, values.file_name, values.free_text),
    *(values.comma_list, values.non_empty),
)

# Values that no argument takes from a dictionary. A float or an integer is tried where it is wrong.
NOT_SCALARS = [
    {},
    {"a": 1},
    [[1]],
    [None],
    [{}],
    set(),
    b"1",
    object(),
    1j,
    float("nan"),
    len,
    torch.tensor(1),
    torch.ones(2),
    np.array(["sgd"]),
    np.array([[1, 2]]),
    argparse.Namespace(),
    ReferenceError("no"),
]


class Unprintable:
    """Its `repr` and `str` raise."""

    def __repr__(self):
        raise RuntimeError("no repr")


NOT_SCALARS.append(Unprintable())


def parser(model="derpp", dataset="seq-tiny", backbone="cnn"):
    """Returns the parser of a run whose parts have arguments of every type."""
    return build_parser(model, dataset, backbone)


def invalid_texts(action):
    """Returns texts that an argument must refuse."""
    if action.choices is not None:
        texts = [*EMPTY, *GARBAGE, "ON ", "auto,off"]
    elif action.type is values.boolean:
        texts = [*EMPTY, *GARBAGE, "2", "-1", "01", "1.0", "maybe", "truee", "nan"]
    elif action.type in FLOATS:
        texts = [*EMPTY, *GARBAGE, *NOT_FLOATS, *BELOW.get(action.type, [])]
    elif action.type is values.file_path:
        texts = [*EMPTY, *NOT_PATHS]
    elif action.type is values.file_name:
        texts = [*EMPTY, *NOT_PATHS, "a/b", "..", "a" * 250]
    elif action.type is values.free_text:
        texts = [*EMPTY, "nul\0byte", "caf\udce9"]
    elif action.type is values.comma_list:
        texts = [*EMPTY, *NOT_LISTS]
    elif action.type is values.non_empty:
        texts = [*EMPTY, *GARBAGE, "a" * 300]
    else:
        assert action.type is not None, f"{action.dest} accepts any text"
        texts = [*EMPTY, *GARBAGE, *NOT_INTEGERS, *BELOW.get(action.type, ["-1"])]
    return list(dict.fromkeys(texts))


def invalid_objects(action):
    """Returns Python objects that an argument must refuse in a dictionary."""
    objects = [*NOT_SCALARS, *invalid_texts(action)]
    if action.type in TEXTS:
        objects += [3, True, 0.5, np.float32(1)]
    elif action.type not in FLOATS:
        objects += [0.5, np.float64(2.5), np.inf]
    return objects
