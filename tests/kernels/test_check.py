"""The check compiles kernels for absent chips and finds their faults."""

import os
import re

import pytest

from mammoth_compiled.kernels import check
from mammoth_compiled.kernels.discovery import triton_op_names

pytestmark = pytest.mark.usefixtures("triton_kernels")


@pytest.mark.slow
@pytest.mark.parametrize("op", triton_op_names())
def test_first_case_of_every_op_passes(run_python, op):
    argv = ["-m", "mammoth_compiled.kernels.check", op, "--first", "--chips", "90"]
    done = run_python(*argv, TRITON_INTERPRET="0", HOME=os.environ["HOME"])
    assert done.returncode == 0, done.stdout + done.stderr
    count = re.search(r"(\d+) kernels compiled, 0 failed", done.stdout)
    assert count
    assert int(count[1]) > 0


def test_unknown_op_is_named(capsys):
    with pytest.raises(SystemExit):
        check.main(["convolution"])
    assert "unknown: convolution; operations are" in capsys.readouterr().err


FAULTY = """
import torch, triton, triton.language as tl
from mammoth_compiled.kernels.runtime.launch import Launch
from mammoth_compiled.kernels.runtime.resources import find_faults
from mammoth_compiled.kernels.runtime.tiles import TileConfig

@triton.jit
def product(a, b, c, N: tl.constexpr, PRECISION: tl.constexpr):
    i = tl.arange(0, N)
    at = i[:, None] * N + i[None, :]
    tl.store(c + at, tl.dot(tl.load(a + at), tl.load(b + at), input_precision=PRECISION))

def faults(n, dtype, precision, warps=4):
    tensor = torch.empty(n, n, dtype=dtype, device="meta")
    args = (tensor, tensor, tensor.float())
    config = TileConfig("faulty.product", (), warps, 1)
    launch = Launch(product, (1,), args, {"N": n, "PRECISION": precision}, config)
    return "; ".join(find_faults(launch, 90)[0]) or "none"

print(faults(64, torch.bfloat16, "ieee"))
print(faults(128, torch.float32, "ieee"))
print(faults(256, torch.float32, "tf32"))
"""


@pytest.mark.slow
def test_spills_and_excess_shared_memory_are_found(run_python, tmp_path):
    script = tmp_path / "faulty.py"
    script.write_text(FAULTY)
    done = run_python(script, TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stderr
    fine, spilled, large = done.stdout.splitlines()
    assert fine == "none"
    assert "registers spill" in spilled
    assert "more shared memory than the 232448 bytes" in large or "spill" in large
