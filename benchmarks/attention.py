"""Softmax attention on this machine's CPU: eager mode, stock Inductor, torch's fused attention.

    python benchmarks/attention.py [--rounds 9]

Forward and backward, float32, interleaved. `MIN_CPU_TOKENS` of the kernel follows from the results.
"""

import argparse

import torch
from common import interleaved, ratio, spread, write_results
from torch.nn import functional as F

SHAPES = ((8, 1024, 64), (8, 512, 64), (16, 256, 128), (32, 128, 64), (96, 64, 64))


def written_out(query, key, value):
    scores = torch.bmm(query, key.transpose(1, 2)) * query.shape[-1] ** -0.5
    return torch.bmm(torch.softmax(scores, -1), value)


def fused(query, key, value):
    query, key, value = (t.unsqueeze(1) for t in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).squeeze(1)


def step(function, inputs, grad):
    def run():
        function(*inputs).backward(grad)

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    results = {}
    for shape in SHAPES:
        torch._dynamo.reset()
        inputs = [torch.randn(shape, requires_grad=True) for _ in range(3)]
        grad = torch.randn(shape)
        functions = {
            "eager": written_out,
            "stock": torch.compile(written_out, dynamic=False),
            "fused": torch.compile(fused, dynamic=False),
        }
        steps = {name: step(function, inputs, grad) for name, function in functions.items()}
        for run in steps.values():
            run()
        times = interleaved(steps, args.rounds, 3)
        name = "x".join(map(str, shape))
        r = results[name] = {
            "ms": {k: spread(v) for k, v in times.items()},
            "fused_over_stock": ratio(times, "stock", "fused"),
            "fused_over_eager": ratio(times, "eager", "fused"),
        }
        print(
            f"{name:12s} "
            + "  ".join(f"{k} {v['median']:.2f} ms" for k, v in r["ms"].items())
            + f"  fused over stock {r['fused_over_stock']['median']:.2f}",
            flush=True,
        )
    print("written:", write_results("attention", {"shapes": results}))


if __name__ == "__main__":
    main()
