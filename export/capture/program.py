"""Captures a graph with torch.export, once for every format, and says why where that fails."""

import contextlib
import io
import logging
import os
import re
import textwrap
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.capture.graph import NamedOutputs
from mammoth_compiled.export.capture.interface import BATCH

# What torch says when it cannot export, what that means, and what helps.
_CAUSES = (
    (
        re.compile("data-dependent|Could not guard"),
        "its forward branches on the values of the images",
        "Choose with torch.where instead of `if`",
    ),
    (
        re.compile("inferred a static shape|[Cc]onstraints? violated|specialized|was inferred"),
        "its forward is not the same for every batch size",
        "Take sizes from x.shape and do not loop over the batch",
    ),
    (
        re.compile(r"No ONNX function found for .*?op='(?P<operator>[\w.:]+)'"),
        "ONNX has no operator for {operator}",
        "Write it with other torch operators, or choose other formats",
    ),
)

# Operators that every torch has.
_TORCH = {"aten", "prim", "prims"}


@dataclass
class Source:
    """What every format writes from.

    Attributes:
        graph: The backbone with named outputs, on the CPU.
        properties: What files with room for it say of themselves.
        device: Where compiled code is to run; portable formats run anywhere.
    """

    graph: NamedOutputs
    properties: Mapping[str, str] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _programs: dict[tuple[str, ...], ExportedProgram] = field(default_factory=dict, init=False)

    def program(self, outputs: Sequence[str] | None = None) -> ExportedProgram:
        """Returns some outputs, all by default, as a program; captured once."""
        wanted = self.graph.selected if outputs is None else tuple(outputs)
        if wanted not in self._programs:
            self._programs[wanted] = capture(self.graph.only(wanted))
        return self._programs[wanted]


def capture(graph: NamedOutputs) -> ExportedProgram:
    """Returns the selected outputs of a graph as a program for any batch size.

    The program holds no trace of the machine: what torch notes of source files is removed.

    Raises:
        ExportError: If the backbone cannot be captured, or fixes the batch size; says what and
            where.
    """
    # Not 1: a dimension of size one is easily taken for a constant.
    example = graph.interface.example(2)
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(
                graph, (example,), dynamic_shapes=({0: Dim(BATCH)},), strict=False
            )
    except Exception as error:
        # Pages of torch's internals, whose gist is in the message.
        raise ExportError(explain(error, graph.net)) from None
    for node in program.graph.nodes:
        node.meta = {key: value for key, value in node.meta.items() if key == "val"}
    return program


def check_portable(program: ExportedProgram, net: nn.Module) -> None:
    """Refuses a program with operators that only this machine's packages define.

    Raises:
        ExportError: Names the operators.
    """
    operators = {
        node.target.name()
        for node in program.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace not in _TORCH
    }
    if operators:
        raise ExportError(
            f"backbone {type(net).__name__} calls {', '.join(sorted(operators))}, which torch "
            "itself does not have, and a portable file could not be opened elsewhere. Write the "
            "backbone with torch's own operators, or choose --formats aoti,safetensors"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences torch while it exports.

    It warns of things that the comparison with eager settles, and where it fails it writes whole
    graphs to standard error before it raises.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def explain(error: Exception, net: nn.Module, target: str = "") -> str:
    """Returns one line for what torch raised while it exported a backbone.

    Args:
        error: What it raised.
        net: The backbone.
        target: The format, where the fault is that format's.
    """
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    reason, remedy = f"{type(root).__name__}: {first_line(root)}", "Write that part differently"
    for pattern, meaning, help_ in _CAUSES:
        match = pattern.search(str(root))
        if match:
            reason, remedy = meaning.format(**match.groupdict()), help_
            break
    to = f" to {target}" if target else ""
    return f"backbone {type(net).__name__} cannot be exported{to}: {reason}{_where(root)}. {remedy}"


def first_line(error: BaseException) -> str:
    """Returns the beginning of an error's message."""
    lines = str(error).strip().splitlines() or ["no reason given"]
    return textwrap.shorten(lines[0], 200)


def _where(error: BaseException) -> str:
    """Returns the last line of the user's own code in a traceback, where there is one."""
    foreign = (os.path.dirname(torch.__file__), os.path.dirname(os.__file__), "<")
    ours = os.path.dirname(os.path.dirname(__file__))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*foreign, ours))
    ]
    if not frames:
        return ""
    return f" ({frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line})"
