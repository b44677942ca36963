"""Latency of every exported form of a backbone, and the duration of exports and updates.

    python benchmarks/export.py [--backbones cnn resnet18] [--batches 1 8 32] [--rounds 15]
        [--epochs 1] [--mammoth_run build/bin/mammoth-run] [--parts latency exports]

Each backbone is first trained jointly on all tasks of seq-fmnist-mini, so that the accuracy of fp16
and int8 models can be measured on 2,000 test images. Latencies within a process are interleaved;
the C++ tool interleaves its calls with bare calls of its backend. Everything uses as many threads
as there are cores: leave OMP_NUM_THREADS unset.
"""

import argparse
import contextlib
import copy
import io
import json
import os
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

# Before torch is imported: an empty cache, so that compilation is timed and not a cache hit.
os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()

import onnxruntime as ort
import torch
from common import interleaved, ratio, spread, write_results

import mammoth_compiled as mc
from mammoth_compiled.export import export_bundle, load_bundle, update_bundle
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.types import ReturnTypes

DATASET = "seq-fmnist-mini"
ALL_FORMATS = "onnx,pt2,aoti,torchscript,safetensors"
VARIANTS = ("fp16", "int8")
CORES = len(os.sched_getaffinity(0))
# The baseline of each form.
RATIOS = {
    "compiled": "eager both",
    "onnx both": "eager both",
    "aoti both": "eager both",
    "onnx out": "onnx both",
    "onnx features": "onnx both",
    "onnx int8 both": "onnx both",
    "onnx fp16 both": "onnx both",
    "onnx session both": "onnx both",
}
# Command-line arguments of the C++ tool.
NATIVE = {
    "onnx both": ["--backend", "onnx", "--returnt", "both"],
    "onnx out": ["--backend", "onnx", "--returnt", "out"],
    "onnx features": ["--backend", "onnx", "--returnt", "features"],
    "onnx int8 both": ["--backend", "onnx", "--returnt", "both", "--precision", "int8"],
    "aoti both": ["--backend", "aoti", "--returnt", "both"],
    "torchscript both": ["--backend", "torchscript", "--returnt", "both"],
}


def train(backbone, epochs):
    """Returns a model trained jointly on all tasks, and the seconds of its training."""
    arguments = {"backbone": backbone, "n_epochs": epochs, "seed": 0, "compile": "off"}
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        model, dataset = mc.load_runner("joint", DATASET, arguments)
        mc.train(model, dataset)
    model.net.eval()
    return model, time.perf_counter() - start


def images(dataset, split):
    """Returns the normalized images of a split, float32 [N, C, H, W], and their labels."""
    with contextlib.redirect_stdout(io.StringIO()):
        _, whole = mc.load_runner("joint", DATASET)
    part = whole.get_data_loaders()[0 if split == "train" else 1]
    info = dataset.info()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (info.mean, info.std))
    pixels = torch.from_numpy(part.data).permute(0, 3, 1, 2).float() / 255
    return (pixels - mean) / std, torch.as_tensor(part.targets, dtype=torch.int64)


def export(model, path, formats, variants=(), accuracy=True):
    """Exports with verification; returns the seconds."""
    calibration, _ = images(model.dataset, "train")
    test_set = images(model.dataset, "test") if accuracy else None
    start = time.perf_counter()
    export_bundle(
        model,
        path,
        formats=formats,
        variants=variants,
        calibration=calibration[:: len(calibration) // 512],
        test_set=test_set,
    )
    return time.perf_counter() - start


def forms(net, path, inputs):
    """Returns, by name, functions that run each form on `inputs`."""
    compiled = torch.compile(copy.deepcopy(net), backend="mammoth", dynamic=False)
    both = ReturnTypes.BOTH
    session = ort.InferenceSession(str(path / "model.onnx"), providers=["CPUExecutionProvider"])
    feed = {"input": inputs.numpy()}
    onnx, aoti = load_bundle(path), load_bundle(path, runtime="aoti")
    smaller = {kind: load_bundle(path, precision=kind) for kind in VARIANTS}
    return {
        "eager both": lambda: net(inputs, returnt=both),
        "compiled": lambda: compiled(inputs, returnt=both),
        "onnx session both": lambda: session.run(None, feed),
        "onnx both": lambda: onnx(inputs, returnt="both"),
        "onnx out": lambda: onnx(inputs, returnt="out"),
        "onnx features": lambda: onnx(inputs, returnt="features"),
        "aoti both": lambda: aoti(inputs, returnt="both"),
        **{
            f"onnx {kind} both": lambda bundle=bundle: bundle(inputs, returnt="both")
            for kind, bundle in smaller.items()
        },
    }


@torch.no_grad()
def latency(net, path, batch, rounds, tool, seconds):
    inputs = torch.randn(batch, *read_manifest(path).interface.input_shape)
    timed = forms(net, path, inputs)
    slowest = 0.0
    for function in timed.values():
        function()  # compiles, allocates
        start = time.perf_counter()
        function()
        slowest = max(slowest, time.perf_counter() - start)
    times = interleaved(timed, rounds, calls=max(1, int(0.2 / slowest)))
    result = {
        "latency_ms": {name: spread(values) for name, values in times.items()},
        "images_per_s": {
            name: batch / spread(values)["median"] * 1e3 for name, values in times.items()
        },
        "speed_up": {
            f"{name} over {base}": ratio(times, base, name) for name, base in RATIOS.items()
        },
    }
    if tool:
        result["native"] = {
            name: native(tool, path, batch, seconds, argv) for name, argv in NATIVE.items()
        }
    return result


def native(tool, path, batch, seconds, argv):
    """Returns the measurements of one backend by the C++ tool."""
    command = [str(tool), str(path), "--benchmark", "--batch", str(batch), *argv]
    command += ["--seconds", str(seconds), "--threads", str(CORES)]
    if "onnx" in argv:
        (library,) = Path(ort.__file__).parent.glob("capi/libonnxruntime.so*")
        command += ["--library", str(library)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {result.stderr}")
    return json.loads(result.stdout)


def exports(model, folder):
    """Times the export of ONNX and pt2, of all formats, and the update of all formats.

    All are verified. Accuracy is not measured, because it takes the same time in both.
    """
    quick_s = export(model, folder / "onnx-pt2", "onnx,pt2", accuracy=False)
    all_formats_s = export(model, folder / "all-formats", ALL_FORMATS, accuracy=False)
    updates = []
    for _ in range(3):
        net = copy.deepcopy(model.net)
        with torch.no_grad():
            for weight in net.parameters():
                weight.mul_(1.01)
        start = time.perf_counter()
        update_bundle(folder / "all-formats", net)
        updates.append(time.perf_counter() - start)
    return {
        "onnx_pt2_s": quick_s,
        "all_formats_s": all_formats_s,
        "update_all_formats_s": spread(updates),
        "update_speed_up": all_formats_s / spread(updates)["median"],
    }


def measure(backbone, args, folder):
    model, train_s = train(backbone, args.epochs)
    result = {"train_s": train_s}
    if "exports" in args.parts:  # first, while Inductor's cache is empty
        result["export"] = exports(model, folder)
    path = folder / "bundle"
    export(model, path, "onnx,aoti,torchscript", VARIANTS)
    result["files"] = {
        file.path: {"bytes": file.bytes, "accuracy": dict(file.accuracy)}
        for file in read_manifest(path).files
        if file.is_model
    }
    if "latency" in args.parts:
        result["batch"] = {
            batch: latency(model.net, path, batch, args.rounds, args.mammoth_run, args.seconds)
            for batch in args.batches
        }
    return result


def processor():
    """Returns the vector instruction sets, on which the speed of int8 depends."""
    info = Path("/proc/cpuinfo")
    flags = (
        info.read_text().split("flags", 1)[-1].split("\n", 1)[0].split() if info.exists() else []
    )
    return sorted(flag for flag in flags if flag.startswith("avx"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="+", default=["cnn", "resnet18"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--parts", nargs="+", default=["latency", "exports"])
    parser.add_argument(
        "--mammoth_run", type=Path, help="path of the C++ tool; without it, C++ is not measured"
    )
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="seconds per case of the C++ tool"
    )
    parser.add_argument("--name", default="export")
    args = parser.parse_args()
    torch.set_num_threads(CORES)
    about = {
        "cpu_flags": processor(),
        "onnxruntime": version("onnxruntime"),
        "onnx": version("onnx"),
        "dataset": DATASET,
        "epochs": args.epochs,
    }
    results = {}
    for backbone in args.backbones:
        with tempfile.TemporaryDirectory() as folder:
            results[backbone] = measure(backbone, args, Path(folder))
        for batch, figures in results[backbone].get("batch", {}).items():
            medians = {name: r["median"] for name, r in figures["latency_ms"].items()}
            line = ", ".join(f"{name} {value:.2f}" for name, value in medians.items())
            print(f"{backbone} batch {batch} (ms): {line}", flush=True)
        if "export" in results[backbone]:
            print(f"{backbone} exports: {results[backbone]['export']}", flush=True)
        # After each backbone, so that an interrupted run keeps its results.
        path = write_results(args.name, {**about, "backbones": results})
    print("written:", path)


if __name__ == "__main__":
    main()
