"""The static table: what every kernel uses of a chip, and a lower time bound for every case.

python benchmarks/kernel_table.py [OP ...]     (needs no GPU; compiles for three chips)
"""

import json
import math
import sys

from common import RESULTS, write_results

from mammoth_compiled.kernels import check
from mammoth_compiled.kernels.discovery import triton_op_names, tuning_cases
from mammoth_compiled.kernels.runtime.resources import compile_launch

# Data sheets: bytes/s of memory, dense operations/s in bfloat16 and tf32, shared memory of a
# multiprocessor in bytes. A100 SXM 80 GB, H100 SXM, B200.
CHIPS = {
    80: ("A100", 2.04e12, 312e12, 156e12, 164 * 1024),
    90: ("H100", 3.35e12, 989e12, 495e12, 228 * 1024),
    100: ("B200", 8.0e12, 2250e12, 1125e12, 228 * 1024),
}
REGISTERS, THREADS, PROGRAMS = 64 * 1024, 2048, 32  # of a multiprocessor, all three chips


def occupancy(resources, num_warps, shared):
    """The estimated share of a multiprocessor's threads that can be resident."""
    # Registers are allocated to warps in blocks of 256; a program also reserves 1 KiB.
    warp_registers = math.ceil(resources.registers * 32 / 256) * 256
    limits = [
        PROGRAMS,
        THREADS // (32 * num_warps),
        REGISTERS // (warp_registers * num_warps),
        shared // (resources.shared + 1024),
    ]
    return min(limits) * 32 * num_warps / THREADS


def kernels(ops, chips=tuple(CHIPS)):
    """Yields a row per kernel, case and chip, with the first of the candidates."""
    seen = set()
    for op in ops:
        for chip in chips:
            for problem, launch in check.candidate_launches(op, chip):
                key = launch.config.kernel, problem, chip
                if key in seen:
                    continue
                seen.add(key)
                used = compile_launch(launch, chip)
                if used.stack:
                    raise SystemExit(f"{launch.config} [{problem}] spills registers on sm_{chip}")
                yield {
                    "kernel": launch.config.kernel,
                    "problem": problem,
                    "config": str(launch.config),
                    "chip": f"sm_{chip}",
                    "registers": used.registers,
                    "shared_bytes": used.shared,
                    "occupancy": round(occupancy(used, launch.config.num_warps, CHIPS[chip][4]), 2),
                    "tensor_core_instructions": used.tensor_cores,
                }


def floors():
    """One row per case and chip: a time that no implementation can beat."""
    for case in tuning_cases():
        work = case.work()
        for chip, (name, bandwidth, half, tf32, _) in CHIPS.items():
            rate = tf32 if case.dtype.itemsize == 4 else half
            memory, compute = work.num_bytes / bandwidth, work.num_flops / rate
            yield {
                "op": case.op,
                "problem": str(case),
                "chip": f"sm_{chip} {name}",
                "bytes": work.num_bytes,
                "operations": work.num_flops,
                "floor_us": round(1e6 * max(memory, compute), 3),
                "bound": "memory" if memory > compute else "compute",
            }


def write_static_table(out, ops=()):
    """Prints and writes the resources of kernels, and the bounds of all cases.

    Args:
        out: Folder of `kernels_static.json`.
        ops: Operations to compile; the rows of others stay. Empty for all.
    """
    path, rows = out / "kernels_static.json", []
    for row in kernels(ops or triton_op_names()):
        rows.append(row)
        print("  ".join(str(value) for value in row.values()), flush=True)
    if ops and path.exists():
        held = json.loads(path.read_text())["kernels"]
        rows += [row for row in held if row["kernel"].partition(".")[0] not in ops]
    print("no GPU: nothing was timed")
    result = {"timed": False, "kernels": rows, "floors": list(floors())}
    print("written:", write_results("kernels_static", result, out))


if __name__ == "__main__":
    write_static_table(RESULTS, sys.argv[1:])
