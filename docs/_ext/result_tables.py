"""Markdown tables of the figures in `benchmarks/results/`; every function returns one table."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Lengths of runs in compile_auto.json.
AUTO_STEPS = (100, 400, 1_900, 10_000)
RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def read(name: str) -> dict[str, Any]:
    """Returns the content of one result file."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return content


def table(head: list[str], rows: list[list[str]]) -> str:
    """Returns a Markdown table; columns after the first are right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def times(spread: dict[str, float]) -> str:
    """Returns a ratio with its 20th and 80th percentile."""
    return f"**{spread['median']:.2f}x** [{spread['p20']:.2f}, {spread['p80']:.2f}]"


def milliseconds(value: float) -> str:
    """Returns milliseconds with three significant digits."""
    return f"{value:.3g} ms"


def fastest(values: list[float]) -> list[str]:
    """Returns the values as text, the smallest in bold."""
    best = min(values)
    return [f"**{value:.1f}**" if value == best else f"{value:.1f}" for value in values]


def machine(name: str) -> str:
    """Returns the hardware and versions that a result file was measured with, as one sentence."""
    found = read(name)["environment"]
    cores = f"{found['cores']} CPU cores ({found['cpu']}, {found['cpu_capability']})"
    where = f"{found['gpu']}, {cores}" if found["gpu"] else cores
    return (
        f"*Measured on {where}; torch {found['torch'].split('+')[0]}, "
        f"Python {found['python']}, commit {found['commit']}: "
        f"`benchmarks/results/{name}.json`.*"
    )


def loggers() -> str:
    """Steps with all loggers on: wall time over that without, and CPU time of the loggers."""
    rows = []
    for name, case in read("loggers")["cases"].items():
        wall = case["overhead"]
        spread = f"[{100 * wall['p20']:+.2f}, {100 * wall['p80']:+.2f}], n = {wall['n']}"
        cells = [f"{100 * wall['median']:+.2f} % {spread}"]
        cells += [
            f"{100 * r['median']:.2f} % [{100 * r['p20']:.2f}, {100 * r['p80']:.2f}]"
            for r in (case["in_hooks"], case["beside"], case["beside_off"])
        ]
        rows.append([f"`{name}`", milliseconds(case["step_ms_off"]["median"]), *cells])
    head = ["case", "step", "wall time of a step", "CPU time: training thread", "beside it"]
    head.append("beside it, logging off")
    return f"{table(head, rows)}\n\n{machine('loggers')}"


def gpu_loops() -> str:
    """Training on a GPU: a plain loop against the captured step."""
    rows = []
    for row in read("gpu_h100_loops")["loops"]:
        rate = row["images_per_s"]
        rows.append(
            [
                f"{row['model'].upper()}, `{row['backbone']}`",
                f"{rate['plain']['median']:,.0f}",
                f"{rate['ours']['median']:,.0f}",
                times(row["speed_up"]),
                f"{row['kernels']}",
                f"{row['empty_graph_images_per_s']:,.0f}",
            ]
        )
    head = ["run, batch 32", "plain loop, images/s", "mammoth_compiled, images/s", "speedup"]
    return "\n\n".join(
        [
            table([*head, "kernels per step", "launch limit, images/s"], rows),
            machine("gpu_h100_loops"),
        ]
    )


def gpu_steps() -> str:
    """Time of a captured step on a GPU, its kernels, and those that take longest."""
    default, with_tf32 = (
        {tuple(step["case"]): step for step in read(name)["steps"] if "error" not in step}
        for name in ("gpu_h100_profile", "gpu_h100_profile_tf32")
    )
    rows = []
    for case in {**default, **with_tf32}:
        method, backbone, batch, amp = case
        step = default.get(case) or with_tf32[case]
        times = [
            found[case]["full_step_us"] if case in found else 0 for found in (default, with_tf32)
        ]
        largest = [f"`{name[:24]}` {us:.0f}" for name, _, us in step["top"][:3]]
        rows.append(
            [
                f"{method.upper()}, `{backbone}`, {batch}, {'float32' if amp == 'off' else amp}",
                *(f"{us:.0f}" if us else "-" for us in times),
                f"{step['graph_replay_us']:.0f}",
                f"{step['kernels_per_step']:.0f}",
                ", ".join(largest),
            ]
        )
    head = ["step, batch size", "step, us", "step with TF32, us", "replay, us", "kernels"]
    return "\n\n".join(
        [
            table([*head, "longest kernels, us"], rows),
            machine("gpu_h100_profile"),
            machine("gpu_h100_profile_tf32"),
        ]
    )


def gpu_replays() -> str:
    """Time of a captured step on a GPU, as it was and as it is, and its kernels."""
    before = {
        tuple(step["case"]): step["graph_replay_us"]
        for name in ("gpu_h100_profile", "gpu_h100_profile_tf32")
        for step in read(name)["steps"]
        if "error" not in step
    }
    content = read("gpu_h100_steps")
    steps = {(tuple(step["case"]), step["way"]): step for step in content["steps"]}
    again = {tuple(loop["case"]): loop for loop in content["loops"]}
    rows = []
    for case in dict.fromkeys(case for case, _ in steps):
        method, backbone, batch, amp = case
        row = [f"{method.upper()}, `{backbone}`, {batch}, {'float32' if amp == 'off' else amp}"]
        row.append(f"{before[case]:.0f}")
        for way in ("default", "whole"):
            found = [run[way]["replay_us"] for run in [again.get(case)] if run]
            row.append(", ".join(f"{us:.0f}" for us in (steps[case, way]["replay_us"], *found)))
        row += [str(steps[case, way]["kernels"]) for way in ("default", "whole")]
        rows.append(row)
    head = ["step, batch size", "0357572, us", "now, us", "`--whole_step 1`, us"]
    head += ["kernels now", "kernels of a whole step"]
    return "\n\n".join([table(head, rows), machine("gpu_h100_steps")])


def gpu_net_step() -> str:
    """One training step of the network alone on a GPU, with and without a CUDA graph."""
    (row,) = read("gpu_h100_loops")["net_steps"]
    names = {"eager": "eager", "stock": "Inductor", "mammoth": "`mammoth` backend"}
    rows = [
        [label, f"{row[name]:,.0f}", f"{row[f'{name}_graph']:,.0f}"]
        for name, label in names.items()
    ]
    head = ["`cnn`, batch 32", "without graph, images/s", "in a CUDA graph, images/s"]
    return "\n\n".join([table(head, rows), machine("gpu_h100_loops")])


def _gpu_op(
    times_us: list[tuple[str, dict[str, float]]],
    shape: Callable[[dict[str, str]], str],
    kinds: dict[str, str],
) -> str:
    rows = []
    for problem, us in times_us:
        dtype, *fields = problem.split()
        sizes = dict(field.split("=") for field in fields)
        if sizes["batch"] in ("32", "128"):
            label = f"{shape(sizes)}, batch {sizes['batch']}"
            rows.append([label, dtype, *fastest([us[kind] for kind in kinds])])
    head = ["forward and backward", "dtype", *(f"{label}, us" for label in kinds.values())]
    return table(head, rows)


def gpu_conv_relu_pool() -> str:
    """Convolution, ReLU and pooling on a GPU by every implementation."""
    kinds = {"unfused": "eager", "stock": "Inductor", "pool": "cuDNN + Triton ReLU-pool"}
    rows = read("gpu_h100_ops")["ops"]
    text = _gpu_op(
        [(row["problem"], row["us"]) for row in rows if row["op"] == "conv_relu_pool"],
        lambda n: f"{n['in']}→{n['out']} channels, {n['height']}x{n['width']}",
        {**kinds, "fused": "one Triton kernel"},
    )
    return "\n\n".join([text, machine("gpu_h100_ops")])


def gpu_attention() -> str:
    """Attention on a GPU by every implementation."""
    kinds = {"torch": "eager", "stock": "Inductor", "sdpa": "PyTorch SDPA"}
    rows = read("gpu_h100_steps")["ops"]
    text = _gpu_op(
        [
            (row["problem"], {name: 1e3 * ms["median"] for name, ms in row["ms"].items()})
            for row in rows
            if row["op"] == "attention"
        ],
        lambda n: f"{n['heads']} heads, {n['queries']} tokens, head size {n['size']}",
        {**kinds, "triton": "Triton kernel"},
    )
    return "\n\n".join([text, machine("gpu_h100_steps")])


def gpu_data() -> str:
    """The batch pipeline and the reservoir update on a GPU."""
    names = {"augment": "gather, crop, flip, normalize", "reservoir": "reservoir update"}
    rows = [
        [
            f"{names[row['op']]}, batch {row['batch']}",
            f"{row['us']['torch']:.0f}",
            f"{row['us']['fused']:.1f}",
        ]
        for row in read("gpu_h100_ops")["data"]
    ]
    return "\n\n".join(
        [
            table(["", "PyTorch operations, us", "one Triton kernel, us"], rows),
            machine("gpu_h100_ops"),
        ]
    )


def compile_auto() -> str:
    """Runs of several lengths on a CPU: what `--compile auto` decides, and what it costs."""
    rows = []
    levels = ("first", "prepared", "cached")
    for name, row in read("compile_auto")["backbones"].items():
        seconds = (f"{row['compile_s'][level]['median']:.0f}" for level in levels)
        cells = [f"`{name}`", ", ".join(seconds) + " s"]
        for steps in AUTO_STEPS:
            runs = [run for run in row["runs"] if run["steps"] == steps]
            decisions = ", ".join("on" if run["auto"] else "off" for run in runs)
            worst = max(run["excess"] for run in runs)
            cells.append(decisions + (f" (+{worst:.0%})" if worst > 0.005 else ""))
        rows.append(cells)
    head = ["backbone, batch 32", "compiling"]
    head += [f"{steps:,} steps" for steps in AUTO_STEPS]
    return "\n\n".join([table(head, rows), machine("compile_auto")])


def whole_step() -> str:
    """One training step on a CPU: the backbone compiled alone, and forward to backward."""
    rows = []
    for name, row in read("whole_step")["steps"].items():
        cpu = row["cpu_ms"]
        rows.append(
            [
                f"`{name}`",
                milliseconds(cpu["backbone"]["median"]),
                milliseconds(cpu["whole"]["median"]),
                times(row["cpu_speedup"]),
            ]
        )
    head = ["model and backbone, batch 32", "backbone alone", "whole step", "speedup"]
    return "\n\n".join([table(head, rows), machine("whole_step")])


def launches() -> str:
    """Launches of a captured training step on an H100, counted without one."""
    rows = []
    for name, row in read("launches")["steps"].items():
        model, backbone, batch, amp = name.split()
        parts = row["parts"]["default"]
        network = sum(parts["network"].values())
        cells = [parts["batch"], parts["draw"], network, parts["loss"]]
        cells += [parts["optimizer"] + parts["buffer"] + parts["end"]]
        totals = [row["total"][way] for way in ("default", "whole step")]
        precision = "bf16" if amp == "bf16" else "float32"
        rows.append(
            [
                f"`{model}`, `{backbone}`, {batch}, {precision}",
                *map(str, (row["measured"] or "-", *cells, *totals, row["planned"])),
            ]
        )
    head = ["step", "seen at 0357572", "batch", "draw", "network", "loss", "rest", "sum"]
    earlier = [
        f"`{name}` (commit {row['network_commit']})"
        for name, row in read("launches")["steps"].items()
        if "network_commit" in row
    ]
    note = f"Counted at an earlier commit: {', '.join(earlier)}."
    columns = [*head, "`--whole_step 1`", "planned"]
    return "\n\n".join([table(columns, rows), *([note] if earlier else [])])


def compile_steps() -> str:
    """One training step on a CPU: eager, channels-last and compiled."""
    rows = []
    for name, row in read("compile_auto")["backbones"].items():
        step = row["step_ms"]
        rows.append(
            [
                f"`{name}`",
                milliseconds(step["eager"]["median"]),
                milliseconds(step["compiled"]["median"]),
                times(row["speed_up"]),
                times(row["speed_up_over_channels_last"]),
            ]
        )
    head = ["backbone, batch 32", "eager", "compiled", "speedup", "over channels-last eager"]
    return "\n\n".join([table(head, rows), machine("compile_auto")])


def lite() -> str:
    """A program in Mammoth's manner on a CPU, with default arguments."""
    rows = []
    for model, row in read("lite")["models"].items():
        seconds = row["seconds"]
        peer = seconds.get("mammoth_lite")
        rows.append(
            [
                f"`{model}`",
                f"{row['images']:,}",
                f"{peer['median']:.1f} s" if peer else "",
                f"{seconds['eager']['median']:.1f} s",
                f"{row['first_s']:.1f} s",
                f"{seconds['ours']['median']:.1f} s",
                times(row["speed_up"]),
            ]
        )
    head = [
        "run",
        "images",
        "Mammoth Lite",
        "`--compile off`",
        "first run",
        "later runs",
        "speedup",
    ]
    return "\n\n".join([table(head, rows), machine("lite")])


def train_loop() -> str:
    """Whole runs on a CPU against a plain loop."""
    rows = []
    for name in ("train_loop", "train_loop_derpp"):
        for case, row in read(name)["cases"].items():
            method, backbone = case.split(":")
            method = "DER++" if method == "derpp" else method.upper()
            cells = [f"{method}, `{backbone}`", f"{row['images']:,}"]
            cells += [f"{row['reference_s']['median']:.1f} s", f"{row['ours_s']['median']:.1f} s"]
            cells += [times(row["ours_speed_up"]), f"{row['ours_bf16_s']['median']:.1f} s"]
            accuracy = [row[f"{k}_class_il"]["median"] for k in ("reference", "ours", "ours_bf16")]
            cells.append(", ".join(f"{100 * value:.1f}" for value in accuracy) + " %")
            rows.append(cells)
    head = ["run", "images", "plain loop", "mammoth_compiled", "speedup", "with `--amp bf16`"]
    return "\n\n".join(
        [
            table([*head, "class-IL of the three"], rows),
            machine("train_loop"),
            machine("train_loop_derpp"),
        ]
    )


def accuracy() -> str:
    """Final accuracy of the built-in models."""
    rows = []
    for name, row in read("accuracy")["models"].items():
        cells = [f"`{name}`"]
        for key in ("class_il", "task_il", "forgetting_class_il"):
            found = row.get(key)
            cells.append(f"{100 * found['mean']:.2f} ± {100 * found['sd']:.2f}" if found else "-")
        rows.append(cells)
    head = ["model", "class-IL, %", "task-IL, %", "forgetting (class-IL), %"]
    return "\n\n".join([table(head, rows), machine("accuracy")])


def cpu_convolutions() -> str:
    """Winograd convolutions in C++ against PyTorch's on a CPU."""
    rows = []
    kinds = ("forward", "input_grad", "weight_grad")
    for isa, found in read("cpu_convolutions")["instruction_sets"].items():
        for shape, row in found["convolution"].items():
            batch, channels, size = shape.replace(" at ", "x", 1).split("x")
            cells = [isa, f"{channels.replace('->', '→')}, {size}x{size}, batch {batch}"]
            rows.append([*cells, *(times(row[kind]["speed_up"]) for kind in kinds)])
    head = ["", "3x3 convolution", "forward", "input gradient", "weight gradient"]
    return "\n\n".join([table(head, rows), machine("cpu_convolutions")])


def start_up() -> str:
    """Time to the first compiled step, cold and with a warm cache."""
    rows = []
    for case, row in read("start_up")["runs"].items():
        method, backbone = case.split(":")
        rows.append(
            [
                f"{method.upper()}, `{backbone}`",
                f"{row['cold']['first_compiled_step_s']:.0f} s",
                f"{row['warm']['first_compiled_step_s']['median']:.1f} s",
            ]
        )
    head = ["run", "first run on a machine", "later runs"]
    return "\n\n".join([table(head, rows), machine("start_up")])


def start_up_help() -> str:
    """Time of a command that answers without a run, from start to end of its process."""
    rows = [
        [f"`{name}`", f"{row['median']:.2f} s [{row['p20']:.2f}, {row['p80']:.2f}]", str(row["n"])]
        for name, row in read("start_up_help")["commands"].items()
    ]
    head = ["python -m mammoth_compiled.", "time", "n"]
    return "\n\n".join([table(head, rows), machine("start_up_help")])


def export_latency() -> str:
    """Latency of exported bundles in the C++ runtime at batch 1."""
    kinds = {
        "ONNX `both`": "onnx both",
        "ONNX int8 `both`": "onnx int8 both",
        "AOTInductor `both`": "aoti both",
    }
    rows = []
    for name, row in read("export")["backbones"].items():
        native = row["batch"]["1"]["native"]
        rows.append([f"`{name}`", *(_latency(native[kind]) for kind in kinds.values())])
    return "\n\n".join([table(["bundle", *kinds], rows), machine("export")])


def _latency(found: dict[str, Any]) -> str:
    low, middle, high = (found["runtime"][f"{part}_ms"] for part in ("p20", "median", "p80"))
    return f"{milliseconds(middle)} [{low:.3g}, {high:.3g}]"


def export_time() -> str:
    """Time to write, verify and update bundles."""
    rows = []
    for name, row in read("export_updates")["backbones"].items():
        found = row["export"]
        rows.append(
            [
                f"`{name}`",
                f"{found['onnx_pt2_s']:.1f} s",
                f"{found['all_formats_s']:.1f} s",
                f"{found['update_all_formats_s']['median']:.2f} s",
                f"**{found['update_speed_up']:.0f}x**",
            ]
        )
    head = [
        "bundle",
        "ONNX and pt2",
        "all five formats",
        "update of all five",
        "update is faster by",
    ]
    return "\n\n".join([table(head, rows), machine("export_updates")])


def seeds() -> str:
    """Several seeds side by side on a CPU, in times of one seed."""
    kinds = {"one worker": "one at a time", "one worker per core": "one per core"}
    rows = []
    for row in read("seeds")["rows"]:
        cells = [f"ER, `{row['backbone']}`", f"{row['one seed']['median']:.1f} s"]
        for kind in kinds:
            found = row[kind]
            cells.append(f"{found['median']:.1f} s, **{found['ratio']:.2f}x**")
        rows.append(cells)
    found = read("seeds")["rows"][0]
    head = ["run", "one seed", *(f"{found['seeds']} seeds, {kind}" for kind in kinds.values())]
    return "\n\n".join([table(head, rows), machine("seeds")])


def shared_images() -> str:
    """Memory of several seeds side by side, with images loaded once and by each."""
    found = read("shared_images")
    names = {"shared": "forked from one that has loaded them", "not shared": "loaded by each"}
    rows = [
        [
            label,
            f"{max(found[name]['run_uss_mb'])} MB",
            f"{found[name]['all_pss_mb']:,} MB",
            f"{found[name]['all_train_after_s']:.0f} s",
        ]
        for name, label in names.items()
    ]
    head = ["modules and images", "USS of a run", "PSS of all", "until all train"]
    return "\n\n".join([table(head, rows), machine("shared_images")])


def ranks() -> str:
    """A training step in one process and in two that share the cores, and its transfers."""
    rows = []
    for row in read("ranks")["rows"]:
        one, two = row["one process"], row["two ranks"]
        times = (one["step_ms"], two["step_ms"], two["average_gradients_ms"])
        cells = [f"{t['median']:.3g} ms" for t in (*times, two["gather_images_ms"])]
        rows.append([f"`{row['backbone']}`", f"{row['gradient_bytes'] / 1e6:.1f} MB", *cells])
    head = ["backbone, batch 32", "gradients", "step, 1 process", "step, 2 ranks"]
    head += ["average of the gradients", "gathering of images"]
    return "\n\n".join([table(head, rows), machine("ranks")])


def hostile() -> str:
    """Returns the totals of hostile inputs, kills and fuzzing."""
    content = read("hostile")
    rows = []
    for kind, counts in content["kinds"].items():
        good = counts["clear errors"], counts["accepted"]
        rows.append(
            [kind, *(f"{n:,}" for n in (counts["inputs"], *good, counts["inputs"] - sum(good)))]
        )
    moments = content["kills"]["moments"]
    for moment, counts in moments.items():
        runs, equal = counts["runs"], counts["equal"]
        rows.append([f"SIGKILL {moment}", f"{runs}", "0", f"{equal} equal", f"{runs - equal}"])
    for sweep, counts in content["sweep_kills"]["moments"].items():
        runs, equal = counts["runs"], counts["equal"]
        rows.append([f"SIGKILL, {sweep}", f"{runs}", "0", f"{equal} equal", f"{runs - equal}"])
    for run in content["fuzzing"]:
        executions = f"{run['executions']:,} executions"
        rows.append([f"{run['engine']}, {run['target']}", executions, "", "", f"{run['findings']}"])
    return table(["kind", "inputs", "clear errors", "accepted", "faults"], rows)
