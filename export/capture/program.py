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
from mammoth_compiled.export.capture.batch_free import BatchFree
from mammoth_compiled.export.capture.graph import NamedOutputs
from mammoth_compiled.export.capture.interface import BATCH
from mammoth_compiled.export.capture.specialization import Guard, recorded_guards, user_line
from mammoth_compiled.export.parity.compare import BATCH_SIZES

_BATCH_FIXED = re.compile(
    "inferred a static shape|[Cc]onstraints? violated|specialized|was inferred"
)
_TAKES_NUMBER = (
    "its forward is not the same for every batch size but takes it as a number",
    "Take sizes from x.shape, divide them with //, and do not loop over the batch",
)
# Pattern in torch's message, what it means for the backbone, and the remedy.
_CAUSES = (
    (
        re.compile(r"Could not guard on data-dependent expression (?:Eq\(u\d+, 1\)|u\d+)[ .(]"),
        "its forward branches on the values of the images",
        "Use torch.where instead of `if`",
    ),
    (
        re.compile("data-dependent|Could not guard"),
        "its forward branches on values of the images, or has shapes that depend on them",
        "Use torch.where instead of `if` and of masks as indices",
    ),
    (
        re.compile(r"\.(numpy|tolist)\(\) is not supported"),
        "its forward calls {0}(), which takes the values of the images out of the graph",
        "Compute with torch",
    ),
    (
        re.compile(r"No ONNX function found for .*?op='([\w.:]+)'"),
        "ONNX has no operator for {0}",
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
    with recorded_guards() as guards:
        try:
            program = _export(graph, example)
        except Exception as error:
            # Dynamo understands some code that a plain trace does not, such as len(x).
            strict = _export_strictly(graph, example)
            if strict is None:
                guard = guards.culprit() if _fixes_batch(error) else None
                # The chained traceback is pages of torch internals; the message has the gist.
                raise ExportError(explain(error, graph.net, guard=guard)) from None
            program = strict
    for node in program.graph.nodes:
        node.meta = {key: value for key, value in node.meta.items() if key == "val"}
    return program


def _export(graph: NamedOutputs, example: torch.Tensor) -> ExportedProgram:
    with quiet(), torch.no_grad(), BatchFree():
        return torch.export.export(
            graph, (example,), dynamic_shapes=({0: Dim(BATCH)},), strict=False
        )


def _export_strictly(graph: NamedOutputs, example: torch.Tensor) -> ExportedProgram | None:
    """Captures a graph with Dynamo; returns None if that fails too.

    The second attempt leaves guards on the batch size that torch cannot prove, such as those of
    `int(H * W / w / w)`, to the program; it is used if none of them fails.
    """
    for defers in (False, True):
        with contextlib.suppress(Exception), quiet(), torch.no_grad():
            program = torch.export.export(
                graph,
                (example,),
                dynamic_shapes=({0: Dim(BATCH)},),
                strict=True,
                prefer_deferred_runtime_asserts_over_guards=defers,
            )
            if defers:
                module = program.module()
                for size in BATCH_SIZES:
                    module(graph.interface.example(size))
            return program
    return None


def _fixes_batch(error: BaseException) -> bool:
    """Returns whether torch failed because the code holds for some batch sizes only."""
    text = str(_root(error))
    return "data-dependent" not in text and _BATCH_FIXED.search(text) is not None


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


def explain(error: Exception, net: nn.Module, target: str = "", guard: Guard | None = None) -> str:
    """Returns a one-line explanation of why torch could not export a backbone.

    Args:
        error: The exception that torch raised.
        net: The backbone.
        target: The format, if the failure is specific to it.
        guard: The condition on the batch size that torch needs, if that is why.
    """
    root = _root(error)
    reason, remedy = f"{type(root).__name__}: {first_line(root)}", "Write that part differently"
    if _fixes_batch(error):
        reason, remedy = _TAKES_NUMBER
        if guard is not None and guard.condition:
            reason = f"its forward is not the same for every batch size but needs {guard.condition}"
            remedy = "Write it so that it does the same for any number of images"
    else:
        for pattern, meaning, help_ in _CAUSES:
            match = pattern.search(str(root))
            if match:
                reason, remedy = meaning.format(*match.groups()), help_
                break
    to = f" to {target}" if target else ""
    where = guard.where if guard else user_line(traceback.extract_tb(root.__traceback__))
    return f"backbone {type(net).__name__} cannot be exported{to}: {reason}{where}. {remedy}"


def first_line(error: BaseException) -> str:
    """Returns the first line of an error message, shortened to 200 characters."""
    lines = str(error).strip().splitlines() or ["no reason given"]
    return textwrap.shorten(lines[0], 200)
