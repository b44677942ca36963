"""Everything that needs a GPU, in one go: checks, tuning, timings.

    python benchmarks/gpu.py [--out DIR] [--budget 480] [--skip checks tune ...] [--dry]

Sections run in order of value, each in a process of its own with a time limit, so that one that
fails or hangs costs no other. Results are written to `gpu.json` in DIR (default:
benchmarks/results/) after each, and, after tuning, the chip's table to kernels/tuned/ and to DIR.
`--dry` runs every section on the CPU with hardly any work, to try the script out. Without a GPU it
prints and writes the static table (`kernels_static.json`): registers, shared memory, occupancy,
bytes, operations, lower time bounds.
"""

import argparse
import json
import multiprocessing
import os
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
from gpu_timing import DEVICE, DRY, few, synchronize, time_replays
from kernel_table import floors, kernels
from torch.nn import functional as F
from tuning import tune

import mammoth_compiled
from mammoth_compiled.kernels import check
from mammoth_compiled.kernels.discovery import tuning_cases
from mammoth_compiled.kernels.runtime.resources import compile_launch
from mammoth_compiled.kernels.runtime.tiles import chip_name
from mammoth_compiled.registry import backbones

REPOSITORY = Path(__file__).resolve().parents[1]
# Name and share of the budget of each section, in order of value.
SECTIONS = {
    "limits": 0.04,
    "loops": 0.32,
    "checks": 0.18,
    "tune": 0.16,
    "data": 0.04,
    "ops": 0.12,
    "seeds": 0.06,
    "steps": 0.08,
}


def run_checks(deadline):
    """Runs the tests that use a GPU, those of the kernels among them."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/kernels", "tests/compiled/test_gpu.py"]
    if not (REPOSITORY / "tests").is_dir():
        return {"passed": None, "summary": "there are no tests beside this script"}
    if DRY:
        command.append("--collect-only")
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
        size = 64 if DRY else 8192
        a, b = (torch.randn(size, size, device=DEVICE, dtype=dtype) for _ in range(2))
        product_ms = statistics.median(time_replays([lambda a=a, b=b: a @ b] * 3))
        found[f"product_{precision(dtype)}_TFLOP_s"] = 2 * size**3 / product_ms / 1e9
    one = torch.zeros(1, device=DEVICE)
    found["graph_node_us"] = 1e3 * statistics.median(time_replays([lambda: one.add_(1)] * 1000))
    return found


def _copy_rate(num_bytes=2**12 if DRY else 2**30):
    """TB/s, reading and writing counted."""
    source, target = (torch.zeros(num_bytes // 4, device=DEVICE) for _ in range(2))
    copy_ms = statistics.median(time_replays([lambda: target.copy_(source)]))
    return 2 * num_bytes / copy_ms / 1e9


def precompile():
    """Compiles all candidates on all cores, so that tuning finds them in Triton's cache."""
    if DRY:
        return
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
    cases = few(tuning_cases(), key=lambda case: case.op)
    best, left_out = tune(cases, deadline)
    write_table(best, out)
    return {"kernels": len(best), "problems": len(cases), "left_out": left_out}


def time_steps(deadline):
    """Whole training steps, images/s: eager, stock Inductor, its max-autotune, and ours."""
    rows = []
    for name in few(("cnn", "attention-cnn", "resnet18")):
        for batch in few((32, 128)):
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
            if DRY:
                del compilers["stock"], compilers["max-autotune"]
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
    net = backbones[name].target(num_classes=10).to(DEVICE, memory_format=torch.channels_last)
    lr = torch.tensor(0.01, device=DEVICE)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, fused=True)
    images = torch.randn(batch, 3, 32, 32, device=DEVICE)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,), device=DEVICE)
    forward = compiled(net)

    def run():
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=not DRY):
            logits = forward(images)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    for _ in range(3):
        run()
    return run


def _seconds(run, calls=1 if DRY else 50, rounds=1 if DRY else 5):
    times = []
    for _ in range(rounds):
        synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            run()
        synchronize()
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


def run_section(name, out, deadline):
    """Returns the results of one section."""
    if name == "ops":
        path = out / "gpu.json"
        rates = json.loads(path.read_text()).get("limits", {}) if path.exists() else {}
        if "copy_TB_s" not in rates:
            rates = limits()
        return time_ops(rates, out, deadline)
    if name == "tune":
        precompile()
        return tune_kernels(out, deadline)
    if name == "seeds":
        tiny = {"count": 2, "epochs": 1, "warm_up": 0} if DRY else {}
        return time_seeds(deadline, DEVICE, **tiny)
    with_deadline = {"checks": run_checks, "loops": time_loops, "steps": time_steps}
    if name in with_deadline:
        return with_deadline[name](deadline)
    return {"limits": limits, "data": time_data}[name]()


def run_apart(name, out, seconds):
    """Runs a section in a process of its own, and returns its results or why there are none."""
    part = out / f"gpu_{name}.part"
    part.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--section", name, "--out", out, "--budget", str(seconds)]
    # A section stops by itself where it can; the limit is for one that hangs.
    limit = seconds + max(15, 0.25 * seconds)
    try:
        done = subprocess.run([*map(str, command)], timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"not finished after {limit:.0f} s"}
    if not part.exists():
        return {"failed": f"it ended with exit code {done.returncode}"}
    results = json.loads(part.read_text())
    part.unlink()
    return results


def print_table(results):
    """Prints the training steps: time, kernels, speedup, and the largest kernels."""
    for row in results["loops"] if isinstance(results.get("loops"), list) else []:
        name = f"{row['model']} {row['backbone']} {row['batch']} {row['amp']}"
        for way in ("default", "whole"):
            if way not in row:
                continue
            found = row[way]
            time_us, gain = found["step_us"]["median"], found["speed_up"]["median"]
            print(f"{name} {way}: {time_us:.0f} us, {found['kernels']} kernels, {gain:.1f}x plain")
            for kernel, count, us in found["largest"]:
                print(f"    {us:8.1f} us  {count:3d}  {kernel[:80]}")
    for name in SECTIONS:
        section = results.get(name)
        failed = section.get("failed") if isinstance(section, dict) else None
        print(f"{name}: {failed or results['seconds'].get(name, 'skipped')}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results")
    parser.add_argument("--budget", type=float, default=480, help="seconds for everything")
    parser.add_argument("--skip", nargs="*", default=[], choices=SECTIONS)
    parser.add_argument("--dry", action="store_true", help="try it out on the CPU")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = "tf32"
    if args.section:
        found = run_section(args.section, args.out, time.monotonic() + args.budget)
        (args.out / f"gpu_{args.section}.part").write_text(json.dumps(found))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    if args.dry:
        os.environ["MAMMOTH_DRY"] = "1"
        if args.out == REPOSITORY / "benchmarks" / "results":
            parser.error("--dry needs --out: its numbers are not results")
    elif not torch.cuda.is_available():
        write_static_table(args.out)
        return
    results = {"timed": not args.dry, "mammoth_compiled": mammoth_compiled.__version__}
    if not args.dry:
        results["device"] = torch.cuda.get_device_name()
        results["chip"] = chip_name(torch.device("cuda"))
    results["seconds"] = {}
    end = time.monotonic() + args.budget
    for name, share in SECTIONS.items():
        if name in args.skip:
            continue
        begin = time.monotonic()
        # A dry run is about whether sections end, not about when.
        seconds = 10 * args.budget if args.dry else min(share * args.budget, end - begin)
        found = run_apart(name, args.out, seconds) if seconds > 1 else {"failed": "out of time"}
        results[name] = found
        results["seconds"][name] = round(time.monotonic() - begin, 1)
        write_results("gpu", results, args.out)
    print_table(results)
    print("written:", args.out / "gpu.json", environment()["gpu"])


if __name__ == "__main__":
    main()
