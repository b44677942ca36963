"""The cost of logging: steps with all loggers on against steps with none, interleaved in one run.

    python benchmarks/loggers.py [--cases sgd:mnistmlp sgd:cnn] [--pairs 16] [--seconds 3]

Training alternates between blocks of `--seconds` with CSV, JSONL, TensorBoard and Weights & Biases
(offline) on, one point a second as by default, and blocks with all of them off. Of each block with
loggers:

* `overhead`: wall time of a step over the mean of the blocks before and after it, minus 1, so that
  a machine that gets steadily slower or faster does not count. Only on a machine without other load
  are its differences those of the loggers; `load` is the system's average during the measurement.
* `in_hooks`: CPU time of the training thread in the loggers, per CPU time of that thread. It slows
  steps down.
* `beside`: CPU time of other threads and of the process of W&B, likewise. It slows steps down only
  where no core is free.
"""

import argparse
import contextlib
import io
import os
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch
from common import spread, write_results

import mammoth_compiled as mc
from mammoth_compiled.engine import Observer
from mammoth_compiled.loggers import logger_classes
from mammoth_compiled.observers.log import Log

LOGGERS = "csv,jsonl,tensorboard,wandb"


def seconds_beside():
    """Returns the CPU time of all threads of this process but this one, and of its children, s."""
    children = [
        task
        for path in Path("/proc/self/task").glob("*/children")
        for task in path.read_text().split()
    ]
    stats = [path for child in children for path in Path(f"/proc/{child}/task").glob("*/schedstat")]
    others = sum(int(stat.read_text().split()[0]) for stat in stats) / 1e9
    return time.process_time() - time.thread_time() + others


class Switched(Observer):
    """Passes hooks to the loggers in every second block, and measures all blocks.

    Attributes:
        blocks: Wall time per step, and shares of the CPU time in hooks and beside; off and on by
            turns, off first and last.
    """

    def __init__(self, log, seconds, pairs):
        self.log, self.seconds, self.num_blocks = log, seconds, 2 * pairs + 1
        self.blocks, self.is_warm = [], False

    def begin_run(self, run):
        self.log.begin_run(run)

    def begin_task(self, run):
        self.start(run, is_on=False)

    def start(self, run, is_on):
        self.is_on, self.steps, self.in_hooks = is_on, 0, 0.0
        if is_on:
            self.call(self.log.begin_task, run)
        self.started = time.perf_counter()
        self.before = time.thread_time(), seconds_beside()

    def call(self, hook, *args):
        before = time.thread_time()
        hook(*args)
        self.in_hooks += time.thread_time() - before

    def read_losses(self, run, losses):
        if self.is_on:
            self.call(self.log.read_losses, run, losses)

    def end_step(self, run, loss, num_images):
        if self.is_on:
            self.call(self.log.end_step, run, loss, num_images)
        self.steps += 1
        seconds = time.perf_counter() - self.started
        if seconds < self.seconds:
            return
        if run.model.device.type == "cuda":
            torch.cuda.synchronize()
            seconds = time.perf_counter() - self.started
        if not self.is_warm:  # the first block compiles
            self.is_warm = True
            self.start(run, is_on=False)
            return
        cpu = time.thread_time() - self.before[0]
        beside = seconds_beside() - self.before[1]
        self.blocks.append((seconds / self.steps, self.in_hooks / cpu, beside / cpu))
        if len(self.blocks) == self.num_blocks:
            raise KeyboardInterrupt
        self.start(run, not self.is_on)

    def close(self, run):
        self.log.close(run)


def measure(case, pairs, seconds):
    model, backbone = case.split(":")
    args = {"backbone": backbone, "n_epochs": 10**6, "seed": 0, "batch_size": 32, "compile": "auto"}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        log = Log([logger() for logger in logger_classes(LOGGERS)], folder)
        blocks = Switched(log, seconds, pairs)
        runner = mc.load_runner(model, "seq-fmnist-mini", args)
        mc.train(*runner, observers=[blocks])
        compiled = runner[0].compute.compile
    off, on = blocks.blocks[::2], blocks.blocks[1::2]
    around = [(before[0] + after[0]) / 2 for before, after in pairwise(off)]
    return {
        "compiled": compiled,
        "step_ms_off": spread([1e3 * wall for wall, _, _ in off]),
        "step_ms_on": spread([1e3 * wall for wall, _, _ in on]),
        "overhead": spread([with_[0] / plain - 1 for with_, plain in zip(on, around, strict=True)]),
        "in_hooks": spread([share for _, share, _ in on]),
        "beside": spread([share for _, _, share in on]),
        "beside_off": spread([share for _, _, share in off]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=["sgd:mnistmlp", "sgd:cnn"])
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=1, help="Threads of PyTorch.")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    os.environ["WANDB_MODE"] = "offline"
    cases = {}
    for case in args.cases:
        result = cases[case] = measure(case, args.pairs, args.seconds)
        print(f"{case}: step {result['step_ms_off']['median']:.3f} ms")
        for name in ("overhead", "in_hooks", "beside", "beside_off"):
            r = result[name]
            print(f"  {name} {r['median']:+.2%} [{r['p20']:+.2%}, {r['p80']:+.2%}]", flush=True)
    print(
        "written:",
        write_results("loggers", {"loggers": LOGGERS, "load": os.getloadavg()[1], "cases": cases}),
    )


if __name__ == "__main__":
    main()
