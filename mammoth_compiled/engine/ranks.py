"""What the ranks of data-parallel training agree on; see `mammoth_compiled.distributed`."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from mammoth_compiled import distributed
from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.engine.losses import READ_EVERY
from mammoth_compiled.engine.observer import Run
from mammoth_compiled.engine.sync_batchnorm import synchronized_batch_norm
from mammoth_compiled.errors import ConfigError, TrainingError
from mammoth_compiled.models.base import ContinualModel

# Arguments that count images of all ranks together.
GLOBAL_SIZES = ("batch_size", "minibatch_size")


def check_model(model: ContinualModel, config: RunConfig) -> None:
    """Checks that several ranks can train a model.

    Raises:
        ConfigError: If they cannot; says why.
    """
    ranks = distributed.num_ranks()
    if ranks == 1:
        return
    name = type(model).__name__
    if type(model).observe is not ContinualModel.observe:
        raise ConfigError(
            f"torchrun: {name} defines its own observe, so its training step cannot be divided "
            "among ranks: define training_loss (and after_step) instead, or run it in one process"
        )
    if config.training.fitting_mode == "time":
        raise ConfigError(
            "torchrun: with --fitting_mode time the ranks would stop at different steps: use "
            "epochs, iters or early_stopping"
        )
    values = vars(config.to_namespace())
    for argument in GLOBAL_SIZES:
        size = values.get(argument)
        if size is not None and size % ranks:
            raise ConfigError(
                f"torchrun: --{argument} {size} counts the images of all {ranks} ranks: give a "
                f"multiple of {ranks}"
            )


@contextlib.contextmanager
def trained_together(run: Run) -> Iterator[None]:
    """Surrounds the training steps of a task; afterwards all ranks have the same state.

    Running statistics of batch norm become the means over the ranks.

    Raises:
        TrainingError: If the weights of the ranks differ, because the model changes them with
            something that is not averaged.
    """
    if distributed.num_ranks() == 1:
        yield
        return
    model = run.model
    with contextlib.ExitStack() as stack:
        if run.config.compute.sync_batchnorm:
            stack.enter_context(synchronized_batch_norm(model.net))
        yield
    if not distributed.is_equal_everywhere(model.net.parameters(), model.device):
        raise TrainingError(
            f"{type(model).__name__} computes different weights on each rank: average what its "
            "step computes from its own images with self.average_over_ranks, or run it in one "
            "process"
        )
    statistics = [b for b in model.net.buffers() if b.is_floating_point()]
    distributed.add_up_(statistics)
    for tensor in statistics:
        tensor /= distributed.num_ranks()


def synchronize(model: ContinualModel) -> None:
    """Gives all ranks the state of rank 0, so that rounding cannot let them drift apart."""
    if distributed.num_ranks() > 1:
        distributed.synchronize_(_tensors(model))


def _tensors(model: ContinualModel) -> list[torch.Tensor]:
    tensors = [*model.parameters(), *model.buffers()]
    for value in vars(model).values():
        if hasattr(value, "tensors") and callable(value.tensors):  # a replay buffer
            tensors += value.tensors()
    return list({id(tensor): tensor for tensor in tensors}.values())


class StopAgreement:
    """Lets all ranks stop after the same step when one of them gets a signal.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._every = READ_EVERY if run.model.device.type == "cuda" else 1

    def __call__(self) -> bool:
        """Returns whether to stop, the same on all ranks; False in a single process."""
        run = self._run
        if distributed.num_ranks() == 1 or run.task_step % self._every:
            return False
        agreed = distributed.maximum(run.stop_signal or 0, run.model.device)
        if agreed:
            run.stop_signal = agreed
        return bool(agreed)


def shared_arguments(args: Any) -> None:
    """Gives all ranks the run folder and the seed of rank 0; a run without a seed draws one."""
    if distributed.num_ranks() == 1:
        return
    if args.seed is None:
        args.seed = int(torch.randint(2**31, ()))
    args.seed, args.out = distributed.from_main((args.seed, args.out))
