"""Four and ten seeds on one GPU that take turns, against one: time, and equality of weights.

python benchmarks/gpu_seeds.py     (with MAMMOTH_DRY=1 on the CPU, only to try the script out)
"""

import contextlib
import io
import json
import time

import torch
from gpu_runs import DATASET, SMALL
from gpu_timing import DEVICE, DRY, Context, few

from mammoth_compiled import load_runner, train
from mammoth_compiled.engine import Observer
from mammoth_compiled.engine.numerics import numerics
from mammoth_compiled.sweep.turns import STEPS_PER_TURN, TurnObserver, Turns

# ER with the setting of the benchmark of training loops, on one task.
ARGS = {"backbone": "cnn", "batch_size": 32, "minibatch_size": 32, "buffer_size": 500}
ARGS |= {"lr": 0.03, "stop_after": 1, "eval_every": None}
COUNTS = (1, 4, 10)


class Clock(Observer):
    """Notes when a run had launched how many steps, once every turn.

    Launching keeps pace with the GPU, because losses are read every 50 steps.
    """

    def __init__(self):
        self.times = []

    def end_step(self, run, loss, num_images):
        if run.task_step % STEPS_PER_TURN == 0:
            self.times.append((run.task_step, time.perf_counter()))


def train_seeds(seeds, device, epochs, warm_up, **arguments):
    """Returns the steps per second of all runs together, and the weights of each.

    Steps count while all runs train: after the `warm_up` steps of the last one, before the end of
    the first one; nothing is timed if `warm_up` is 0.
    """
    clocks, weights = {}, {}
    turns = Turns(device)

    def run(seed):
        args = {**ARGS, **arguments, "seed": seed, "n_epochs": epochs, "device": str(device)}
        model, dataset = load_runner("er", DATASET, args)
        clocks[seed] = Clock()
        train(model, dataset, observers=[clocks[seed], TurnObserver(turns, [], lambda: None)])
        weights[seed] = model.net.state_dict()

    deterministic = bool(arguments.get("deterministic"))
    with numerics(device, "auto", deterministic), contextlib.redirect_stdout(io.StringIO()):
        turns.run([lambda seed=seed: run(seed) for seed in seeds])
    times = [clock.times for clock in clocks.values()]
    if warm_up == 0:
        return float("nan"), weights
    begin = max(next(t for step, t in found if step >= warm_up) for found in times)
    end = min(found[-1][1] for found in times)
    within = [[step for step, t in found if begin <= t <= end] for found in times]
    steps = sum(found[-1] - found[0] for found in within if found)
    return steps / (end - begin), weights


def time_seeds(context):
    """Yields the time of several seeds in that of one, and whether their weights are equal."""
    amp, compile = ("off", "off") if DRY else ("bf16", "on")
    given = {"amp": amp, "compile": compile, **(SMALL if DRY else {})}
    epochs, warm_up = (1, 0) if DRY else (150, 400)
    rates = {count: [] for count in few(COUNTS)}
    for _ in range(1 if DRY else 3):
        for count in rates:
            if rates[count] and context.is_over():
                break
            torch._dynamo.reset()
            rates[count].append(train_seeds(range(count), DEVICE, epochs, warm_up, **given)[0])
        yield _row(rates)
    checked, epochs = 2 if DRY else 3, max(1, epochs // 10)
    given["deterministic"] = True
    _, together = train_seeds(range(checked), DEVICE, epochs, 0, **given)
    equal = []
    for seed in range(checked):
        _, alone = train_seeds([seed], DEVICE, epochs, 0, **given)
        equal.append(all(torch.equal(v, together[seed][k]) for k, v in alone[seed].items()))
    yield {"equal_to_alone_deterministic": equal}


def _row(rates):
    """Steps per second so far, and how often the time of one seed several seeds take."""
    times = {
        count: [count * one / several for one, several in zip(rates[1], found, strict=False)]
        for count, found in rates.items()
    }
    return {"rounds": len(rates[1]), "steps_per_s": rates, "time_in_times_of_one": times}


if __name__ == "__main__":
    for found in time_seeds(Context(None, time.monotonic() + 120)):
        print(json.dumps(found))
