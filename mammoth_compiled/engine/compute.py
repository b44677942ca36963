"""How a run computes: device, AMP mode, and which calls of the backbone run compiled."""

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.datasets.base import EVAL_BATCH_SIZE
from mammoth_compiled.engine.compiled_before import CompiledBefore
from mammoth_compiled.engine.cost import compiling_pays
from mammoth_compiled.engine.forward import NetRunner
from mammoth_compiled.engine.numerics import timed_algorithms

# A batch size that the model does not declare is compiled after this many steps that used it, and
# only the first few such sizes are: each graph takes seconds, and user code may pass any size.
UNDECLARED_STEPS = 20
MAX_UNDECLARED_SIZES = 4
# In the kinds of calls: a whole training step, and that none is compiled.
WHOLE, WHOLE_OFF = "step ", "no step"


class Compute:
    """Sole owner of the device, the AMP mode, the compile decision and the batch sizes of a run.

    A training step computes either wholly compiled or wholly eagerly. Steps on fewer images than a
    full batch run eagerly. In full steps a kind of call (returnt, batch size, mode) runs eagerly in
    the first step that makes it, because some kinds occur only once, such as the step of a replay
    method whose buffer is still empty. From the next step on it is compiled. Outside training steps
    only known batch sizes are compiled, so that the ragged last test batch compiles nothing.

    Args:
        device: Where the run computes.
        amp: "off", "bf16" or "fp16": precision inside the backbone; its outputs are float32.
        compile: Whether to compile; `decide` sets it for a run.

    Attributes:
        device: Where the run computes.
        amp: AMP mode.
        compile: Whether calls of the backbone are compiled.
        reason: Why, for the user to read; "" before `decide`.
        batch_sizes: Batch sizes known to recur: declared by the model, and that of evaluation.
        full_batch: Images in a full batch of the stream, 0 before the first step.
        has_compiled: Whether any call was to run compiled so far.
        disabled_because: Why compiling was stopped for good, "" if it was not.
        num_calls: Calls of backbones in training steps so far that could be compiled.
        said: Warnings that were given once; see `engine.direct_calls`.
        whole_step: Computes loss and gradients of a step in one graph, for `--whole_step`; else
            None. See `engine.whole_step.WholeStep`.
    """

    whole_step: Any = None

    def __init__(self, device: torch.device, amp: str = "off", compile: bool = False) -> None:
        self.device = device
        self.amp = amp
        self.compile = compile
        self.reason = ""
        self.batch_sizes = {EVAL_BATCH_SIZE}
        self.full_batch = 0
        self.has_compiled = False
        self.disabled_because = ""
        self.num_calls = 0
        self.said: set[str] = set()
        self._compiled_before: CompiledBefore | None = None
        self._undeclared: set[int] = set()
        # How many full training steps made each kind of call, and the kinds of the current step.
        self._steps_with: dict[str, int] = {}
        self._this_step: set[str] | None = None
        self._eager_step = False

    def attach(self, net: MammothBackbone) -> None:
        """Lets a backbone, and copies made of it from now on, run as this object decides."""
        net.set_runner(NetRunner(net, self))

    def expect_evaluation(self, net: MammothBackbone, images: torch.Tensor) -> None:
        """Lets the evaluation of a backbone compile together with its first training call.

        Args:
            net: The backbone.
            images: A batch that will be evaluated, [B, C, H, W].
        """
        runner = vars(net).get("_runner")
        if isinstance(runner, NetRunner) and len(images) in self.batch_sizes:
            runner.evaluated = images

    def declare(self, batch_sizes: Iterable[int]) -> None:
        """Adds batch sizes that training steps pass to the backbone."""
        self.batch_sizes |= set(batch_sizes)

    def decide(
        self,
        mode: str,
        net: MammothBackbone,
        images: torch.Tensor,
        num_steps: int,
        images_per_step: int | None = None,
    ) -> None:
        """Decides whether to compile.

        The decision follows from the run and from whether this machine has compiled the backbone
        before. A resumed run keeps the decision of its checkpoint.

        Args:
            mode: "on", "off" or "auto": always on a GPU, on a CPU if it saves time.
            net: The backbone.
            images: One batch of the run, [B, C, H, W].
            num_steps: Training steps to come.
            images_per_step: Images that a step passes to the backbone; None for those of the batch.
        """
        before = CompiledBefore(net, self.batch_sizes, self.amp)
        self._compiled_before = before if mode != "off" else None
        if self.disabled_because:
            self.compile, self.reason = False, self.disabled_because
        elif mode != "auto":
            self.compile, self.reason = mode == "on", f"--compile {mode}"
        elif self.device.type == "cuda":
            self.compile, self.reason = True, "auto: always on a GPU"
        else:
            self.compile, self.reason = compiling_pays(
                net, images, num_steps, before.level(), images_per_step
            )

    @property
    def was_compiled_before(self) -> bool:
        """Whether this machine has compiled the backbone before; False once this run has."""
        return bool(self._compiled_before)

    def remember_compilation(self) -> None:
        """Notes that the backbone was compiled, for the decision of later runs."""
        if self.compile and self.has_compiled and self._compiled_before is not None:
            self._compiled_before.remember()
            self._compiled_before = None

    def disable(self, net: nn.Module, reason: str) -> None:
        """Stops compiling, also in later runs of the model and after a resume.

        Args:
            net: The network that caused it.
            reason: Why, to follow "because".
        """
        self.compile, self.disabled_because = False, reason
        warnings.warn(
            f"{type(net).__name__} runs eagerly from here on, because {reason}", stacklevel=4
        )

    @contextlib.contextmanager
    def step(self, num_images: int) -> Iterator[None]:
        """Surrounds one training step, so that its calls agree on how they run.

        Args:
            num_images: Images of the stream in this step.
        """
        self.full_batch = max(self.full_batch, num_images)
        self._eager_step = num_images < self.full_batch
        self._this_step = set()
        try:
            with timed_algorithms(self.device, recurs=not self._eager_step):
                yield
        finally:
            for kind in self._this_step:
                self._steps_with[kind] = self._steps_with.get(kind, 0) + 1
            self._this_step = None
            self._eager_step = False

    def compiles(self, returnt: str, batch_size: int, training: bool) -> bool:
        """Returns whether a call of the backbone runs compiled; the call counts as made.

        Args:
            returnt: What the call returns.
            batch_size: Its number of images.
            training: Whether the backbone is in training mode.
        """
        if not self.compile or self._eager_step:
            return False
        self.num_calls += 1
        is_known = batch_size in self.batch_sizes
        learns = torch.is_grad_enabled()
        if self._this_step is None and not learns:
            self.has_compiled |= is_known
            return is_known
        mode = ("train" if training else "eval") + ("" if learns else " no_grad")
        kind = f"{returnt} {batch_size} {mode}"
        steps = self._steps_with.get(kind, 0)
        if self._this_step is None:
            self._steps_with[kind] = steps + 1
        else:
            self._this_step.add(kind)
            is_known = is_known or self._learn(batch_size, steps)
        compiles = is_known and steps > 0
        self.has_compiled |= compiles
        return compiles

    def compiles_step(self, kind: str, may_be_new: bool) -> bool:
        """Returns whether a whole training step runs as one graph; the step counts as made.

        As with calls, the first step of a kind does not. At most MAX_UNDECLARED_SIZES kinds are
        compiled.

        Args:
            kind: Shapes of what the step computes with.
            may_be_new: Whether to accept a kind that was not made before.
        """
        steps = self._steps_with.get(kind, 0)
        if not self.compile or self._eager_step or self._this_step is None:
            return False
        num_compiled = sum(k.startswith(WHOLE) and n > 1 for k, n in self._steps_with.items())
        is_full = steps == 1 and num_compiled == MAX_UNDECLARED_SIZES
        if WHOLE_OFF in self._steps_with or is_full or not (steps or may_be_new):
            return False
        self._this_step.add(kind)
        self.has_compiled |= steps > 0
        return steps > 0

    def disable_whole_step(self, model: nn.Module, reason: str) -> None:
        """Compiles the backbone alone from now on, also after a resume.

        Args:
            model: The model whose step it is.
            reason: Why, to follow "because".
        """
        self._steps_with[WHOLE_OFF] = 1
        warnings.warn(
            f"{type(model).__name__}: the training step is not one compiled graph, because "
            f"{reason}. Training continues with the backbone compiled alone: same results, slower. "
            "To silence this, leave out --whole_step",
            stacklevel=4,
        )

    def _learn(self, batch_size: int, steps: int) -> bool:
        """Adds an undeclared batch size that keeps recurring; returns whether it was added."""
        if steps < UNDECLARED_STEPS or len(self._undeclared) == MAX_UNDECLARED_SIZES:
            return False
        self._undeclared.add(batch_size)
        self.batch_sizes.add(batch_size)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs to compute exactly like one that never stopped."""
        return {
            "compile": self.compile,
            "disabled_because": self.disabled_because,
            "full_batch": self.full_batch,
            "undeclared": sorted(self._undeclared),
            "steps_with": dict(sorted(self._steps_with.items())),
        }

    def load_state_dict(self, state: dict[str, Any], mode: str = "auto") -> None:
        """Restores what `state_dict` returned.

        Args:
            state: The saved state.
            mode: "on" or "off" overrides the saved compile decision, "auto" keeps it.
        """
        self.disabled_because = state["disabled_because"]
        self.compile = state["compile"] if mode == "auto" else mode == "on"
        self.reason = "as in the checkpoint" if mode == "auto" else f"--compile {mode}"
        if self.disabled_because:
            self.compile, self.reason = False, self.disabled_because
        self.full_batch = state["full_batch"]
        self._undeclared = set(state["undeclared"])
        self.batch_sizes |= self._undeclared
        self._steps_with = dict(state["steps_with"])
