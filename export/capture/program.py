"""Captures a graph with torch.export, once for all formats, and explains failures."""

import contextlib
import io
import logging
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
from mammoth_compiled.export.capture.specialization import recorded_specializations, user_line

# Pattern in torch's message, what it means for the backbone, and the remedy.
_BATCH_FIXED = re.compile(
    "inferred a static shape|[Cc]onstraints? violated|specialized|was inferred"
)
_CAUSES = (
    (
        re.compile("data-dependent|Could not guard"),
        "its forward branches on the values of the images",
        "Use torch.where instead of `if`",
    ),
    (
        _BATCH_FIXED,
        "its forward is not the same for every batch size",
        "Take sizes from x.shape, divide them with //, and do not loop over the batch",
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
    with recorded_specializations() as lines:
        try:
            program = _export(graph, example, strict=False)
        except Exception as error:
            where = lines[-1] if lines and _fixes_batch(error) else ""
            # Dynamo understands some code that a plain trace does not, such as len(x).
            strict = _export_strictly(graph, example) if _fixes_batch(error) else None
            if strict is None:
                # The chained traceback is pages of torch internals; the message has the gist.
                raise ExportError(explain(error, graph.net, where=where)) from None
            program = strict
    for node in program.graph.nodes:
        node.meta = {key: value for key, value in node.meta.items() if key == "val"}
    return program


def _export(graph: NamedOutputs, example: torch.Tensor, strict: bool) -> ExportedProgram:
    with quiet(), torch.no_grad():
        return torch.export.export(
            graph, (example,), dynamic_shapes=({0: Dim(BATCH)},), strict=strict
        )


def _export_strictly(graph: NamedOutputs, example: torch.Tensor) -> ExportedProgram | None:
    try:
        return _export(graph, example, strict=True)
    except Exception:  # the error of the first attempt says more
        return None


def _fixes_batch(error: BaseException) -> bool:
    """Returns whether torch.export failed because the code fixes the batch size."""
    return _BATCH_FIXED.search(str(_root(error))) is not None


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


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


def explain(error: Exception, net: nn.Module, target: str = "", where: str = "") -> str:
    """Returns a one-line explanation of why torch could not export a backbone.

    Args:
        error: The exception that torch raised.
        net: The backbone.
        target: The format, if the failure is specific to it.
        where: The line of user code that is to blame, if the traceback does not hold it.
    """
    root = _root(error)
    reason, remedy = f"{type(root).__name__}: {first_line(root)}", "Write that part differently"
    for pattern, meaning, help_ in _CAUSES:
        match = pattern.search(str(root))
        if match:
            reason, remedy = meaning.format(**match.groupdict()), help_
            break
    to = f" to {target}" if target else ""
    where = where or user_line(traceback.extract_tb(root.__traceback__))
    return f"backbone {type(net).__name__} cannot be exported{to}: {reason}{where}. {remedy}"


def first_line(error: BaseException) -> str:
    """Returns the first line of an error message, shortened to 200 characters."""
    lines = str(error).strip().splitlines() or ["no reason given"]
    return textwrap.shorten(lines[0], 200)
