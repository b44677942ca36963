"""Notices calls of a network that compilation does not see, in the first step of a task."""

import contextlib
import linecache
import os
import sys
import warnings
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

from torch import nn

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.engine.compute import Compute
from mammoth_compiled.engine.forward import NetRunner
from mammoth_compiled.models.base import ContinualModel

_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_IN_TORCH = os.path.dirname(os.path.abspath(nn.__file__)).removesuffix("nn")
_MODULE_CALL = nn.Module._call_impl.__code__
_RUNNER_CALL = NetRunner.__call__.__code__
ADVICE = "Call self.net(x) or self.net(x, returnt=...)"


@contextlib.contextmanager
def direct_calls_reported(model: ContinualModel, compute: Compute) -> Iterator[None]:
    """Warns after a training step of the calls in it that cannot be compiled, and says where.

    These are calls of `forward` and of submodules of a backbone, and those of a `model.net` that is
    no `MammothBackbone`. Each is said once per run.

    Args:
        model: The model.
        compute: How the run computes; nothing is watched if it does not compile.
    """
    if not compute.compile:
        yield
        return
    before = compute.num_calls
    calls = _DirectCalls(model)
    profiler = sys.getprofile()
    sys.setprofile(calls)
    try:
        yield
    finally:
        sys.setprofile(profiler)
    name, net, task = type(model).__name__, model.net, model._stream.c_task
    first = next(iter(calls.forwards or calls.modules), None)
    where = "" if first is None else f" ({_line(*first)})"
    if not isinstance(net, MammothBackbone):
        message = (
            f"{name}: self.net is a {type(net).__name__}, not a MammothBackbone, so it is not "
            "compiled: derive its class from mammoth_compiled.MammothBackbone"
        )
    elif compute.num_calls == before and first is not None:
        message = (
            f"{name}: compilation is on, but no call of the backbone in task {task + 1} could be "
            f"compiled{where}. {ADVICE}: calls of net.forward, of submodules and of a network that "
            "is not a MammothBackbone are not compiled"
        )
    elif calls.forwards:
        message = (
            f"{name}: a call of forward is not compiled{where}. {ADVICE} instead; calls that go "
            "through forward skip the compiled graph"
        )
    elif calls.features:
        where = _line(*calls.features[0])
        message = (
            f"{name}: the backbone has a submodule named features, so that net.features(x) calls "
            f"that one, which is not compiled ({where}). For features call "
            'self.net(x, returnt="features")'
        )
    else:
        return
    key = where or message
    if key not in compute.said:
        compute.said.add(key)
        warnings.warn(message, stacklevel=4)


class _DirectCalls:
    """A profile function that records calls of networks and their parts outside of runners.

    Args:
        model: Its networks are watched.

    Attributes:
        forwards: File and line of calls of a backbone's `forward`.
        modules: The same for calls of modules within `model.net`.
        features: The same for those of a submodule named `features`.
    """

    def __init__(self, model: ContinualModel) -> None:
        self.forwards: list[tuple[str, int]] = []
        self.modules: list[tuple[str, int]] = []
        self.features: list[tuple[str, int]] = []
        nets = [m for m in model.modules() if isinstance(m, MammothBackbone) and m.has_runner]
        self._nets = {id(net) for net in nets}
        self._forwards = {code for net in nets if (code := _code(net)) is not None}
        self._parts = {id(module) for module in model.net.modules()} - self._nets
        self._features = {id(net._modules.get("features")) for net in nets} - {id(None)}
        self._depth = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """See `sys.setprofile`."""
        code = frame.f_code
        if code is _RUNNER_CALL:
            self._depth += {"call": 1, "return": -1}.get(event, 0)
        elif event != "call" or self._depth:
            return
        elif code in self._forwards:
            is_watched = id(frame.f_locals.get("self")) in self._nets
            if is_watched and frame.f_back and frame.f_back.f_code is not _MODULE_CALL:
                self._record(self.forwards, frame)
        elif code is _MODULE_CALL:
            module = id(frame.f_locals.get("self"))
            if module in self._parts:
                self._record(self.modules, frame)
            if module in self._features:
                self._record(self.features, frame)

    @staticmethod
    def _record(calls: list[tuple[str, int]], frame: FrameType) -> None:
        """Adds the line of user code that made a call; calls by torch or this package are none."""
        caller = frame.f_back
        while caller is not None and caller.f_code.co_filename.startswith(_IN_TORCH):
            caller = caller.f_back
        if caller is not None and not caller.f_code.co_filename.startswith(_PACKAGE):
            calls.append((caller.f_code.co_filename, caller.f_lineno))


def _code(net: nn.Module) -> CodeType | None:
    code: CodeType | None = getattr(type(net).forward, "__code__", None)
    return code


def _line(path: str, number: int) -> str:
    """Returns a place in the code as users know it: "my_model.py:31: loss = ..."."""
    text = linecache.getline(path, number).strip()
    return f"{os.path.basename(path)}:{number}" + (f": {text}" if text else "")
