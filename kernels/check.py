"""python -m mammoth_compiled.kernels.check: compiles every kernel for GPUs that are not there.

Every candidate configuration of every kernel is compiled to machine code for each chip. It fails if
registers spill, shared memory is over the chip's limit, or a matrix product does not run on tensor
cores.
"""

import argparse
import importlib
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mammoth_compiled.kernels.configs import Config, Policy, choosing
from mammoth_compiled.kernels.launch import Launch, has_triton, recording
from mammoth_compiled.kernels.problem import Problem

# Shared memory that one program may have, bytes: CUDA programming guide, compute capabilities.
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
TENSOR_CORES = re.compile(r"\b(mma\.sync|wgmma\.mma_async|tcgen05\.mma)")


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel takes.

    Attributes:
        registers: Registers of a thread.
        stack: Bytes of local memory of a thread; above 0 if registers spill.
        shared: Bytes of shared memory of a program.
        tensor_cores: Number of tensor-core instructions in the code.
    """

    registers: int
    stack: int
    shared: int
    tensor_cores: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0 if all is well, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m mammoth_compiled.kernels.check",
        description="Compiles every kernel configuration without a GPU and checks what it takes.",
    )
    parser.add_argument(
        "ops", nargs="*", metavar="OP", help=f"one of {', '.join(op_names())}; all if left out"
    )
    parser.add_argument("--chips", type=int, nargs="+", default=list(SHARED_LIMIT), metavar="SM")
    parser.add_argument("--first", action="store_true", help="only the first problem of each kind")
    parser.add_argument("--quiet", action="store_true", help="show failures only")
    args = parser.parse_args(arguments)
    unknown = (set(args.ops) - set(op_names())) | {c for c in args.chips if c not in SHARED_LIMIT}
    if unknown:
        parser.error(
            f"unknown: {', '.join(map(str, sorted(unknown, key=str)))}; operations are "
            f"{', '.join(op_names())}, chips are {', '.join(map(str, SHARED_LIMIT))}"
        )
    if not has_triton():
        parser.error("Triton is not installed: pip install triton")
    compiled = failed = 0
    for op in args.ops or op_names():
        for chip in args.chips:
            for problem, launched in launches(op, chip, first=args.first):
                faults, resources = examine(launched, chip)
                compiled, failed = compiled + 1, failed + bool(faults)
                if faults or not args.quiet:
                    verdict = f"FAILED: {'; '.join(faults)}" if faults else "ok"
                    line = f"sm_{chip} {launched.config.kernel} [{problem}] {launched.config}"
                    sys.stdout.write(f"{line}: {resources or ''} {verdict}\n")
                    sys.stdout.flush()
    sys.stdout.write(f"{compiled} kernels compiled, {failed} failed\n")
    return 1 if failed else 0


def op_names() -> list[str]:
    """Returns the operations that have Triton kernels."""
    return sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent / "gpu")]))


def problems(op: str) -> list[Problem]:
    """Returns the problems that an operation's kernels are checked with."""
    module = importlib.import_module(f"mammoth_compiled.kernels.gpu.{op}")
    return list(module.problems())


def launches(op: str, chip: int, *, first: bool = False) -> Iterator[tuple[str, Launch]]:
    """Yields the launches of an operation's problems with every candidate configuration, once each.

    Args:
        op: Name of the operation.
        chip: 90 for sm_90.
        first: Take the first problem only.
    """
    seen: set[Any] = set()
    for problem in problems(op)[: 1 if first else None]:
        fitting = _candidates(problem, chip)
        for number in range(max(map(len, fitting.values()))):
            with recording() as launched, choosing(_take(number), f"sm_{chip}"):
                problem.call()
            for launch in launched:
                key = (launch.config, *_signature(launch, hashable=True))
                if key not in seen:
                    seen.add(key)
                    yield problem.name, launch


def resources(launch: Launch, chip: int) -> Resources:
    """Compiles a launch for a chip, given as 90 for sm_90, and returns what it takes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constants, attributes = _signature(launch)
    source = ASTSource(launch.kernel, signature, constants, attributes)
    options = {"num_warps": launch.config.num_warps, "num_stages": launch.config.num_stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", chip, 32), options=options)
    registers, stack = _usage(compiled.asm["cubin"])
    found = len(TENSOR_CORES.findall(compiled.asm["ptx"]))
    return Resources(registers, stack, compiled.metadata.shared, found)


def examine(launch: Launch, chip: int) -> tuple[list[str], Resources | None]:
    """Compiles a launch for a chip and returns what is wrong with it, and what it takes."""
    try:
        took = resources(launch, chip)
    except Exception as error:  # the compiler's errors share no base class
        return [f"does not compile ({type(error).__name__}: {error})"], None
    faults = []
    if took.stack:
        faults.append(f"{took.stack} bytes of registers spill")
    if took.shared > SHARED_LIMIT[chip]:
        faults.append(f"more shared memory than the {SHARED_LIMIT[chip]} bytes of the chip")
    if _wants_tensor_cores(launch) and not took.tensor_cores:
        faults.append("no tensor-core instruction")
    return faults, took


def _wants_tensor_cores(launch: Launch) -> bool:
    """Returns whether a kernel takes products that tensor cores can: all but strict float32."""
    precision = launch.constants.get("PRECISION")
    operand = next(arg.dtype for arg in launch.args if isinstance(arg, torch.Tensor))
    return precision == "tf32" or (precision is not None and operand != torch.float32)


def _take(number: int) -> Policy:
    return lambda _, fitting: fitting[min(number, len(fitting) - 1)]


def _candidates(problem: Problem, chip: int) -> dict[str, list[Config]]:
    found: dict[str, list[Config]] = {}

    def note(_: str, fitting: list[Config]) -> Config:
        found[fitting[0].kernel] = fitting
        return fitting[0]

    with recording(), choosing(note, f"sm_{chip}"):
        problem.call()
    return found


_TYPES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "i1",
}


def _signature(launch: Launch, *, hashable: bool = False) -> Any:
    """Returns types, constants and divisibility as the launcher of Triton would specialise them."""
    names = [name for name in launch.kernel.arg_names if name not in launch.constants]
    signature: dict[str, str] = {}
    constants: dict[str, Any] = dict(launch.constants)
    attributes: dict[tuple[int, ...], Any] = {}
    for name, value in zip(names, launch.args, strict=True):
        position = (launch.kernel.arg_names.index(name),)
        if isinstance(value, torch.Tensor):
            signature[name] = f"*{_TYPES[value.dtype]}"
            attributes[position] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        elif value == 1 or value is None:
            signature[name], constants[name] = "constexpr", value
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0:
                attributes[position] = [["tt.divisibility", 16]]
    signature |= dict.fromkeys(launch.constants, "constexpr")
    if hashable:
        return tuple(
            (name, signature[name], str(constants.get(name)), str(attributes.get((i,))))
            for i, name in enumerate(launch.kernel.arg_names)
        )
    return {name: signature[name] for name in launch.kernel.arg_names}, constants, attributes


def _usage(cubin: bytes) -> tuple[int, int]:
    """Returns registers and stack bytes of a thread, as the CUDA tools read them."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+)", text)
    if match is None:
        raise RuntimeError(f"cuobjdump says nothing of registers: {text!r}")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    sys.exit(main())
