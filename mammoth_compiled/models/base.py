"""ContinualModel: the base class of every continual-learning method.

More than 300 lines, most of which document the hooks that methods override.
"""

import functools
import inspect
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import nn
from torchvision import transforms

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.buffers import Buffer
from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.device import get_device
from mammoth_compiled.distributed import average_, num_ranks
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.models.core.hooks import TaskHooks
from mammoth_compiled.models.core.optimizers import Parameters, build_optimizer, flat_parameters
from mammoth_compiled.types import Batch

# One setting, or several, of which the one with the nearest buffer_size applies.
Settings = dict[str, Any] | list[dict[str, Any]]


class ContinualModel(TaskHooks):
    """A continual-learning method around a backbone.

    Define either `observe`, one whole training step, or `training_loss`, around which the base
    class builds the step, with `after_backward` for what changes the gradients and `after_step` for
    what follows the weight update.

    Args:
        backbone: The network.
        loss: Loss function of (logits [B, K], labels [B]).
        args: All arguments of the run.
        transform: torchvision transform that augments stored images.
        dataset: The dataset, a sequence of tasks.

    Attributes:
        NAME: Registered name.
        COMPATIBILITY: Settings that the method supports.
        JOINT: True if it trains on all tasks at once.
        TRAINS_ON_STREAM: False if epochs pass over stored images only; their number is then free
            where the stream may be seen once.
        DEFAULTS: Best known settings by dataset.
        RESET_OPTIMIZER: True builds a new optimizer before each task, as Mammoth does.
        EXAMPLE_ARGS: Values of the arguments that the method requires, small enough for tests and
            examples.
        net: The backbone.
        opt: Its optimizer.
        device: Where it computes.
        compute: How the run computes, set by `load_runner`; see `engine.compute.Compute`.
        num_classes: Number of classes, K.
        n_tasks: Number of tasks, T.
        pbar_suffix: Extra values for the progress bar.

    Example:
        >>> import mammoth_compiled as mc
        >>> @mc.register_model("halved-loss")
        ... class HalvedLoss(mc.ContinualModel):
        ...     def training_loss(self, batch):
        ...         return 0.5 * self.loss(self.net(batch.inputs), batch.labels)
        >>> model, dataset = mc.load_runner("halved-loss", "seq-fmnist-mini", {"backbone": "cnn"})
        >>> model.NAME
        'halved-loss'
    """

    NAME: str
    COMPATIBILITY: ClassVar[list[str]] = ["class-il", "task-il"]
    JOINT: ClassVar[bool] = False
    TRAINS_ON_STREAM: ClassVar[bool] = True
    DEFAULTS: ClassVar[dict[str, Settings]] = {}
    EXAMPLE_ARGS: ClassVar[dict[str, Any]] = {}

    args: Namespace
    buffer: Buffer
    compute: Any = None

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds the method's own arguments to a parser and returns it."""
        return parser

    def __init__(
        self,
        backbone: MammothBackbone,
        loss: Callable[..., torch.Tensor],
        args: Namespace,
        transform: Any,
        dataset: ContinualDataset | None = None,
    ) -> None:
        super().__init__()
        if dataset is None:
            raise ConfigError(f"{type(self).__name__} requires a dataset: use load_runner")
        self.net = backbone
        self.loss = loss
        self.args = args
        self.transform = transform
        self.dataset = dataset
        self._follow(dataset)
        self.num_classes = dataset.N_CLASSES
        self.n_tasks = dataset.N_TASKS
        self.pbar_suffix: dict[str, Any] = {}
        if hasattr(dataset, "MEAN"):
            normalize = dataset.get_normalization_transform()
            self.normalization_transform = transforms.Compose(
                [transforms.ToPILImage(), transforms.ToTensor(), normalize]
            )
        config = RunConfig.from_namespace(args)
        self.device = get_device(config.compute.device)
        self.opt = self.get_optimizer()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.compute.amp == "fp16")
        self._clip_grad = config.optimizer.clip_grad

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ("net", "compute") and self.compute is not None:
            net = self.net
            # A network that replaces the backbone runs compiled like the backbone.
            if isinstance(net, MammothBackbone) and not net.has_runner:
                self.compute.attach(net)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        # to(), cuda() and cpu() all end here.
        super()._apply(*args, **kwargs)
        parameter = next(self.parameters(), None)
        if parameter is not None:
            self.device = parameter.device
        return self

    def get_parameters(self) -> Parameters:
        """Returns what `get_optimizer` optimizes by default: the parameters of the backbone.

        A method may return other parameters, or groups with settings of their own, as torch's
        optimizers take them: `[{"params": [...], "lr": 0.01}, {"params": [...]}]`. A group without
        `lr` gets `args.lr`; schedules scale the learning rate of each group.
        """
        return self.net.parameters()

    def get_optimizer(
        self, params: Parameters | None = None, lr: float | None = None
    ) -> torch.optim.Optimizer:
        """Returns the optimizer that the arguments ask for.

        Args:
            params: Parameters or parameter groups to optimize; None takes `get_parameters()`.
            lr: Learning rate of groups without one; None takes `args.lr`.

        Raises:
            ConfigError: If `args.optimizer` is unknown; lists the valid ones.
        """
        config = RunConfig.from_namespace(self.args).optimizer
        return build_optimizer(config, self.get_parameters() if params is None else params, lr)

    def reset_optimizer(self) -> None:
        """Replaces `opt` by a new optimizer of `get_parameters()`, without momentum."""
        self.opt.zero_grad()
        self.opt = self.get_optimizer()

    def net_batch_sizes(self) -> set[int]:
        """Returns the batch sizes that a step on a full batch passes to `self.net`.

        They are compiled from their second step on. Sizes that are not among them are compiled too,
        once they recur often enough.
        """
        return {RunConfig.from_namespace(self.args).experiment.batch_size}

    def images_per_step(self) -> int:
        """Returns how many images a step on a full batch passes to `self.net`, about.

        `--compile auto` estimates from it what compiling saves. By default the stream batch and, if
        the method has `--minibatch_size`, one replay batch.
        """
        config = RunConfig.from_namespace(self.args)
        replayed = config.extra.get("minibatch_size")
        return config.experiment.batch_size + (replayed if isinstance(replayed, int) else 0)

    def load_buffer(self, buffer: Buffer | dict[str, Any]) -> None:
        """Takes a buffer, or what `Buffer.state_dict` or `Buffer.serialize` returned.

        Raises:
            ValueError: If its size is not `args.buffer_size`.
        """
        if isinstance(buffer, Buffer):
            if buffer.buffer_size != self.args.buffer_size:
                raise ValueError(
                    f"the buffer has {buffer.buffer_size} rows, but --buffer_size is "
                    f"{self.args.buffer_size}: give --buffer_size {buffer.buffer_size}"
                )
            self.buffer = buffer
            return
        if "data" not in buffer:
            # A bare dictionary of tensors does not say how many examples were seen.
            rows = len(buffer["examples"])
            buffer = {
                "buffer_size": rows,
                "num_seen_examples": rows,
                "data": buffer,
                "policy": "reservoir",
                "policy_state": {"seen": torch.tensor(rows)},
            }
        self.buffer.load_state_dict(buffer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the scores, [B, K], that evaluation compares; by default the logits."""
        logits: torch.Tensor = self.net(x)
        return logits

    def draw(self, batch: Batch) -> None:
        """Draws what is replayed into `batch.replay`, if the model defines it.

        With `--whole_step` it is called before `training_loss`, which is then compiled and must not
        read a buffer. Otherwise `training_loss` calls it if `batch.replay` is None.
        """

    def deployed_net(self) -> MammothBackbone:
        """Returns the backbone to export, whose logits are the scores of `forward`.

        By default this is `net`. A model with scores of its own returns a network that computes
        them, such as those of `models.networks.scored`.
        """
        return self.net

    @classmethod
    def deployed_net_of(
        cls, checkpoint: Mapping[str, Any], backbone: MammothBackbone
    ) -> MammothBackbone:
        """Returns the `deployed_net` of a model in a checkpoint, rebuilt on the CPU without data.

        Args:
            checkpoint: What `read_checkpoint` returned.
            backbone: The backbone of the run, on the CPU, with any weights.

        Raises:
            CheckpointError: If the state does not fit the model.
            RuntimeError: If the weights do not fit its network.
        """
        from mammoth_compiled.models.core.saved import rebuild_model  # imports this module

        model: Self = rebuild_model(cls, checkpoint, backbone)
        return model.deployed_net()

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss of one batch, 0-d.

        On a GPU the step is captured as a CUDA graph after a few steps and then replayed without
        Python. State that changes from step to step must therefore be in tensors, updated in place,
        and no value may be read back to the host; otherwise the step stays in Python, with a
        warning.
        """
        raise NotImplementedError(
            f"{type(self).__name__} defines neither observe(inputs, labels, not_aug_inputs, epoch) "
            "nor training_loss(batch)"
        )

    def after_backward(self, batch: Batch) -> None:
        """Called between backward and the weight update, to read or change `p.grad` in place.

        Gradients are those of the loss, also with `--amp fp16`, and not clipped yet. In a step that
        overflows in fp16 they are not finite; the weights are then not updated. Part of the
        captured step like `training_loss`.
        """

    def after_step(self, batch: Batch) -> None:
        """Called after the weight update, to fill a buffer; see `training_loss`."""

    def meta_observe(
        self,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        not_aug_inputs: torch.Tensor,
        *fields: torch.Tensor,
        epoch: int | None = None,
    ) -> torch.Tensor | float:
        """Calls `observe` with the arguments that it takes, and returns the loss.

        Args:
            inputs: See `observe`.
            labels: See `observe`.
            not_aug_inputs: See `observe`.
            *fields: What the training set adds to its items; see `MammothDataset`.
            epoch: Current epoch from 0.
        """
        training_set = getattr(self._stream.train_loader, "dataset", None)
        names = getattr(training_set, "extra_return_fields", ())
        given = {"epoch": epoch, **dict(zip(names, fields, strict=False))}
        accepted = _parameters(type(self).observe)
        if accepted is not None:
            given = {name: value for name, value in given.items() if name in accepted}
        result: Any = self.observe(inputs, labels, not_aug_inputs, **given)
        return result["loss"] if isinstance(result, dict) else result

    def get_gradients(self) -> list[torch.Tensor]:
        """Returns the gradients of all parameters that the optimizer updates and that have one."""
        parameters = flat_parameters(self.opt.param_groups)
        return [p.grad for p in parameters if p.grad is not None]

    def average_over_ranks(self, tensors: Sequence[torch.Tensor]) -> None:
        """Averages tensors in place over the ranks of data-parallel training.

        A step's gradients and loss are averaged by `observe`. Call this for what else a step
        computes from its own rows and changes weights with, such as a gradient on replayed images.
        """
        average_(tensors)

    def observe(
        self,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        not_aug_inputs: torch.Tensor,
        epoch: int | None = None,
        true_labels: torch.Tensor | None = None,
    ) -> torch.Tensor | float:
        """Trains on one batch.

        Args:
            inputs: Augmented, normalized images, [B, C, H, W].
            labels: Class ids, int64, [B].
            not_aug_inputs: Images in [0, 1] without augmentation, [B, C, H, W].
            epoch: Current epoch from 0.
            true_labels: Labels without noise, [B], if `--noise_rate` replaced some.

        Returns:
            The loss, a float or a 0-d tensor; a tensor causes no host sync.
        """
        batch = Batch(inputs, labels, not_aug_inputs, true_labels=true_labels)
        self.opt.zero_grad()
        loss = self._backward(batch)
        if num_ranks() > 1:
            average_([*self.get_gradients(), loss])
        reads_grads = type(self).after_backward is not ContinualModel.after_backward
        if self._clip_grad or reads_grads:
            self.scaler.unscale_(self.opt)
        with torch.no_grad():
            self.after_backward(batch)
        if self._clip_grad:
            nn.utils.clip_grad_norm_(flat_parameters(self.opt.param_groups), self._clip_grad)
        self.scaler.step(self.opt)
        self.scaler.update()
        with torch.no_grad():
            self.after_step(batch)
        return loss

    def _backward(self, batch: Batch) -> torch.Tensor:
        """Computes the loss, detached, and its gradients, in one graph if the run asks for it."""
        whole_step = getattr(self.compute, "whole_step", None)
        loss: torch.Tensor | None = None if whole_step is None else whole_step(self, batch)
        if loss is None:
            loss = self.training_loss(batch)
            self.scaler.scale(loss).backward()
        return loss.detach()


@functools.cache
def _parameters(function: Callable[..., Any]) -> frozenset[str] | None:
    """Returns the names of a function's parameters, None if it takes any keyword."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return frozenset(p.name for p in parameters)
