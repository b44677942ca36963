"""What a run records about its computation: decisions, compiler counters, how steps ran."""

import warnings

from mammoth_compiled.compiler import counters
from mammoth_compiled.compiler.counters import Counters
from mammoth_compiled.engine.compute import UNDECLARED_STEPS
from mammoth_compiled.engine.numerics import resolve_precision
from mammoth_compiled.engine.observer import Run
from mammoth_compiled.engine.step import EagerStep


def note_decisions(run: Run) -> None:
    """Records whether the backbone is compiled, which may have failed meanwhile, and precision.

    Also the names of the classes, which some datasets know only once they have read their files.
    """
    dataset = run.dataset
    names = dataset.protocol.class_names(dataset.CLASS_NAMES, dataset.N_CLASSES)
    run.results.class_names = list(names)
    precision = resolve_precision(run.config.compute.precision, run.model.device)
    run.results.notes |= {"compile": run.compute.compile, "precision": precision}


def note_compiler(run: Run, total: Counters, after_first_task: Counters) -> None:
    """Records what the compiler did in a run that is compiled and trained a task.

    Args:
        run: The run.
        total: Counters of the whole run.
        after_first_task: Counters of the time after its first task.
    """
    if run.compute.compile and run.first_task < run.num_tasks:
        run.results.notes["compiler"] = {
            "graphs": total.graphs,
            "graphs_after_first_task": after_first_task.graphs,
            "guards_after_first_task": counters.failed_guards(after_first_task.graphs),
            "graph_breaks": total.graph_breaks,
            "seconds": total.seconds,
        }


def note_steps(run: Run, step: EagerStep) -> None:
    """Records the steps of a task and how they ran; only a GPU has CUDA graphs and host syncs."""
    # Those of the task also count if the run was resumed within it.
    run.results.notes["steps"] = run.results.notes.get("steps", 0) + run.task_step
    if run.model.device.type != "cuda":
        return
    notes = run.results.notes.setdefault(
        "step", {"total": 0, "replayed": 0, "reason": "", "host_syncs_per_step": None}
    )
    notes["total"] += step.num_steps
    notes["replayed"] += step.replays
    notes["reason"] = step.reason or notes["reason"]
    if step.host_syncs is not None:
        notes["host_syncs_per_step"] = len(step.host_syncs)


def warn_if_nothing_compiles(run: Run, step: EagerStep) -> None:
    """Warns after the first task if compilation is on but no call of the backbone was compiled."""
    if (
        run.compute.compile
        and not run.compute.has_compiled
        and step.num_steps > UNDECLARED_STEPS
        and run.task == run.first_task
    ):
        warnings.warn(
            f"{type(run.model).__name__}: compilation is on, but no call of the backbone in task "
            f"{run.task + 1} could be compiled. Call self.net(x) or self.net(x, returnt=...): "
            "calls of net.forward, of submodules and of a network that is no MammothBackbone run "
            "eagerly",
            stacklevel=2,
        )
