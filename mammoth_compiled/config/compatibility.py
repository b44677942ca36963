"""Checks that a method can run on a dataset, before anything is built."""

from typing import Any

from mammoth_compiled.errors import ConfigError
from mammoth_compiled.registry import datasets, models


def models_for(setting: str) -> list[str]:
    """Returns the names of the registered models that support a setting, such as "domain-il"."""
    targets: dict[str, Any] = {name: models[name].target for name in models}
    return [name for name, target in targets.items() if setting in target.COMPATIBILITY]


def declared_setting(dataset: str, blurry: bool) -> str | None:
    """Returns the setting that a model must support, None if the dataset's class has none.

    Args:
        dataset: Registered name.
        blurry: Whether `--blurry` mixes the tasks, which makes it "general-continual".
    """
    source: Any = datasets[dataset].target
    return "general-continual" if blurry else getattr(source, "SETTING", None)


def check_setting(model: str, dataset: str, setting: str | None, blurry: bool) -> None:
    """Checks that a model supports the setting of a dataset.

    Args:
        model: Registered name.
        dataset: Registered name.
        setting: What the model must support; see `declared_setting`.
        blurry: Whether that is because of `--blurry`.

    Raises:
        ConfigError: If it does not; lists the models that do.
    """
    method: Any = models[model].target
    fitting = [] if setting is None else models_for(setting)
    if setting in method.COMPATIBILITY or not fitting:
        return  # a setting that no model has is for the dataset to reject
    why = " because of --blurry" if blurry else ""
    raise ConfigError(
        f"model {models[model].name!r} supports {', '.join(method.COMPATIBILITY)}; dataset "
        f"{datasets[dataset].name!r} is {setting}{why}. Models for {setting}: {', '.join(fitting)}"
    )
