"""Compiles recorded launches for chips that need not be present, and reads what they use."""

import functools
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mammoth_compiled.kernels.runtime.launch import Launch

# Shared memory that one program may have, bytes: CUDA programming guide, compute capabilities.
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
TENSOR_CORES = re.compile(r"\b(mma\.sync|wgmma\.mma_async|tcgen05\.mma)")


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel uses.

    Attributes:
        registers: Registers per thread.
        stack: Bytes of local memory per thread; above 0 if registers spill.
        shared: Bytes of shared memory per program.
        tensor_cores: Number of tensor-core instructions in the code.
    """

    registers: int
    stack: int
    shared: int
    tensor_cores: int


def compile_launch(launch: Launch, chip: int) -> Resources:
    """Compiles a launch for a chip, 90 for sm_90, and returns what it uses.

    The source is as compiled graphs have it, not as the module of the kernel does.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constants, attributes = _specialization(launch)
    source = ASTSource(_as_in_graphs(launch.kernel), signature, constants, attributes)
    options = {"num_warps": launch.config.num_warps, "num_stages": launch.config.num_stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", chip, 32), options=options)
    registers, stack = _read_usage(compiled.asm["cubin"])
    tensor_cores = len(TENSOR_CORES.findall(compiled.asm["ptx"]))
    return Resources(registers, stack, compiled.metadata.shared, tensor_cores)


@functools.cache
def _as_in_graphs(kernel: Any) -> Any:
    """Returns a kernel from the source that Inductor copies into the code of a graph.

    With it come the functions and constants that it uses, but no imports of its module.
    """
    from torch._inductor.codecache import PyCodeCache
    from torch._inductor.codegen import wrapper

    copied: Any = wrapper.user_defined_triton_kernel_transitive_closure_source_code
    text = f"import triton\nimport triton.language as tl\n\n@triton.jit\n{copied(kernel)}"
    return getattr(PyCodeCache.load(text), kernel.__name__)


def find_faults(launch: Launch, chip: int) -> tuple[list[str], Resources | None]:
    """Compiles a launch for a chip and returns what is wrong with it, and what it uses.

    At fault are spilled registers, more shared memory than the chip has, and matrix multiplications
    that should run on tensor cores but do not.
    """
    try:
        used = compile_launch(launch, chip)
    except Exception as error:  # the compiler's errors share no base class
        return [f"does not compile ({type(error).__name__}: {error})"], None
    faults = []
    if used.stack:
        faults.append(f"{used.stack} bytes of registers spill")
    if used.shared > SHARED_LIMIT[chip]:
        faults.append(f"more shared memory than the {SHARED_LIMIT[chip]} bytes of the chip")
    if _needs_tensor_cores(launch) and not used.tensor_cores:
        faults.append("no tensor-core instruction")
    return faults, used


def launch_key(launch: Launch) -> tuple[Any, ...]:
    """Returns what launches have in common that compile to the same machine code."""
    signature, constants, attributes = _specialization(launch)
    return launch.config, *(
        (name, signature[name], str(constants.get(name)), str(attributes.get((i,))))
        for i, name in enumerate(launch.kernel.arg_names)
    )


def _needs_tensor_cores(launch: Launch) -> bool:
    """Returns whether a kernel multiplies what tensor cores can: all but strict float32."""
    precision = launch.constants.get("PRECISION")
    operand = next(arg.dtype for arg in launch.args if isinstance(arg, torch.Tensor))
    return precision == "tf32" or (precision is not None and operand != torch.float32)


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


def _specialization(
    launch: Launch,
) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int, ...], Any]]:
    """Returns types, constants and divisibility as Triton's launcher would specialize them."""
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
    return {name: signature[name] for name in launch.kernel.arg_names}, constants, attributes


def _read_usage(cubin: bytes) -> tuple[int, int]:
    """Returns registers and stack bytes per thread, as reported by the CUDA tools."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+)", text)
    if match is None:
        raise RuntimeError(f"cuobjdump reports no registers: {text!r}")
    return int(match[1]), int(match[2])
