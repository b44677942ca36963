"""Hostile command lines of every command."""

import os
from collections.abc import Iterator

from hostile_values import invalid_texts, parser

from hostile_inputs.harness import EITHER, REFUSED, Input, command

RUN = {
    "model": "derpp",
    "dataset": "seq-fmnist-mini",
    "backbone": "cnn",
    "buffer_size": "20",
    "alpha": "0.1",
    "beta": "0.5",
    "compile": "off",
    "seed": "0",
    "debug_mode": "1",
}
LONG = "a" * 300
TEXTS = ["", " ", "\udce9", "1\0", "ünï", "-", "9" * 20, "9" * 5000, "nan", "[1]", "../x", LONG]


def words(**given: str) -> list[str]:
    """Returns the words of a run that is valid but for what is given."""
    return [f"--{name}={value}" for name, value in {**RUN, **given}.items()]


def arguments() -> Iterator[Input]:
    """Yields every argument of a run with texts that it must refuse."""
    for name, action in parser(dataset=RUN["dataset"]).arguments.items():
        extra = {"export": "bundle"} if name in ("formats", "export_variants") else {}
        for text in invalid_texts(action):
            argv = words(**{**extra, name: text})
            yield Input("arguments", f"--{name} {text[:40]!r}", command("run", *argv), shares=True)


# Texts for flags that decide what to do; the same are tried for each command.
OWN_FLAGS = {
    "seeds": [
        "",
        "x",
        "1-",
        "-1",
        "3-1",
        "0,0",
        "0-99999999",
        "1.5",
        "9" * 20,
        "0-9-3",
        ",",
        "1,,2",
    ],
    "workers": ["", "0", "-1", "1.5", "x", "9" * 20],
    "config": ["", "absent.yaml", LONG, "\udce9.yaml", "a\0b", "/", "/dev/null/x", "."],
    "import": ["", "absent.py", "absent_module", ".", "..", "/", "a\0b", "\udce9", LONG, "1/0"],
    "html": ["", LONG, "a\0b", "\udce9"],
}

COMBINATIONS = {
    "a seed and seeds": ["--seeds=0-1", *words()],
    "html alone": ["--html=x.html", *words()],
    "resume and loadcheck": words(resume="1", loadcheck="x.pt"),
    "formats without export": words(formats="onnx"),
    "variants without export": words(export_variants="fp16"),
    "export each task without export": words(export_each_task="1"),
    "several runs and one results path": ["--seeds=0-1", *words(results_path="r.json")[:-2]],
    "a flag twice": [*words(), "--lr=0.1", "--lr=0.2"],
    "an unknown flag": [*words(), "--learning_rate=1"],
    "a word": [*words(), "word"],
    "a dash": [*words(), "-"],
    "two dashes": [*words(), "--"],
    "an empty word": [*words(), ""],
    "a null byte": [*words(), "\0"],
    "nothing": [],
    "a file of arguments": ["@file"],
    "a model alone": ["--model=sgd"],
    "a dataset alone": ["--dataset=seq-fmnist-mini"],
    "an unknown model": words(model="derp"),
    "an unknown dataset": words(dataset="seq-fashion"),
    "an unknown backbone": words(backbone="resnet"),
    "a long name": words(model="d" * 100_000),
    "a wrong loadcheck": words(loadcheck="absent.pt"),
    "a loadcheck that is a directory": words(loadcheck="."),
    "a loadcheck that is a device": words(loadcheck="/dev/zero"),
    "more tasks than classes": words(n_tasks="11"),
    "no images left": words(labels_per_class="0"),
    "more images held out than there are": words(validation="1000000"),
    "a class order of too few": words(custom_class_order="0,1"),
    "a class order of others": words(custom_class_order="0-8,17"),
    "a class twice": words(custom_class_order="0-9,3"),
    "a loop of ranges": words(custom_class_order="0-2147483647"),
    "a checkpoint every nothing": words(checkpoint_every="0"),
    "a checkpoint every 1e999 hours": words(checkpoint_every="1e999h"),
    "a checkpoint every minute without number": words(checkpoint_every="m"),
    "an unknown logger": words(log="csv,mlflow"),
    "a logger without a place": [*words(log="jsonl"), "--out=off"],
    "a note of 1 MB": words(notes="n" * 10**5),
    "stop before start": words(start_from="2", stop_after="1"),
    "a buffer beyond memory": words(buffer_size="2147483647"),
    "a minibatch beyond the buffer": words(minibatch_size="21"),
    "a device that is none": words(device="cudaa"),
    "a device of another machine": words(device="cuda:99"),
    "negative channels": words(num_channels="-3"),
    "too many channels": words(num_channels="99999999"),
    "a milestone without schedule": words(lr_milestones="3"),
    "nesterov without momentum": words(optim_nesterov="1"),
    "iterations without the mode": words(n_iters="5"),
}
# Those are valid, or become so; they must end well.
VALID = {"a note of 1 MB", "two dashes"}


def combinations() -> Iterator[Input]:
    """Yields flags that decide what to do, and combinations that make no sense."""
    for name, texts in OWN_FLAGS.items():
        for text in texts:
            argv = [f"--{name}={text}", *words()[:-2]]
            extra = ["--dry_run"] if name in ("seeds", "workers") else []
            what = f"--{name} {text[:40]!r}"
            yield Input("command lines", what, command("run", *argv, *extra))
    for what, argv in COMBINATIONS.items():
        expected = EITHER if what in VALID else REFUSED
        yield Input("command lines", what, command("run", *argv), expected, check=_none)


def _none() -> str:
    return ""


OTHERS = {
    "sweep": (["x.yaml"], ["--out", "--workers", "--ray_address", "--import"]),
    "report": (["x.json"], ["--output", "--title", "--figures"]),
    "compat": (["x.py"], ["--out"]),
    "export": (
        ["x.pt", "bundle"],
        [
            *("--formats", "--device", "--classes", "--variants", "--calibration"),
            *("--serve-layout", "--repository", "--import"),
        ],
    ),
    "export show": (["bundle"], ["--import"]),
    "export open": (["bundle"], ["--port", "--samples", "--import"]),
    "export verify": (["bundle"], ["--runtime", "--device", "--import"]),
    "export update": (["bundle", "x.pt"], ["--calibration", "--import"]),
}


def other_commands() -> Iterator[Input]:
    """Yields the other commands with hostile texts for every word and flag."""
    for name, (positional, flags) in OTHERS.items():
        program, *command_words = name.split()
        for i in range(len(positional)):
            for text in [*TEXTS, "/dev/null", "/dev/zero", ".", "absent/x", "/dev/full"]:
                argv = [*positional[:i], text, *positional[i + 1 :]]
                what = f"{name}: {text[:40]!r}"
                yield Input("other commands", what, command(program, *command_words, *argv))
        for flag in flags:
            for text in TEXTS:
                argv = [*command_words, *positional, f"{flag}={text}"]
                what = f"{name} {flag} {text[:40]!r}"
                yield Input("other commands", what, command(program, *argv))
        for argv in ([], [*positional, "--unknown"], [*positional, *positional, *positional]):
            what = f"{name} {' '.join(argv)}"
            yield Input("other commands", what, command(program, *command_words, *argv))


def environment() -> Iterator[Input]:
    """Yields environment variables that cannot be used."""
    run = command("run", "--model=sgd", "--dataset=seq-fmnist-mini", "--dry_run")
    for name in ("MAMMOTH_BASE_PATH", "MAMMOTH_RUNS", "MAMMOTH_CACHE_DIR", "WORLD_SIZE", "RANK"):
        for text in ("", "x" * 300, "/dev/null", "/dev/null/x", "\udce9", "nine", "-1"):

            def call(name: str = name, text: str = text) -> int:
                os.environ[name] = text
                return run()

            yield Input("environment", f"{name}={text[:40]!r}", call, EITHER, check=_none)
