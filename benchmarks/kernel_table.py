"""What every kernel takes of a chip, and the floor under every problem: known without a GPU."""

import math

from gpu_problems import ATTENTION, CONVOLUTIONS, attention_work, conv_work

from mammoth_compiled.kernels import check

# Data sheets: bytes/s of memory, dense operations/s in bfloat16 and tf32, shared memory of a
# multiprocessor in bytes. A100 SXM 80 GB, H100 SXM, B200.
CHIPS = {
    80: ("A100", 2.04e12, 312e12, 156e12, 164 * 1024),
    90: ("H100", 3.35e12, 989e12, 495e12, 228 * 1024),
    100: ("B200", 8.0e12, 2250e12, 1125e12, 228 * 1024),
}
REGISTERS, THREADS, PROGRAMS = 64 * 1024, 2048, 32  # of a multiprocessor, all three chips


def occupancy(resources, num_warps, shared):
    """The share of a multiprocessor's threads that can be resident, an estimate."""
    # Registers are handed out to warps in blocks of 256; a program also takes 1 KiB for itself.
    of_warp = math.ceil(resources.registers * 32 / 256) * 256
    limits = [
        PROGRAMS,
        THREADS // (32 * num_warps),
        REGISTERS // (of_warp * num_warps),
        shared // (resources.shared + 1024),
    ]
    return min(limits) * 32 * num_warps / THREADS


def kernels(chips=tuple(CHIPS)):
    """One row per kernel, configuration and chip."""
    for op in check.op_names():
        for chip in chips:
            for problem, launch in check.launches(op, chip):
                took = check.resources(launch, chip)
                yield {
                    "kernel": launch.config.kernel,
                    "problem": problem,
                    "config": str(launch.config),
                    "chip": f"sm_{chip}",
                    "registers": took.registers,
                    "shared_bytes": took.shared,
                    "occupancy": round(occupancy(took, launch.config.num_warps, CHIPS[chip][4]), 2),
                    "tensor_core_instructions": took.tensor_cores,
                }


def floors():
    """One row per problem and chip: the time below which no implementation can come."""
    rows = [("conv_relu_pool", p, conv_work(p)) for p in CONVOLUTIONS]
    rows += [("attention", p, attention_work(p)) for p in ATTENTION]
    for op, problem, work in rows:
        for chip, (name, bandwidth, half, tf32, _) in CHIPS.items():
            rate = tf32 if problem.dtype.itemsize == 4 else half
            memory, compute = work.bytes_moved / bandwidth, work.operations / rate
            yield {
                "op": op,
                "problem": str(problem),
                "chip": f"sm_{chip} {name}",
                "bytes": work.bytes_moved,
                "operations": work.operations,
                "floor_us": round(1e6 * max(memory, compute), 3),
                "bound": "memory" if memory > compute else "compute",
            }
