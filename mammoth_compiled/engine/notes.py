"""What a run records about its computation: decisions, compiler counters, how steps ran."""

import warnings

from mammoth_compiled.compiler import counters
from mammoth_compiled.compiler.counters import Counters
from mammoth_compiled.engine.compute import UNDECLARED_STEPS
from mammoth_compiled.engine.direct_calls import ADVICE
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
    """Warns after the first task if no call of the backbone could be compiled in many steps.

    The first step says so at once if it calls the backbone in a way that is not compiled; see
    `engine.direct_calls`.
    """
    compute = run.compute
    is_first = run.task == run.first_task
    if is_first and step.num_steps > UNDECLARED_STEPS and _compiles_nothing(run):
        name = type(run.model).__name__
        compute.said.add(name)
        warnings.warn(
            f"{name}: compilation is on, but no call of the backbone in task {run.task + 1} could "
            f"be compiled: its steps call it with no batch size often enough. {ADVICE} with full "
            "batches",
            stacklevel=2,
        )


def warn_if_nothing_was_compiled(run: Run) -> None:
    """Warns at the end of a run with `--compile on` that had nothing to compile."""
    if run.config.compute.compile == "on" and _compiles_nothing(run):
        steps = run.results.notes.get("steps", 0)
        warnings.warn(
            f"{type(run.model).__name__}: --compile on, but 0 graphs in {steps} steps: a call is "
            "compiled from the second full step that makes it. Train longer, or use a --batch_size "
            "that the training set fills",
            stacklevel=2,
        )


def _compiles_nothing(run: Run) -> bool:
    """Returns whether compilation is on, nothing is compiled so far, and no warning has said so."""
    compute = run.compute
    return compute.compile and not compute.has_compiled and not compute.said
