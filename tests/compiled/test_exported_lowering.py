"""The kernels that Inductor launches for exported and rewritten graphs on a fake GPU."""

import importlib.util
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[1] / "programs" / "lower_exported.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton"),
]


@pytest.fixture
def launches(run_python):
    """Returns a function that lists the launches of a backbone, Inductor's own as "inductor"."""

    def of(backbone):
        # Without a GPU these tests set the interpreter.
        done = run_python(PROGRAM, backbone, TRITON_INTERPRET="0")
        assert done.returncode == 0, done.stderr
        names = done.stdout.split()
        return ["inductor" if word.startswith("triton_") else word for word in names]

    return of


def test_two_layers_are_two_kernels(launches):
    # Channels-last from the first kernel to the last; nothing is filled or reordered in between.
    assert launches("cnn") == [
        "inductor",
        "forward_kernel_0.run",
        "forward_kernel_1.run",
        "inductor",
        "extern_kernels.addmm",
    ]


def test_attention_is_one_kernel(launches):
    launched = launches("attention-cnn")
    assert [name for name in launched if name.startswith("forward_kernel")] == [
        "forward_kernel_0.run",
        "forward_kernel_1.run",
    ]
    assert not {"extern_kernels.bmm", "extern_kernels.baddbmm"} & set(launched)
    # The first attention has too many tokens for joint projections.
    assert launched[: launched.index("forward_kernel_0.run")].count("extern_kernels.mm") == 3
    between = launched[
        launched.index("forward_kernel_0.run") : launched.index("forward_kernel_1.run")
    ]
    assert between.count("extern_kernels.addmm") == 1
