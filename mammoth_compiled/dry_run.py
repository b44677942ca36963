"""Estimates how long a run takes, from its first few training steps."""

import time
from itertools import islice

from mammoth_compiled.config import RunConfig
from mammoth_compiled.data import TaskLoader, ready_batch
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.engine.fitting import steps_of_tasks
from mammoth_compiled.engine.stages import count_tasks
from mammoth_compiled.engine.step import EagerStep
from mammoth_compiled.models.base import ContinualModel

WARM_UP_STEPS = 3
TIMED_STEPS = 10


def estimate(model: ContinualModel, dataset: ContinualDataset) -> str:
    """Trains for a few eager steps and returns an estimate of the whole run, in words.

    The model is trained and the dataset advanced: build them again for the run itself.

    Args:
        model: The model, as `load_runner` returns it.
        dataset: The dataset, likewise.
    """
    config = RunConfig.from_namespace(model.args)
    dataset.reset()
    model.net.to(model.device).train()
    assert model.compute is not None
    model.compute.declare(model.net_batch_sizes())
    loader, _ = dataset.meta_get_data_loaders()
    images = next(iter(dataset.test_loaders[0]))[0][: config.experiment.batch_size]
    sizes = [len(loader.dataset)]  # now, since hooks of the model may change the training set
    step_s = _step_seconds(model, dataset, loader)
    later = range(1, count_tasks(config, dataset))
    sizes += [len(dataset.meta_get_data_loaders()[0].dataset) for _ in later]
    per_task = steps_of_tasks(model, config, sizes)[config.training.start_from :]
    known = [count for count in per_task if count is not None]
    if len(known) < len(per_task):
        mode = config.training.fitting_mode
        return f"steps of {1e3 * step_s:.1f} ms each; --fitting_mode {mode} decides how many"
    num_steps = sum(known)
    images_per_step = model.images_per_step()
    model.compute.decide(config.compute.compile, model.net, images, num_steps, images_per_step)
    return (
        f"{num_steps:,} steps of {1e3 * step_s:.1f} ms each: about {_duration(num_steps * step_s)} "
        f"of training in eager mode, without evaluation (compile: {model.compute.reason})"
    )


def _step_seconds(model: ContinualModel, dataset: ContinualDataset, loader: TaskLoader) -> float:
    """Returns the median time of an eager training step of the first task."""
    assert model.compute is not None
    model.compute.compile = False
    model.begin_task(dataset)
    model.begin_epoch(0, dataset)
    step = EagerStep(model, model.compute)
    batches = loader.lazy_batches() if isinstance(loader, TaskLoader) else map(ready_batch, loader)
    seconds = []
    for batch in islice(batches, WARM_UP_STEPS + TIMED_STEPS):
        started = time.perf_counter()
        loss = step(batch, 0).loss
        float(loss)  # waits for the device
        seconds.append(time.perf_counter() - started)
    timed = sorted(seconds[WARM_UP_STEPS:] or seconds)
    return timed[len(timed) // 2]


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
