"""Captures a graph with torch.export, once for all formats, and explains failures."""

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

# Pattern in torch's message, what it means for the backbone, and the remedy.
_CAUSES = (
    (
        re.compile("data-dependent|Could not guard"),
        "its forward branches on the values of the images",
        "Use torch.where instead of `if`",
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


@dataclass
class Source:
    """What all formats are written from.

    Attributes:
        graph: The backbone with named outputs, on the CPU.
        properties: Key-value metadata for formats that can store it.
        device: The device that compiled formats are compiled for; portable ones ignore it.
    """

    graph: NamedOutputs
    properties: Mapping[str, str] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _programs: dict[tuple[str, ...], ExportedProgram] = field(default_factory=dict, init=False)

    def program(self, outputs: Sequence[str] | None = None) -> ExportedProgram:
        """Returns the program of the given outputs (default: all), captured on first use."""
        names = self.graph.selected if outputs is None else tuple(outputs)
        if names not in self._programs:
            self._programs[names] = capture(self.graph.select(names))
        return self._programs[names]


def capture(graph: NamedOutputs) -> ExportedProgram:
    """Captures the selected outputs of a graph, with a dynamic batch dimension.

    Stack traces are removed from the program, as they hold paths of this machine.

    Raises:
        ExportError: If the backbone cannot be captured or fixes the batch size; says what and
            where.
    """
    # Not 1: torch.export specializes dimensions of size one.
    example = graph.interface.example(2)
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(
                graph, (example,), dynamic_shapes=({0: Dim(BATCH)},), strict=False
            )
    except Exception as error:
        # The chained traceback is pages of torch internals; the message has the gist.
        raise ExportError(explain(error, graph.net)) from None
    for node in program.graph.nodes:
        node.meta = {key: value for key, value in node.meta.items() if key == "val"}
    return program


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences torch while it exports.

    Its warnings concern what the comparison with eager mode checks anyway, and before it raises
    it writes whole graphs to standard error.
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
    """Returns a one-line explanation of why torch could not export a backbone.

    Args:
        error: The exception that torch raised.
        net: The backbone.
        target: The format, if the failure is specific to it.
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
    """Returns the first line of an error message, shortened to 200 characters."""
    lines = str(error).strip().splitlines() or ["no reason given"]
    return textwrap.shorten(lines[0], 200)


def _where(error: BaseException) -> str:
    """Returns the innermost line of user code in a traceback, or an empty string."""
    foreign = (os.path.dirname(torch.__file__), os.path.dirname(os.__file__), "<")
    own = os.path.dirname(os.path.dirname(__file__))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*foreign, own))
    ]
    if not frames:
        return ""
    return f" ({frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line})"
