"""3x3 convolutions on this machine's CPU: torch's and those in C++, with AVX-512 and with AVX2.

    python benchmarks/cpu_convolutions.py [--rounds 9]

Images in channels-last, float32, in turns: forward, gradient of the images and of the weight, each
alone; and convolution, relu and 2x2 pooling, forward and backward, by torch's convolution with the
pooling that Inductor makes of `kernels.relu_pool`. Also the largest error against float64, in parts
of the largest value. The figures behind FEWEST_CHANNELS and FEWEST_FILTERS of the patterns.
"""

import argparse
import os

import torch
from common import interleaved, process, ratio, spread, write_results
from torch.nn import functional as F

from mammoth_compiled.device import keep_freed_memory
from mammoth_compiled.kernels import conv3x3, conv_relu_pool
from mammoth_compiled.kernels.cpu import convolution, library
from mammoth_compiled.kernels.relu_pool import relu_pool

# Batch, input channels, output channels, height and width.
CONVOLUTIONS = (
    (32, 16, 16, 32),
    (32, 24, 24, 32),
    (32, 32, 32, 16),
    (32, 32, 64, 16),
    (32, 40, 40, 16),
    (32, 64, 64, 32),
    (32, 128, 128, 16),
    (32, 256, 256, 8),
    (32, 512, 512, 4),
    (8, 64, 64, 56),
)
POOLED = ((32, 3, 16, 32), (32, 3, 32, 32), (32, 32, 64, 16), (64, 32, 64, 16), (32, 64, 128, 16))


def images(*shape):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def error(result, exact):
    return ((result.double() - exact).abs().max() / exact.abs().max()).item()


def convolutions(shape, rounds):
    batch, inputs, outputs, size = shape
    x, grad = images(batch, inputs, size, size), images(batch, outputs, size, size)
    weight = torch.randn(outputs, inputs, 3, 3) / (9 * inputs) ** 0.5
    parts = {
        "forward": (conv3x3.reference, convolution.conv3x3, (x, weight, None)),
        "input_grad": (conv3x3.reference_input_grad, convolution.input_grad, (grad, weight)),
        "weight_grad": (conv3x3.reference_weight_grad, convolution.weight_grad, (grad, x, weight)),
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
        return conv_relu_pool.conv_relu_pool_cpu_op(x, weight, bias)[0]

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
    assert not library.why_not(), library.why_not()
    return {"convolution": convolutions, "pooled": pooled}[kind](shape, rounds)


def told(name, r):
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
        with process() as fresh:
            for kind, shapes in (("convolution", CONVOLUTIONS), ("pooled", POOLED)):
                for shape in shapes:
                    r = fresh.submit(measure, kind, shape, args.rounds).result()
                    name = "{}x{}->{} at {}".format(*shape)
                    results[capability][kind][name] = r
                    parts = r.items() if kind == "convolution" else [("both ways", r)]
                    print(
                        f"{capability} {kind} {name}:",
                        "; ".join(told(*part) for part in parts),
                        flush=True,
                    )
    print("written:", write_results("cpu_convolutions", {"instruction_sets": results}))


if __name__ == "__main__":
    main()
