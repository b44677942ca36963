"""Everything that wants a GPU, in one go: checks, tuned configurations, timings.

    python benchmarks/gpu.py [--out DIR] [--budget 520] [--skip checks tune ...]

Writes `gpu.json` into DIR (benchmarks/results/ if left out) and, after tuning, the chip's table
to kernels/configs/tuned/ and into DIR. Without a GPU it prints and writes what is known on paper
(`kernels_static.json`): registers, shared memory, occupancy, bytes, operations and floor times.
"""

import argparse
import json
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
from common import environment, spread, write_results
from gpu_data import time_data
from gpu_loop import time_loops
from gpu_problems import ATTENTION, CONVOLUTIONS, attention_work, conv_work
from kernel_table import floors, kernels
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from tuning import tune

import mammoth_compiled
from mammoth_compiled.compiler.dispatch import replays
from mammoth_compiled.compiler.ways import (
    FUSED,
    POOL,
    SDPA,
    UNFUSED,
    AttentionProblem,
    step,
    unfused_attention,
    unfused_conv,
)
from mammoth_compiled.kernels import check, configs
from mammoth_compiled.registry import backbones

REPOSITORY = Path(__file__).resolve().parents[1]
TUNED = REPOSITORY / "kernels" / "configs" / "tuned"
SECTIONS = ("checks", "limits", "data", "tune", "ops", "loops", "steps")
# More than the second-level cache holds, so that inputs come from memory as in training.
FRESH_BYTES = 256 * 2**20


def chip():
    return configs.chip_of(torch.device("cuda"))


def run_checks(deadline):
    """Runs the tests that take a GPU where there is one; the kernels' own are among them."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/kernels", "tests/compiled/test_gpu.py"]
    limit = max(30, deadline - time.monotonic())
    try:
        done = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return {"passed": False, "summary": f"not finished after {limit:.0f} s"}
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"passed": done.returncode == 0, "summary": lines[-1], "failed": failed}


def limits():
    """What this GPU does at best: copies, products, and kernels that do nothing."""
    found = {"copy_TB_s": _copy_rate()}
    for dtype in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
        product_ms = statistics.median(replays([lambda a=a, b=b: a @ b] * 3))
        found[f"product_{_short(dtype)}_TFLOP_s"] = 2 * 8192**3 / product_ms / 1e9
    one = torch.zeros(1, device="cuda")
    found["graph_node_us"] = 1e3 * statistics.median(replays([lambda: one.add_(1)] * 1000))
    return found


def _copy_rate(num_bytes=2**30):
    """TB/s, reading and writing counted."""
    source, target = (torch.zeros(num_bytes // 4, device="cuda") for _ in range(2))
    copy_ms = statistics.median(replays([lambda: target.copy_(source)]))
    return 2 * num_bytes / copy_ms / 1e9


def precompile():
    """Compiles all candidates on all cores, so that tuning finds them in Triton's cache."""
    number = torch.cuda.get_device_capability()
    # Not forked: this process has a CUDA context by now.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        for op in ("conv_relu_pool", "attention", "relu_pool"):
            for part in range(8):
                pool.submit(_compile_part, op, part, 8, 10 * number[0] + number[1])


def _compile_part(op, part, parts, chip_number):
    for position, (_, launch) in enumerate(check.launches(op, chip_number)):
        if position % parts == part:
            check.resources(launch, chip_number)


def tune_kernels(out, deadline):
    """Writes the table of this chip, winners included, to the package and to `out`."""
    problems = [*CONVOLUTIONS, *ATTENTION]
    best, left_out = tune(problems, deadline)
    path = TUNED / f"{chip()}.json"
    TUNED.mkdir(exist_ok=True)
    table = {**configs.tuned(chip()), **best}
    path.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
    configs.forget()
    shutil.copy(path, out)
    return {"kernels": len(best), "problems": len(problems), "left_out": left_out}


def time_ops(found_limits, out, deadline):
    """Returns a row of times per problem, and writes the winners to the chip's table."""
    rows, winners = [], {}
    for op, problems, work in (
        ("conv_relu_pool", CONVOLUTIONS, conv_work),
        ("attention", ATTENTION, attention_work),
    ):
        for problem in problems:
            if time.monotonic() > deadline:
                rows.append({"op": op, "problem": str(problem), "left_out": "out of time"})
                continue
            row = time_problem(op, problem, work(problem), found_limits)
            rows.append(row)
            taken = (FUSED, POOL, SDPA, UNFUSED)  # the others are for comparison
            ours = {name: ms["median"] for name, ms in row["ms"].items() if name in taken}
            fastest = min(ours, key=ours.get)
            # Inductor's own form is what UNFUSED becomes when a graph is left alone.
            if row["ms"]["stock"]["median"] < ours[fastest]:
                fastest = UNFUSED
            winners.setdefault(op, {})[str(problem)] = fastest
            print(_line(row), flush=True)
    path = TUNED / f"{chip()}.json"
    TUNED.mkdir(exist_ok=True)
    path.write_text(
        json.dumps({**configs.tuned(chip()), "winners": winners}, indent=1, sort_keys=True) + "\n"
    )
    configs.forget()
    shutil.copy(path, out)
    return rows


def time_problem(op, problem, work, found_limits):
    """Forward and backward, every way in a graph of its own, with inputs that no cache holds."""
    copies = max(2, min(20, FRESH_BYTES // max(1, work.bytes_moved)))
    sets = [problem.ways() for _ in range(copies)]
    functions = {name: [ways[name] for ways in sets] for name in sets[0]}
    plain = unfused_attention if isinstance(problem, AttentionProblem) else unfused_conv
    torch._dynamo.reset()
    stock = torch.compile(plain, dynamic=False)
    functions["stock"] = []
    for _ in range(copies):
        inputs = problem.inputs()
        grad = torch.randn_like(plain(*inputs))
        functions["stock"].append(
            step(lambda i=inputs: stock(*i), [t for t in inputs if t is not None], grad)
        )
    if isinstance(problem, AttentionProblem):
        functions |= _torch_backends(sets)
    times = {name: [] for name in functions}
    for _ in range(3):  # in turns
        for name, calls in functions.items():
            times[name] += replays(calls, count=7)
    half = problem.dtype != torch.float32
    rate = 1e12 * found_limits[f"product_{_short(problem.dtype)}_TFLOP_s"]
    floor_ms = 1e3 * max(
        work.bytes_moved / (1e12 * found_limits["copy_TB_s"]), work.operations / rate
    )
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "op": op,
        "problem": str(problem),
        "precision": "bf16" if half else "tf32",
        "ms": {name: spread(values) for name, values in times.items()},
        "fused_over_best_of_eager_and_stock": min(medians[UNFUSED], medians["stock"])
        / medians[FUSED],
        "floor_ms": floor_ms,
        "share_of_floor": floor_ms / medians[FUSED],
    }


def _torch_backends(sets):
    """Torch's own fused attention by each library that takes the problem, named as torch does."""
    found = {}
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):

        def call(function, backend=backend):
            with sdpa_kernel(backend):
                return function()

        try:
            call(sets[0][SDPA])
        except RuntimeError:  # it does not take this dtype
            continue
        name = backend.name.removesuffix("_ATTENTION").lower()
        found[name] = [partial(call, ways[SDPA]) for ways in sets]
    return found


def time_steps(deadline):
    """Whole training steps, images/s: eager, stock Inductor, its max-autotune, and ours."""
    rows = []
    for name in ("cnn", "attention-cnn", "resnet18"):
        for batch in (32, 128):
            if time.monotonic() > deadline:
                rows.append({"backbone": name, "batch": batch, "left_out": "out of time"})
                continue
            torch._dynamo.reset()
            ways = {
                "eager": lambda net: net,
                "stock": lambda net: torch.compile(net, dynamic=False),
                "mammoth": lambda net: torch.compile(net, backend="mammoth", dynamic=False),
                # It replays CUDA graphs of its own, which cannot be part of another.
                "max-autotune": lambda net: torch.compile(net, mode="max-autotune", dynamic=False),
            }
            row = {"backbone": name, "batch": batch, "images_per_s": {}, "graph_images_per_s": {}}
            for way, compiled in ways.items():
                run = _training_step(name, batch, compiled)
                row["images_per_s"][way] = batch / _seconds(run)
                if way == "max-autotune":
                    continue
                ms = statistics.median(replays([run] * 5))
                row["graph_images_per_s"][way] = 1e3 * batch / ms
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def _training_step(name, batch, compiled):
    net = backbones[name].target(num_classes=10).cuda().to(memory_format=torch.channels_last)
    lr = torch.tensor(0.01, device="cuda")
    optimiser = torch.optim.SGD(net.parameters(), lr=lr, fused=True)
    images = torch.randn(batch, 3, 32, 32, device="cuda")
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,), device="cuda")
    forward = compiled(net)

    def run():
        with torch.autocast("cuda", torch.bfloat16):
            logits = forward(images)
        optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels).backward()
        optimiser.step()

    for _ in range(3):
        run()
    return run


def _seconds(run, calls=50, rounds=5):
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            run()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / calls)
    return statistics.median(times)


def _short(dtype):
    return "bf16" if dtype == torch.bfloat16 else "tf32"


def _line(row):
    ms = "  ".join(f"{name} {1e3 * t['median']:.1f}" for name, t in row["ms"].items())
    gain, share = row["fused_over_best_of_eager_and_stock"], row["share_of_floor"]
    return f"{row['op']} {row['problem']}: us {ms}  gain {gain:.2f}  of the floor {share:.0%}"


def on_paper(out):
    """Prints the static table; writes the floors, and of each problem the first candidates."""
    rows, bounds, first = list(kernels()), list(floors()), {}
    for row in rows:
        first.setdefault((row["kernel"], row["problem"], row["chip"]), row)
        print("  ".join(str(value) for value in row.values()))
    for row in bounds:
        print("  ".join(str(value) for value in row.values()))
    print("no GPU: nothing was timed")
    result = {"timed": False, "kernels": list(first.values()), "floors": bounds}
    print("written:", write_results("kernels_static", result, out))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results")
    parser.add_argument("--budget", type=float, default=520, help="seconds for everything")
    parser.add_argument("--skip", nargs="*", default=[], choices=SECTIONS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = "tf32"
    if not torch.cuda.is_available():
        return on_paper(args.out)
    start = time.monotonic()
    results = {"timed": True, "device": torch.cuda.get_device_name(), "chip": chip()}
    results["mammoth_compiled"] = mammoth_compiled.__version__
    sections = {
        "checks": lambda: run_checks(start + 0.3 * args.budget),
        "limits": limits,
        "data": time_data,
        "tune": lambda: (precompile(), tune_kernels(args.out, start + 0.6 * args.budget))[1],
        "ops": lambda: time_ops(results["limits"], args.out, start + 0.8 * args.budget),
        "loops": lambda: time_loops(start + 0.93 * args.budget, seconds=2.0),
        "steps": lambda: time_steps(start + args.budget),
    }
    for name, section in sections.items():
        if name in args.skip and name != "limits":
            continue
        begin = time.monotonic()
        results[name] = section()
        results.setdefault("seconds", {})[name] = round(time.monotonic() - begin, 1)
        # What is there is kept if the time runs out.
        write_results("gpu", results, args.out)
        print(name, results[name] if name != "ops" else "done", flush=True)
    print("written:", write_results("gpu", results, args.out), environment()["gpu"])
    return None


if __name__ == "__main__":
    main()
