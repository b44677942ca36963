"""Runs Mammoth's own files of methods beside ours, with the same settings and seeds.

    python benchmarks/peers.py MAMMOTH [--methods er-ace icarl] [--seeds 3] [--dataset NAME]

MAMMOTH is a checkout of Mammoth. Its files are renamed by `mammoth_compiled.compat` into a
temporary folder; none of their text is kept. What an ordering of methods owes to our code and
what to the protocol shows in the difference of the two. Runs of ours with these settings that are
in `reproduction.json` are not repeated. Rows of other methods, datasets, backbones and buffer
sizes stay in `peers.json`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import RESULTS, mean_and_deviation, write_results

from mammoth_compiled import get_avail_args
from mammoth_compiled.config.experiments import resolve_experiments
from mammoth_compiled.results import Results

# What Mammoth's file switches on by default and the paper does not have.
SWITCHES = {"er-ace": {"use_custom_classifier": "0"}}


def settings(method: str, dataset: str, backbone: str, buffer_size: int) -> dict[str, Any]:
    """Returns the arguments that a method runs with here: its own ones, and the learning rate."""
    values: dict[str, Any] = {"model": method, "dataset": dataset, "backbone": backbone}
    values["n_epochs"] = 1
    own = set().union(*get_avail_args(model=method)) - set().union(*get_avail_args(model="sgd"))
    if "buffer_size" in own:
        values["buffer_size"] = buffer_size
    config = vars(resolve_experiments([], values)[0].args)
    own -= {"buffer_policy"}  # Mammoth's methods choose theirs
    names = sorted((own | {"lr", "optim_wd", "optim_mom", "batch_size"}) & set(config))
    return values | {name: config[name] for name in names if config[name] is not None}


def run(values: dict[str, Any], seed: int, folder: Path, module: Path | None = None) -> float:
    """Returns the class-IL accuracy of a run in a process of its own, in [0, 1].

    Raises:
        SystemExit: If it fails; with the last lines that it printed.
    """
    folder.mkdir()
    path = folder / "results.json"
    words = [f"--{name}={value}" for name, value in {**values, "seed": seed}.items()]
    command = [sys.executable, "-m", "mammoth_compiled.run", *words, "--out", str(folder / "out")]
    command += ["--results_path", str(path), "--quiet"]
    command += [] if module is None else ["--import", str(module)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)}\n{ended.stderr[-2000:]}")
    return Results.read_json(path).summary()["class_il"]


def renamed(mammoth: Path, method: str, folder: Path) -> Path:
    """Writes Mammoth's file of a method with our imports, and returns its path."""
    name = f"{method.replace('-', '_')}.py"
    command = [sys.executable, "-m", "mammoth_compiled.compat", str(mammoth / "models" / name)]
    subprocess.run([*command, "--out", str(folder)], check=True, capture_output=True)
    return folder / name


def peer_arguments(values: dict[str, Any], module: Path, method: str) -> dict[str, Any]:
    """Returns the values whose arguments Mammoth's file has too."""
    text = module.read_text()
    common = {"model", "dataset", "backbone", "n_epochs", "lr", "batch_size", "buffer_size"}
    common |= {"optim_wd", "optim_mom"}
    kept = {name: v for name, v in values.items() if name in common or f"'--{name}'" in text}
    return kept | SWITCHES.get(method, {})


def recorded(settings: dict[str, Any]) -> dict[int, float]:
    """Returns, by seed, the class-IL accuracies of runs with these settings that are known."""
    path = RESULTS / "reproduction.json"
    protocols = json.loads(path.read_text())["protocols"].values() if path.is_file() else ()
    rows = (row for protocol in protocols for row in protocol["rows"])
    return {
        seed: value
        for row in rows
        if settings.items() <= row["settings"].items()
        for seed, value in zip(row["seeds"], row["class_il"]["values"], strict=True)
    }


def main() -> None:
    """Runs the pairs, one seed after the other, and writes them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("mammoth", type=Path, help="A checkout of Mammoth.")
    parser.add_argument("--methods", nargs="+", default=["er", "er-ace", "icarl", "xder-ce"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dataset", default="seq-fmnist-mini")
    parser.add_argument("--backbone", default="cnn")
    parser.add_argument("--buffer_size", type=int, default=200)
    args = parser.parse_args()
    path = RESULTS / "peers.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    for method in args.methods:
        ours: list[float] = []
        theirs: list[float] = []
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            values = settings(method, args.dataset, args.backbone, args.buffer_size)
            module = renamed(args.mammoth, method, folder)
            given, known = peer_arguments(values, module, method), recorded(values)
            for seed in range(args.seeds):
                ours.append(
                    known[seed] if seed in known else run(values, seed, folder / f"ours{seed}")
                )
                theirs.append(run(given, seed, folder / f"theirs{seed}", module))
                print(
                    method, seed, mean_and_deviation(ours), mean_and_deviation(theirs), flush=True
                )
        row = {name: values[name] for name in ("dataset", "backbone")}
        row |= {"method": method, "buffer_size": values.get("buffer_size")}
        found = {
            "settings": values,
            "ours": mean_and_deviation(ours),
            "mammoth": mean_and_deviation(theirs),
        }
        rows = [other for other in rows if any(other[key] != row[key] for key in row)]
        rows.append(row | found)
        write_results("peers", {"rows": rows})


if __name__ == "__main__":
    main()
