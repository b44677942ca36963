"""ContinualModel: the base class of every continual-learning algorithm."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Self

import torch
from torch import nn
from torchvision import transforms

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.buffers import Buffer
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.device import get_device
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.types import Batch

# One setting, or several of which the one with the nearest buffer_size is taken.
Settings = dict[str, Any] | list[dict[str, Any]]


class ContinualModel(nn.Module):
    """A continual-learning algorithm around a backbone.

    Write either `observe`, one whole training step, or `training_loss`, from which the step is
    made here (with `after_step` for what follows the update).

    Args:
        backbone: The network.
        loss: Loss function of (logits [B, K], labels [B]).
        args: The run's arguments.
        transform: torchvision transform for stored images.
        dataset: The stream of tasks.

    Attributes:
        NAME: Registered name.
        COMPATIBILITY: Settings the algorithm is made for.
        JOINT: True if it trains on all tasks at once.
        DEFAULTS: Best known settings per dataset.
        net: The backbone.
        opt: Its optimiser.
        device: Where it computes.
        num_classes: K.
        n_tasks: T.
        pbar_suffix: Extra values for the progress bar.
    """

    NAME: str
    COMPATIBILITY: ClassVar[list[str]] = ["class-il", "task-il"]
    JOINT: ClassVar[bool] = False
    DEFAULTS: ClassVar[dict[str, Settings]] = {}

    args: Namespace
    buffer: Buffer

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds the algorithm's own arguments to a parser and returns it."""
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
            raise ConfigError(f"{type(self).__name__} needs its dataset: use load_runner")
        self.net = backbone
        self.loss = loss
        self.args = args
        self.transform = transform
        self.dataset = dataset
        self.num_classes = dataset.N_CLASSES
        self.n_tasks = dataset.N_TASKS
        self.pbar_suffix: dict[str, Any] = {}
        if hasattr(dataset, "MEAN"):
            normalise = dataset.get_normalization_transform()
            self.normalization_transform = transforms.Compose(
                [transforms.ToPILImage(), transforms.ToTensor(), normalise]
            )
        self.device = get_device(getattr(args, "device", None))
        self.opt = self.get_optimizer()
        use_scaler = getattr(args, "amp", "off") == "fp16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=use_scaler)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        # All that moves a module comes here: to(), cuda(), cpu().
        super()._apply(*args, **kwargs)
        parameter = next(self.parameters(), None)
        if parameter is not None:
            self.device = parameter.device
        return self

    def get_optimizer(
        self, params: Iterable[torch.Tensor] | None = None, lr: float | None = None
    ) -> torch.optim.Optimizer:
        """Returns the optimiser that the arguments ask for.

        Args:
            params: Parameters to optimise; None takes the backbone's.
            lr: Step size; None takes `args.lr`.

        Raises:
            ConfigError: If `args.optimizer` is unknown; lists the valid ones.
        """
        parameters = list(self.net.parameters() if params is None else params)
        lr = self.args.lr if lr is None else lr
        decay = getattr(self.args, "optim_wd", 0.0)
        name = getattr(self.args, "optimizer", "sgd").lower()
        # One loop over all parameters, where there is code for it.
        fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
        if name == "sgd":
            momentum = getattr(self.args, "optim_mom", 0.0)
            nesterov = bool(getattr(self.args, "optim_nesterov", False))
            return torch.optim.SGD(
                parameters, lr, momentum, weight_decay=decay, nesterov=nesterov, fused=fused
            )
        if name == "adam":
            return torch.optim.Adam(parameters, lr, weight_decay=decay, fused=fused)
        if name == "adamw":
            return torch.optim.AdamW(parameters, lr, weight_decay=decay, fused=fused)
        raise ConfigError(f"unknown optimizer {name!r}; valid: adam, adamw, sgd")

    def load_buffer(self, buffer: Buffer | dict[str, Any]) -> None:
        """Takes a buffer, or what `Buffer.state_dict` or `Buffer.serialize` returned.

        Raises:
            ValueError: If its size is not `args.buffer_size`.
        """
        if isinstance(buffer, Buffer):
            if buffer.buffer_size != self.args.buffer_size:
                raise ValueError(
                    f"the buffer has {buffer.buffer_size} rows, the run asks for "
                    f"{self.args.buffer_size}"
                )
            self.buffer = buffer
            return
        if "data" not in buffer:
            # A bare dictionary of tensors does not say how long the stream was.
            rows = len(buffer["examples"])
            buffer = {"buffer_size": rows, "num_seen_examples": rows, "data": buffer}
        self.buffer.load_state_dict(buffer)

    def begin_task(self, dataset: ContinualDataset) -> None:
        """Called before each task."""

    def end_task(self, dataset: ContinualDataset) -> None:
        """Called after each task, before the evaluation."""

    def begin_epoch(self, epoch: int, dataset: ContinualDataset) -> None:
        """Called before each epoch, counted from 0."""

    def end_epoch(self, epoch: int, dataset: ContinualDataset) -> None:
        """Called after each epoch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the scores [B, K] that the evaluation compares, the logits by default."""
        logits: torch.Tensor = self.net(x)
        return logits

    def training_loss(self, batch: Batch) -> torch.Tensor:
        """Returns the loss of one batch, 0-d.

        On a GPU the step is recorded as one CUDA graph after its first runs and replayed from then
        on, without Python. So what changes from step to step belongs into tensors, in place, and
        nothing may be read back to the host; otherwise the step stays in Python, with a warning.
        """
        raise NotImplementedError(
            f"{type(self).__name__} defines neither observe(inputs, labels, not_aug_inputs, epoch) "
            "nor training_loss(batch)"
        )

    def after_step(self, batch: Batch) -> None:
        """Called after the update of the weights, to fill a buffer; see `training_loss`."""

    def observe(
        self,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        not_aug_inputs: torch.Tensor,
        epoch: int | None = None,
    ) -> torch.Tensor | float:
        """Learns from one batch.

        Args:
            inputs: Augmented, normalised images, [B, C, H, W].
            labels: Class ids, int64, [B].
            not_aug_inputs: Images in [0, 1] without augmentation, [B, C, H, W].
            epoch: Current epoch from 0.

        Returns:
            The loss, a float or a 0-d tensor; a tensor does not make the device wait.
        """
        batch = Batch(inputs, labels, not_aug_inputs)
        self.opt.zero_grad()
        loss = self.training_loss(batch)
        self.scaler.scale(loss).backward()
        if max_norm := getattr(self.args, "clip_grad", None):
            self.scaler.unscale_(self.opt)
            nn.utils.clip_grad_norm_(self.net.parameters(), max_norm)
        self.scaler.step(self.opt)
        self.scaler.update()
        with torch.no_grad():
            self.after_step(batch)
        return loss.detach()
