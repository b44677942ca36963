"""3x3 convolutions on this machine's CPU: torch and the C++ kernels, with AVX-512 and with AVX2.

    python benchmarks/cpu_convolutions.py [--rounds 9]

Channels-last images, float32, interleaved: forward, input gradient and weight gradient, each alone;
and convolution, ReLU and 2x2 pooling, forward and backward, against torch's convolution followed by
Inductor's code for `kernels.relu_pool`. Also the largest error against float64, relative to the
largest value. MIN_CHANNELS and MIN_CPP_FILTERS of the kernels follow from the results.
"""

import argparse
import os

import torch
from common import fresh_process, interleaved, ratio, spread, write_results
from torch.nn import functional as F

from mammoth_compiled.device import keep_freed_memory
from mammoth_compiled.kernels.conv3x3 import cases as conv3x3
from mammoth_compiled.kernels.conv3x3 import cpp, reference
from mammoth_compiled.kernels.conv_relu_pool import cases as conv_relu_pool
from mammoth_compiled.kernels.conv_relu_pool import conv_relu_pool_cpp_op
from mammoth_compiled.kernels.relu_pool import relu_pool
from mammoth_compiled.kernels.runtime import cpp_library


def images(*shape):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def error(result, exact):
    return ((result.double() - exact).abs().max() / exact.abs().max()).item()


def convolutions(shape, rounds):
    batch, inputs, outputs, size = shape
    x, grad = images(batch, inputs, size, size), images(batch, outputs, size, size)
    weight = torch.randn(outputs, inputs, 3, 3) / (9 * inputs) ** 0.5
    parts = {
        "forward": (reference.forward, cpp.forward, (x, weight, None)),
        "input_grad": (reference.input_grad, cpp.input_grad, (grad, weight)),
        "weight_grad": (reference.weight_grad, cpp.weight_grad, (grad, x, weight)),
    }
    result = {}
    for name, (torchs, ours, args) in parts.items():
        exact = torchs(*(None if t is None else t.double() for t in args))
        functions = {"torch": lambda f=torchs, a=args: f(*a), "cpp": lambda f=ours, a=args: f(*a)}
        errors = {k: error(f(), exact) for k, f in functions.items()}
        times = interleaved(functions, rounds, 3)
        result[name] = {
            "ms": {k: spread(v) for k, v in times.items()},
            "speed_up": ratio(times, "torch", "cpp"),
            "error": errors,
        }
    return result


def pooled(shape, rounds):
    batch, inputs, outputs, size = shape
    x = images(batch, inputs, size, size).requires_grad_(inputs > 3)
    weight = (torch.randn(outputs, inputs, 3, 3) / (9 * inputs) ** 0.5).requires_grad_()
    bias = torch.randn(outputs, requires_grad=True)
    leaves = [leaf for leaf in (x, weight, bias) if leaf.requires_grad]

    def by_torch(x, weight, bias):
        return relu_pool(F.conv2d(x, weight, bias, padding=1), (2, 2))

    def by_cpp(x, weight, bias):
        return conv_relu_pool_cpp_op(x, weight, bias)[0]

    functions = {}
    for name, function in (("torch", by_torch), ("cpp", by_cpp)):
        compiled = torch.compile(function, dynamic=False)
        grad = torch.randn_like(compiled(x, weight, bias))
        functions[name] = lambda f=compiled, g=grad: torch.autograd.grad(
            f(x, weight, bias), leaves, g
        )
        functions[name]()
    times = interleaved(functions, rounds, 3)
    return {
        "ms": {k: spread(v) for k, v in times.items()},
        "speed_up": ratio(times, "torch", "cpp"),
    }


def measure(kind, shape, rounds):
    """Measures one problem in this process; the instruction set is in its environment."""
    keep_freed_memory()
    assert not cpp_library.unavailable_reason(), cpp_library.unavailable_reason()
    return {"convolution": convolutions, "pooled": pooled}[kind](shape, rounds)


def summary(name, r):
    ms, up = r["ms"], r["speed_up"]
    return (
        f"{name} {ms['torch']['median']:.2f} / {ms['cpp']['median']:.2f} ms, {up['median']:.2f} "
        f"[{up['p20']:.2f}, {up['p80']:.2f}]"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    own = torch.backends.cpu.get_cpu_capability()
    results = {}
    for capability in dict.fromkeys((own, "AVX2")):
        # Read when torch and oneDNN start.
        os.environ |= {"ATEN_CPU_CAPABILITY": capability.lower()}
        if capability != own:
            os.environ |= {"ONEDNN_MAX_CPU_ISA": capability}
        results[capability] = {"convolution": {}, "pooled": {}}
        with fresh_process() as fresh:
            for kind, shapes in (
                ("convolution", conv3x3.CPU_SHAPES),
                ("pooled", conv_relu_pool.CPU_SHAPES),
            ):
                for shape in shapes:
                    r = fresh.submit(measure, kind, shape, args.rounds).result()
                    name = "{}x{}->{} at {}".format(*shape)
                    results[capability][kind][name] = r
                    parts = r.items() if kind == "convolution" else [("both ways", r)]
                    print(
                        f"{capability} {kind} {name}:",
                        "; ".join(summary(*part) for part in parts),
                        flush=True,
                    )
    print("written:", write_results("cpu_convolutions", {"instruction_sets": results}))


if __name__ == "__main__":
    main()
