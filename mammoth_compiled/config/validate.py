"""Checks that the arguments of a run fit each other."""

from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.device import get_device
from mammoth_compiled.errors import ConfigError

# torch.manual_seed takes a signed 64-bit integer.
MAX_SEED = 2**63


def validate(config: RunConfig) -> None:
    """Checks what the type of a single argument cannot.

    Raises:
        ConfigError: If two arguments contradict each other, or the device does not exist.
    """
    optimizer, compute, files = config.optimizer, config.compute, config.files
    if (config.experiment.seed or 0) >= MAX_SEED:
        raise ConfigError(f"--seed must be below 2**63, got {config.experiment.seed}")
    device = get_device(compute.device)
    if compute.amp == "fp16" and device.type == "cpu":
        raise ConfigError("--amp fp16 needs a GPU; valid on the CPU: off, bf16")
    if optimizer.optim_nesterov and not (optimizer.optimizer == "sgd" and optimizer.optim_mom > 0):
        raise ConfigError("--optim_nesterov 1 needs --optimizer sgd and --optim_mom > 0")
    if (optimizer.lr_scheduler == "multistep") != (optimizer.lr_milestones is not None):
        raise ConfigError("--lr_scheduler multistep and --lr_milestones EPOCH... go together")
    for name in ("formats", "export_variants", "export_each_task"):
        if getattr(files, name) and not files.export:
            raise ConfigError(f"--{name} needs --export DIR")
    buffer_size = config.extra.get("buffer_size")
    minibatch_size = config.extra.get("minibatch_size")
    if buffer_size and minibatch_size and minibatch_size > buffer_size:
        raise ConfigError(f"--minibatch_size {minibatch_size} exceeds --buffer_size {buffer_size}")
