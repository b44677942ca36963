"""The buffer policies; every module of this package that defines `POLICY` adds one."""

from mammoth_compiled.buffers.policies.base import BufferPolicy, State
from mammoth_compiled.errors import ConfigError, unknown_name
from mammoth_compiled.plugins import import_submodules

POLICIES: dict[str, BufferPolicy] = {
    module.POLICY.name: module.POLICY
    for module in import_submodules(__name__, __path__)
    if hasattr(module, "POLICY")
}

__all__ = ["POLICIES", "BufferPolicy", "State", "find_policy"]


def find_policy(name: str, capacity: int, num_classes: int | None) -> BufferPolicy:
    """Returns a policy by name, checked against the buffer it is for.

    Args:
        name: A key of `POLICIES`.
        capacity: Slots of the buffer, N.
        num_classes: Number of classes of the stream, K; None if unknown.

    Raises:
        ConfigError: If there is no such policy, or it needs the number of classes or more slots.

    Example:
        >>> find_policy("reservoir", capacity=500, num_classes=None).needs_labels
        False
    """
    if name not in POLICIES:
        raise ConfigError(unknown_name("buffer policy", name, POLICIES))
    policy = POLICIES[name]
    if policy.needs_labels and num_classes is None:
        raise ConfigError(
            f"the buffer policy {name!r} needs the number of classes: pass "
            "Buffer(..., num_classes=...)"
        )
    if policy.needs_slot_per_class and num_classes is not None and capacity < num_classes:
        raise ConfigError(
            f"the buffer policy {name!r} needs room for one sample of each of the {num_classes} "
            f"classes, but --buffer_size is {capacity}"
        )
    return policy
