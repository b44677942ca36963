"""Runs a sweep on Ray Tune: several machines, several trials a GPU, early stopping."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mammoth_compiled.config.experiments import resolve_experiments
from mammoth_compiled.console import say
from mammoth_compiled.engine import Observer, Run
from mammoth_compiled.errors import ConfigError, MammothError
from mammoth_compiled.exit_codes import ERROR, SUCCESS
from mammoth_compiled.metrics import average
from mammoth_compiled.plugins import import_plugin
from mammoth_compiled.runner import build_dataset
from mammoth_compiled.sweep.runs import report
from mammoth_compiled.sweep.space import Range
from mammoth_compiled.sweep.sweep import Sweep, first
from mammoth_compiled.sweep.trial import make_trials
from mammoth_compiled.types import Evaluation

# A trial whose worker was killed continues from its checkpoint so many times.
MAX_FAILURES = 3


def run_on_ray(
    sweep: Sweep, address: str, workers: int | None = None, plugins: Sequence[str] = ()
) -> int:
    """Runs a sweep on Ray Tune and returns the exit code.

    Every trial is a run folder in the sweep's directory, which all machines must share. ASHA (Li et
    al. 2020, arXiv 1810.05934) stops trials if the file asks for pruning.

    Args:
        sweep: The sweep.
        address: "local" for this machine, "auto" or the address of a cluster.
        workers: Trials at the same time; None for as many as the resources allow.
        plugins: Files and modules of `--import`.

    Raises:
        ConfigError: If Ray is not installed.
        MammothError: If Ray cannot be reached or started, or no trial finished.
    """
    try:
        import ray
        from ray import tune
    except ImportError as error:
        raise ConfigError("--ray_address needs Ray: pip install 'mammoth-compiled[ray]'") from error
    search = sweep.search
    if search.method == "tpe":
        raise ConfigError("--ray_address: method tpe runs in the local pool; use grid or random")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    local = {"num_cpus": workers} if address == "local" and workers else {}
    try:
        ray.init(
            address=address,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            **local,
        )
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise MammothError(
            f"--ray_address {address}: cannot use Ray there: {reason}. Give local, auto or the "
            "address of a running cluster, such as 10.0.0.1:6379"
        ) from error
    gpus = float(ray.cluster_resources().get("GPU", 0))
    share = {"cpu": 1, "gpu": min(1.0, gpus / workers) if workers and gpus else float(gpus > 0)}
    directory = sweep.directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    seeds = sweep.fixed.get("seed")
    space = {name: _axis(axis, search.method) for name, axis in sweep.axes.items()}
    if isinstance(seeds, list):
        space["seed"] = tune.grid_search(seeds)
    tasks = _num_tasks(sweep)
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(_trainable, sweep=sweep, directory=directory, plugins=plugins),
            share,
        ),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="value",
            mode="max",
            num_samples=search.trials if search.method == "random" else 1,
            max_concurrent_trials=workers,
            scheduler=_scheduler(search.pruning, tasks),
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=str(directory),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    try:
        results = tuner.fit()
    finally:
        ray.shutdown()
    failures = [str(error).strip().splitlines()[-1] for error in results.errors]
    failures += [r.metrics["failed"] for r in results if r.metrics and "failed" in r.metrics]
    for failure in failures:
        say(f"failed: {failure}", always=True)
    report(directory)
    return ERROR if failures else SUCCESS


def _trainable(
    config: Mapping[str, Any], sweep: Sweep, directory: Path, plugins: Sequence[str]
) -> None:
    """Runs one trial in a worker of Ray."""
    from ray import tune

    from mammoth_compiled.training import run_experiment

    for plugin in plugins:
        import_plugin(plugin)
    runs = [r.args for r in resolve_experiments(sweep.words, {**sweep.fixed, **config})]
    (trial,) = make_trials(runs, directory, sorted(config))
    trial.args.resume = True
    trial.args.quiet = True
    if trial.finished() is not None:
        return
    try:
        run_experiment(trial.args, [_TuneObserver(sweep.search.metric)])
    except MammothError as error:  # would fail again; Ray retries what raises
        tune.report({"value": float("-inf"), "task": 0, "failed": str(error)})


class _TuneObserver(Observer):
    """Reports the average accuracy to Ray Tune after each task."""

    def __init__(self, metric: str) -> None:
        self._metric = metric

    def end_task(self, run: Run, evaluation: Evaluation) -> None:
        from ray import tune

        value = average(getattr(evaluation, self._metric))
        tune.report({"value": value, "task": run.task + 1})


def _axis(axis: Sequence[Any] | Range, method: str) -> Any:
    """Returns what Ray Tune draws from."""
    from ray import tune

    if not isinstance(axis, Range):
        return tune.grid_search(list(axis)) if method == "grid" else tune.choice(list(axis))
    if axis.is_integer:
        draw = tune.lograndint if axis.log else tune.randint
        return draw(int(axis.low), int(axis.high) + 1)
    if axis.step is not None:
        return tune.quniform(axis.low, axis.high, axis.step)
    return tune.loguniform(axis.low, axis.high) if axis.log else tune.uniform(axis.low, axis.high)


def _scheduler(pruning: str, num_tasks: int) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if pruning == "none":
        return FIFOScheduler()
    return ASHAScheduler(time_attr="task", max_t=max(2, num_tasks), grace_period=1)


def _num_tasks(sweep: Sweep) -> int:
    """Returns the number of training stages of the first configuration."""
    one = resolve_experiments(sweep.words, {**sweep.fixed, **first(sweep.axes)})[0]
    return build_dataset(one.args).num_stages
