"""Everything that needs a GPU, in one go: checks, tuning, timings.

    python benchmarks/gpu.py [--out DIR] [--budget 520] [--skip checks tune ...]

Writes `gpu.json` into DIR (default: benchmarks/results/) and, after tuning, the chip's table to
kernels/tuned/ and into DIR. Without a GPU it prints and writes the static table
(`kernels_static.json`): registers, shared memory, occupancy, bytes, operations, lower time bounds.
"""

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from common import environment, write_results
from gpu_data import time_data
from gpu_loop import time_loops
from gpu_ops import precision, time_ops, write_table
from gpu_seeds import time_seeds
from kernel_table import floors, kernels
from torch.nn import functional as F
from tuning import tune

import mammoth_compiled
from mammoth_compiled.compiler.autotune import time_replays
from mammoth_compiled.kernels import check
from mammoth_compiled.kernels.discovery import tuning_cases
from mammoth_compiled.kernels.runtime.resources import compile_launch
from mammoth_compiled.kernels.runtime.tiles import chip_name
from mammoth_compiled.registry import backbones

REPOSITORY = Path(__file__).resolve().parents[1]
SECTIONS = ("checks", "limits", "data", "tune", "ops", "loops", "seeds", "steps")


def run_checks(deadline):
    """Runs the tests that use a GPU, those of the kernels among them."""
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
    """The peak rates of this GPU: copies, matrix multiplications, empty kernels."""
    found = {"copy_TB_s": _copy_rate()}
    for dtype in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
        product_ms = statistics.median(time_replays([lambda a=a, b=b: a @ b] * 3))
        found[f"product_{precision(dtype)}_TFLOP_s"] = 2 * 8192**3 / product_ms / 1e9
    one = torch.zeros(1, device="cuda")
    found["graph_node_us"] = 1e3 * statistics.median(time_replays([lambda: one.add_(1)] * 1000))
    return found


def _copy_rate(num_bytes=2**30):
    """TB/s, reading and writing counted."""
    source, target = (torch.zeros(num_bytes // 4, device="cuda") for _ in range(2))
    copy_ms = statistics.median(time_replays([lambda: target.copy_(source)]))
    return 2 * num_bytes / copy_ms / 1e9


def precompile():
    """Compiles all candidates on all cores, so that tuning finds them in Triton's cache."""
    number = torch.cuda.get_device_capability()
    # Not forked, since this process has a CUDA context.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        for op in sorted({case.op for case in tuning_cases()}):
            for part in range(8):
                pool.submit(_compile_part, op, part, 8, 10 * number[0] + number[1])


def _compile_part(op, part, parts, chip_number):
    for position, (_, launch) in enumerate(check.candidate_launches(op, chip_number)):
        if position % parts == part:
            compile_launch(launch, chip_number)


def tune_kernels(out, deadline):
    """Writes the fastest tiles on this chip to the package's table and to `out`."""
    cases = tuning_cases()
    best, left_out = tune(cases, deadline)
    write_table(best, out)
    return {"kernels": len(best), "problems": len(cases), "left_out": left_out}


def time_steps(deadline):
    """Whole training steps, images/s: eager, stock Inductor, its max-autotune, and ours."""
    rows = []
    for name in ("cnn", "attention-cnn", "resnet18"):
        for batch in (32, 128):
            if time.monotonic() > deadline:
                rows.append({"backbone": name, "batch": batch, "left_out": "out of time"})
                continue
            torch._dynamo.reset()
            compilers = {
                "eager": lambda net: net,
                "stock": lambda net: torch.compile(net, dynamic=False),
                "mammoth": lambda net: torch.compile(net, backend="mammoth", dynamic=False),
                # It replays CUDA graphs of its own, which another graph cannot contain.
                "max-autotune": lambda net: torch.compile(net, mode="max-autotune", dynamic=False),
            }
            row = {"backbone": name, "batch": batch, "images_per_s": {}, "graph_images_per_s": {}}
            for compiler, compiled in compilers.items():
                run = _training_step(name, batch, compiled)
                row["images_per_s"][compiler] = batch / _seconds(run)
                if compiler == "max-autotune":
                    continue
                ms = statistics.median(time_replays([run] * 5))
                row["graph_images_per_s"][compiler] = 1e3 * batch / ms
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def _training_step(name, batch, compiled):
    net = backbones[name].target(num_classes=10).cuda().to(memory_format=torch.channels_last)
    lr = torch.tensor(0.01, device="cuda")
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, fused=True)
    images = torch.randn(batch, 3, 32, 32, device="cuda")
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,), device="cuda")
    forward = compiled(net)

    def run():
        with torch.autocast("cuda", torch.bfloat16):
            logits = forward(images)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

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


def write_static_table(out):
    """Prints the static table; writes the bounds, and of each case the first candidates."""
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
        return write_static_table(args.out)
    start = time.monotonic()
    results = {
        "timed": True,
        "device": torch.cuda.get_device_name(),
        "chip": chip_name(torch.device("cuda")),
    }
    results["mammoth_compiled"] = mammoth_compiled.__version__
    sections = {
        "checks": lambda: run_checks(start + 0.3 * args.budget),
        "limits": limits,
        "data": time_data,
        "tune": lambda: (precompile(), tune_kernels(args.out, start + 0.6 * args.budget))[1],
        "ops": lambda: time_ops(results["limits"], args.out, start + 0.8 * args.budget),
        "loops": lambda: time_loops(start + 0.93 * args.budget, seconds=2.0),
        "seeds": lambda: time_seeds(start + 0.9 * args.budget),
        "steps": lambda: time_steps(start + args.budget),
    }
    for name, section in sections.items():
        if name in args.skip and name != "limits":
            continue
        begin = time.monotonic()
        results[name] = section()
        results.setdefault("seconds", {})[name] = round(time.monotonic() - begin, 1)
        # Results so far are kept if the time runs out.
        write_results("gpu", results, args.out)
        print(name, results[name] if name != "ops" else "done", flush=True)
    print("written:", write_results("gpu", results, args.out), environment()["gpu"])
    return None


if __name__ == "__main__":
    main()
