"""ContinualModel: the base class of every continual-learning method."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import torch
from torchvision import transforms

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.buffers import Buffer
from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.device import get_device
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.models.core.optimizers import Parameters, build_optimizer
from mammoth_compiled.models.core.step import TrainingStep

# One setting, or several, of which the one with the nearest buffer_size applies.
Settings = dict[str, Any] | list[dict[str, Any]]


class ContinualModel(TrainingStep):
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
