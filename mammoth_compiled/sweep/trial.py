"""Trial: one run of a sweep, in a run folder of its own."""

import json
import re
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from mammoth_compiled.config import RunConfig
from mammoth_compiled.engine.run_folder import RESULTS, check_folder
from mammoth_compiled.errors import ConfigError, MammothError
from mammoth_compiled.results import Results

# Arguments that say where a run writes; they are those of the sweep's run folders.
_RESUME = {"resume": True, "loadcheck": None}
OUTPUTS = ("out", "checkpoint_path", "results_path", "export", "loadcheck", "log_dir")


@dataclass(frozen=True)
class Trial:
    """A run of a sweep.

    Attributes:
        args: All arguments; `out` is the run folder.
        label: What distinguishes it from the other trials, for users: "lr=0.1 seed=3".
    """

    args: Namespace
    label: str

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.args.out)

    @property
    def compile_key(self) -> tuple[Any, ...]:
        """Trials with the same key run the same compiled code."""
        config = RunConfig.from_namespace(self.args)
        experiment, compute = config.experiment, config.compute
        parts = (experiment.model, experiment.dataset, experiment.backbone, experiment.batch_size)
        return (*parts, compute.compile, compute.amp, compute.device)

    @property
    def process_settings(self) -> tuple[Any, ...]:
        """Trials with the same settings of the process can share one."""
        compute = RunConfig.from_namespace(self.args).compute
        return compute.device, compute.precision, compute.deterministic

    def finished(self) -> Results | None:
        """Returns the results, None if the run has not ended.

        Raises:
            MammothError: If the folder contains a run of another configuration.
        """
        check_folder(self.folder, RunConfig.from_namespace(Namespace(**vars(self.args) | _RESUME)))
        try:
            results = Results.read_json(self.folder / RESULTS)
        except MammothError:
            return None
        return None if results.interrupted else results


def make_trials(
    runs: Sequence[Namespace], directory: str | Path, names: Sequence[str] | None = None
) -> list[Trial]:
    """Returns the trials of a sweep.

    The name of each run folder follows from the arguments that distinguish its run, so that the
    same sweep finds its runs again.

    Args:
        runs: All arguments of every run.
        directory: Where the run folders are.
        names: The arguments that distinguish the runs; None for those that differ.

    Raises:
        ConfigError: If the runs share an output.
    """
    for name in OUTPUTS:
        value = getattr(runs[0], name, None)
        if name != "out" and value is not None:
            raise ConfigError(
                f"--{name} {value}: several runs cannot share it; each run has a folder of its own "
                "in --out"
            )
    names = varying(runs) if names is None else names
    trials = []
    for args in runs:
        values = {name: getattr(args, name, None) for name in names}
        label = " ".join(f"{name}={_text(value)}" for name, value in values.items()) or "the run"
        out = Path(directory) / _folder_name(label, values)
        trials.append(Trial(Namespace(**{**vars(args), "out": str(out)}), label))
    return trials


def varying(runs: Iterable[Namespace]) -> list[str]:
    """Returns the names of the arguments that differ between runs."""
    dictionaries = [vars(args) for args in runs]
    names = dict.fromkeys(name for dictionary in dictionaries for name in dictionary)
    first = dictionaries[0]
    differ = [n for n in names if any(d.get(n) != first.get(n) for d in dictionaries)]
    # The seed last, as in a table.
    return sorted((name for name in differ if name not in OUTPUTS), key=lambda n: n == "seed")


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _folder_name(label: str, values: Mapping[str, Any]) -> str:
    """Returns a name for a file system; different values have different names."""
    plain = _plain(label)
    if all(_plain(_text(value)) == str(value) for value in values.values()) and len(plain) <= 100:
        return plain
    text = json.dumps(values, default=str)
    return f"{plain[:80]}-{sha256(text.encode()).hexdigest()[:8]}"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.=_-]+", "-", text)
