"""Finds the fastest configuration of every kernel on the GPU at hand, problem by problem."""

import statistics
import time
from collections import defaultdict

from mammoth_compiled.compiler.dispatch import replays
from mammoth_compiled.compiler.ways import FUSED
from mammoth_compiled.kernels.configs import choosing


def tune(problems, deadline):
    """Times all candidates of one kernel at a time, the others as they are.

    Args:
        problems: `ConvProblem`s and `AttentionProblem`s.
        deadline: When to stop, as `time.monotonic` counts.

    Returns:
        Kernel → problem → the fastest configuration, and the problems that were left out.
    """
    best = defaultdict(dict)
    left_out = []
    for problem in problems:
        if time.monotonic() > deadline:
            left_out.append(str(problem))
            continue
        step = problem.ways()[FUSED]
        fitting = _fitting(step)
        chosen = {kernel: configs[0] for kernel, (_, configs) in fitting.items()}
        for kernel, (key, configs) in fitting.items():
            times = {}
            for config in configs:
                policy = {**chosen, kernel: config}
                with choosing(lambda _, c, p=policy: p[c[0].kernel]):
                    times[config] = statistics.median(replays([step] * 10))
            chosen[kernel] = min(times, key=times.get)
            best[kernel][key] = str(chosen[kernel])
    return dict(best), left_out


def _fitting(step):
    """Kernel → (its name of the problem, its candidates)."""
    found = {}

    def note(problem, configs):
        found[configs[0].kernel] = (problem, configs)
        return configs[0]

    with choosing(note):
        step()
    return found
