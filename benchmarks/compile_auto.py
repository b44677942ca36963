"""Is `--compile auto` right on a CPU? What it decides for runs of several lengths, and what pays.

    python benchmarks/compile_auto.py [--backbones cnn resnet18] [--batch 32] [--reuse]

For each backbone, in fresh processes: the time of an eager and of a compiled training step
(interleaved), and the seconds that the first compiled steps cost with an empty cache and with the
cache that this leaves. From these follow the times of runs with N steps, compiled and not, and how
much longer the choice of `auto` takes than the better of the two.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import torch
from common import RESULTS, interleaved, spread, write_results
from torch.nn import functional as F

import mammoth_compiled  # noqa: F401 (registers the backbones)
from mammoth_compiled.device import keep_freed_memory
from mammoth_compiled.engine.compute import Compute
from mammoth_compiled.engine.cost import compiling_pays
from mammoth_compiled.registry import backbones

NUM_STEPS = (100, 400, 1_900, 10_000)
NAMES = ("mnistmlp", "cnn", "cnn-wide", "attention-cnn", "reduced-resnet18", "resnet18")


def build(name, batch):
    """Returns a backbone and a batch for it."""
    torch.manual_seed(0)
    shape = (1, 28, 28) if name == "mnistmlp" else (3, 32, 32)
    return backbones[name].target(num_classes=10), torch.randn(batch, *shape)


def stepper(name, batch, compiled):
    """Returns a function that runs one training step."""
    net, inputs = build(name, batch)
    labels = torch.randint(0, 10, (batch,))
    if compiled:
        compute = Compute(torch.device("cpu"), compile=True)
        compute.declare({batch})
        compute.attach(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)

    def step():
        optimizer.zero_grad()
        F.cross_entropy(net(inputs), labels).backward()
        optimizer.step()

    return step


def timed(function, calls=1):
    """Returns seconds per call."""
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def child(name, batch, rounds):
    """Prints the seconds of compiling, and the spread of an eager and of a compiled step, ms."""
    keep_freed_memory()
    eager, compiled = stepper(name, batch, False), stepper(name, batch, True)
    eager()
    compiled()
    compile_s = timed(compiled)  # the second call is compiled
    compiled()
    calls = max(1, int(0.1 / timed(compiled)))
    times = interleaved({"eager": eager, "compiled": compiled}, rounds, calls)
    steps = {f"{kind}_ms": spread(values) for kind, values in times.items()}
    compile_s -= steps["compiled_ms"]["median"] / 1e3
    print(json.dumps({"compile_s": compile_s, **steps}))


def measure(name, batch):
    """Returns the times of compiling, first and from the cache, and of steps."""
    row = {"batch": batch, "threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": folder}
        runs = []
        for rounds in (2, 2, 2, 11):
            command = [sys.executable, __file__, "--child", name, str(batch), str(rounds)]
            printed = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True
            ).stdout
            runs.append(json.loads(printed.splitlines()[-1]))
    cold, *warm = (run["compile_s"] for run in runs)
    row |= {"cold_compile_s": spread([cold]), "warm_compile_s": spread(warm)}
    return row | {kind: runs[-1][kind] for kind in ("eager_ms", "compiled_ms")}


def judge(name, row):
    """Returns what `auto` decides for each length of a run, and the times that follow."""
    net, images = build(name, row["batch"])
    runs = []
    for cache in ("cold", "warm"):
        for steps in NUM_STEPS:
            on = row[f"{cache}_compile_s"]["median"] + steps * row["compiled_ms"]["median"] / 1e3
            off = steps * row["eager_ms"]["median"] / 1e3
            compiles, _ = compiling_pays(net, images, steps, is_cached=cache == "warm")
            excess = (on if compiles else off) / min(on, off) - 1
            runs.append(
                {"steps": steps, "cache": cache, "on_s": on, "off_s": off, "auto": compiles}
                | {"excess": excess}
            )
    return runs


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbones", nargs="+", default=NAMES)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument(
        "--reuse", action="store_true", help="judge the decisions by the times in the JSON file"
    )
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], *map(int, args.child[1:]))
        return
    path = RESULTS / "compile_auto.json"
    results = json.loads(path.read_text())["backbones"] if args.reuse else {}
    for name in args.backbones:
        if not args.reuse:
            results[name] = measure(name, args.batch)
        r = results[name]
        r["runs"] = judge(name, r)
        print(
            f"{name:18s} eager {r['eager_ms']['median']:7.2f} ms  "
            f"compiled {r['compiled_ms']['median']:7.2f} ms  "
            f"compiling {r['cold_compile_s']['median']:5.1f} s cold, "
            f"{r['warm_compile_s']['median']:4.1f} s warm  auto "
            + " ".join(
                f"{run['cache'][0]}{run['steps']}:{'on' if run['auto'] else 'off'}"
                f"+{100 * run['excess']:.0f}%"
                for run in r["runs"]
            ),
            flush=True,
        )
    if args.reuse:
        content = {**json.loads(path.read_text()), "backbones": results}
        path.write_text(json.dumps(content, indent=2) + "\n")
        print("written:", path)
    else:
        print("written:", write_results("compile_auto", {"backbones": results}))


if __name__ == "__main__":
    main()
