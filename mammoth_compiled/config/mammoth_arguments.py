"""Mammoth's arguments that have another name here, or none.

A command of Mammoth's documentation thus runs unchanged where the feature exists, and ends with the
remedy where it does not. An argument that a model, dataset or backbone defines under one of these
names is never touched.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mammoth_compiled.errors import ConfigError, shorten

RENAMED = {
    "base_path": "data_dir",
    "non_verbose": "quiet",
    "sched_multistep_lr_gamma": "lr_gamma",
    "scheduler_gamma": "lr_gamma",
    "O": "code_optimization",
    "label_perc_by_task": "label_perc",
    "lpt": "label_perc",
    "lpc": "label_perc_by_class",
}

# By argument and value: the arguments that replace it.
EXPANDED: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "lr_scheduler": {
        "multisteplr": {"lr_scheduler": "multistep"},
        "cosineannealinglr": {"lr_scheduler": "cosine"},
    },
    "code_optimization": {
        "0": {"compile": "off", "precision": "highest"},
        "1": {"compile": "off", "precision": "high"},
        "2": {"compile": "off", "amp": "bf16"},
        "3": {"compile": "on", "amp": "bf16"},
    },
    "early_stopping": {
        "": {"fitting_mode": "early_stopping"},
        "0": {},
        "1": {"fitting_mode": "early_stopping"},
    },
    "disable_log": {"0": {}, "1": {"out": "off"}},
    "distributed": {"no": {}},
    "save_checkpoint_mode": {"safe": {}},
    "noise_type": {"sym": {"noise_type": "symmetric"}, "asym": {"noise_type": "asymmetric"}},
    "validation_mode": {"current": {}},
    "early_stopping_freq": {"1": {}},
    "early_stopping_epsilon": {"1e-6": {}, "1e-06": {}},
    "label_perc": {"1": {}, "1.0": {}},
    "label_perc_by_class": {"1": {}, "1.0": {}},
}

# Accepted, because what they ask for is always so.
IGNORED = (
    "nowand",  # nothing is logged to Weights & Biases unless --log asks for it
    "enable_other_metrics",  # all measures are computed
    "load_best_args",  # the best known settings are the defaults
    "model_config",
    "dataset_config",
    "disable_noisy_labels_cache",  # noisy labels are drawn from the seed, without a cache
    "save_after_interrupt",
)

# What to do instead.
ABSENT = {
    "distributed": "start the run with torchrun --nproc_per_node N -m mammoth_compiled.run",
    "save_checkpoint_mode": "checkpoints are always safe to load; leave it out",
    "validation_mode": "early stopping looks at the current task, accuracies are those on all "
    "tasks seen; leave it out",
    "early_stopping_freq": "every epoch is evaluated; leave it out",
    "early_stopping_epsilon": "an improvement is always more than 1e-6; leave it out",
    "custom_task_order": "give the order of the classes with --custom_class_order",
    "cache_path_noisy_labels": "noisy labels are drawn from the seed; leave it out",
    "label_perc": "train on fewer images of each class with --labels_per_class",
    "label_perc_by_class": "train on fewer images of each class with --labels_per_class",
    "wandb_entity": "set the environment variable WANDB_ENTITY",
    "wandb_name": "set the environment variable WANDB_NAME",
    "wandb_project": "set the environment variable WANDB_PROJECT",
    "conf_jobnum": "name the run with --notes",
}


def translate(
    given: Mapping[str, Any] | Sequence[str], known: Collection[str]
) -> Mapping[str, Any] | list[str]:
    """Returns arguments with Mammoth's names replaced by those of this package.

    Args:
        given: Values by name, or the words of a command line.
        known: Arguments that this run has.

    Raises:
        ConfigError: If an argument of Mammoth has no counterpart; names the remedy.
    """
    return translated(given, known) if isinstance(given, Mapping) else translate_words(given, known)


def translated(values: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Does for arguments by name what `translate` does."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        new = None if value is None else _replacement(name, value, known)
        result |= {name: value} if new is None else new
    return result


def translate_words(given: Sequence[str], known: Collection[str]) -> list[str]:
    """Does for the words of a command line what `translate` does."""
    words: list[str] = []
    rest = list(given)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if word.startswith("-O") and word[2:].isdigit():  # -O3 is -O 3
            flag, equals, value = "-O", "=", word[2:]
        takes_next = not equals and rest and not rest[0].startswith("-")
        new = None
        if flag.startswith("-"):
            new = _replacement(
                flag.lstrip("-"), rest[0] if takes_next else value, known, is_flag=True
            )
        if new is None:
            words.append(word)
            continue
        if takes_next:
            rest.pop(0)
        for name, item in new.items():
            words += [f"--{name}", str(item)] if item != "" else [f"--{name}"]
    return words


def _replacement(
    name: Any, value: Any, known: Collection[str], is_flag: bool = False
) -> dict[str, Any] | None:
    """Returns what replaces an argument, None if it stays as it is."""
    if not isinstance(name, str):
        return None
    original = f"--{name}" if is_flag else name
    if name not in known:
        name = RENAMED.get(name, name)
        if name in IGNORED:
            return {}
    text = ""
    if isinstance(value, (str, int, float)):  # True is 1
        text = str(int(value)) if isinstance(value, bool) else str(value).lower()
    replaced = EXPANDED.get(name, {}).get(text)
    if replaced is not None:
        return dict(replaced)
    if name in known:
        return None if original.lstrip("-") == name else {name: value}
    if name in ABSENT:
        raise ConfigError(f"argument {original}: Mammoth's argument has none here; {ABSENT[name]}")
    if name in EXPANDED:
        valid = ", ".join(filter(None, EXPANDED[name]))
        raise ConfigError(f"argument {original}: must be one of {valid}, got {shorten(value)}")
    return None
