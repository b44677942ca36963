"""Final accuracy of the built-in models on the packaged images, over several seeds.

python benchmarks/accuracy.py [--models sgd er der derpp joint] [--seeds 3] [--n_epochs 3]
"""

import argparse
import contextlib
import io
import statistics

from common import write_results

import mammoth_compiled as mc


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["sgd", "er", "der", "derpp", "joint"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dataset", default="seq-fmnist-mini")
    parser.add_argument("--backbone", default="cnn")
    parser.add_argument("--n_epochs", type=int, default=3)
    args = parser.parse_args()
    table = {}
    for name in args.models:
        runs = []
        for seed in range(args.seeds):
            given = {"backbone": args.backbone, "n_epochs": args.n_epochs, "seed": seed}
            with contextlib.redirect_stdout(io.StringIO()):
                model, dataset = mc.load_runner(name, args.dataset, {**given, "compile": "on"})
                runs.append(mc.train(model, dataset).summary())
        row = {}
        for key in ("class_il", "task_il", "forgetting_class_il"):
            values = [run[key] for run in runs]
            if None not in values:
                deviation = statistics.stdev(values) if len(values) > 1 else 0.0
                row[key] = {"mean": statistics.mean(values), "sd": deviation, "values": values}
        table[name] = {**row, "train_s": [run["train_s"] for run in runs]}
        text = "  ".join(f"{k} {100 * v['mean']:.2f} ± {100 * v['sd']:.2f}" for k, v in row.items())
        print(f"{name:6s} {text}", flush=True)
    print("written:", write_results("accuracy", {"setting": vars(args), "models": table}))


if __name__ == "__main__":
    main()
