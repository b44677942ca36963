"""Ten seeds on one GPU that take turns, against one seed: time, and equality of weights.

python benchmarks/gpu_seeds.py [--device cpu]     (the CPU only tries the script out)
"""

import argparse
import contextlib
import io
import json
import time

import torch

from mammoth_compiled import load_runner, train
from mammoth_compiled.engine import Observer
from mammoth_compiled.engine.numerics import numerics
from mammoth_compiled.sweep.turns import STEPS_PER_TURN, TurnObserver, Turns

# ER with the setting of the benchmark of training loops, on one task.
ARGS = {"backbone": "cnn", "batch_size": 32, "minibatch_size": 32, "buffer_size": 500}
ARGS |= {"lr": 0.03, "stop_after": 1, "eval_every": None}
SMALL = {"backbone": "mnistmlp", "input_size": 3 * 32 * 32}  # for the CPU
DATASET = "seq-fmnist-mini"  # comes with the package


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


def time_seeds(deadline, device="cuda", count=10, epochs=150, warm_up=400, **given):
    """Returns the time of several seeds in that of one, and whether their weights are equal."""
    device = torch.device(device)
    amp = "bf16" if device.type == "cuda" else "off"
    compiled = {"amp": amp, "compile": "on" if device.type == "cuda" else "off"} | given
    rates = {"one": [], "all": []}
    for _ in range(3):
        if rates["all"] and time.monotonic() > deadline:
            break
        torch._dynamo.reset()
        rates["one"].append(train_seeds([0], device, epochs, warm_up, **compiled)[0])
        torch._dynamo.reset()
        rates["all"].append(train_seeds(range(count), device, epochs, warm_up, **compiled)[0])
    ratios = [count * one / all_ for one, all_ in zip(*rates.values(), strict=True)]
    row = {"seeds": count, "steps_per_s": rates, "time_of_all_in_times_of_one": ratios}
    checked = min(3, count)
    short = {**compiled, "deterministic": True}
    _, together = train_seeds(range(checked), device, max(1, epochs // 10), 0, **short)
    equal = []
    for seed in range(checked):
        _, alone = train_seeds([seed], device, max(1, epochs // 10), 0, **short)
        equal.append(all(torch.equal(v, together[seed][k]) for k, v in alone[seed].items()))
    row["equal_to_alone_deterministic"] = equal
    print(json.dumps(row), flush=True)
    return row


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        time_seeds(0.0, "cpu", count=2, epochs=2, warm_up=25, **SMALL)
    else:
        time_seeds(time.monotonic() + 120, arguments.device)
