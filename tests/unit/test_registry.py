"""Registering names, and inferring arguments from signatures."""

import warnings
from typing import Annotated

import pytest

from mammoth_compiled import (
    get_backbone_names,
    get_dataset_names,
    get_model_names,
    register_backbone,
    register_dataset,
    register_model,
)
from mammoth_compiled.errors import RegistryError
from mammoth_compiled.registry import Registry
from mammoth_compiled.signatures import InputShape, Parameter, infer_parameters

# With `from __future__ import annotations` a signature holds strings.
FUTURE = """
from __future__ import annotations

def net(num_classes: int, width: int = 8, rate: float | None = None, names: list[str] = ()):
    pass
"""


@pytest.fixture
def registry():
    return Registry("backbone", reserved=("self", "num_classes"), classes_only=False)


def net(num_classes):
    """Builds a net.

    More text.
    """


def parameters_of(function):
    return {p.name: p for p in infer_parameters(function, reserved=("num_classes",))}


@pytest.mark.parametrize("name", ["my_net", "my-net", "MY_NET", " My-Net "])
def test_case_and_underscores_are_ignored(registry, name):
    registry.register("My_Net")(net)
    assert registry[name].target is net
    assert name in registry
    assert list(registry) == ["my-net"]
    assert net.NAME == "my-net"


def test_entry_has_summary_and_origin(registry):
    registry.register("net")(net)
    assert registry["net"].summary == "Builds a net."
    assert registry["net"].origin == f"{__name__}.net"


def test_same_definition_replaces_silently(registry):
    def define():
        def cell(num_classes):
            pass

        return cell

    first, second = define(), define()
    registry.register("net")(first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry.register("net")(second)
    assert registry["net"].target is second


def test_other_definition_replaces_with_a_warning(registry):
    def other(num_classes):
        pass

    registry.register("net")(net)
    with pytest.warns(UserWarning, match=r"'net' was \S+\.net and is now \S+\.other"):
        registry.register("net")(other)
    assert registry["net"].target is other


def test_replacement_warning_points_at_user_code(registry):
    registry.register("net")(net)
    with pytest.warns(UserWarning, match="and is now") as record:
        registry.register("net")(lambda num_classes: None)
    assert record[0].filename == __file__


def test_built_in_names_can_be_replaced():
    with pytest.warns(UserWarning, match=r"'cnn' was mammoth_compiled\.backbones\.cnn\.cnn"):
        register_backbone("cnn")(net)
    assert get_backbone_names()["cnn"]["class"] is net


def test_unknown_name_suggests_near_and_lists_all(registry):
    registry.register("resnet18")(net)
    registry.register("cnn")(net)
    with pytest.raises(RegistryError, match=r"unknown backbone 'resnet81'") as caught:
        registry["resnet81"]
    assert "Did you mean 'resnet18'?" in str(caught.value)
    assert "Valid: cnn, resnet18" in str(caught.value)


def test_unknown_name_in_an_empty_registry(registry):
    with pytest.raises(RegistryError, match=r"Valid: \(none\)"):
        registry["cnn"]


@pytest.mark.parametrize("name", [None, 3, "", "  ", net])
def test_register_requires_a_name(registry, name):
    with pytest.raises(RegistryError, match=r"@register_backbone\('my-backbone'\)"):
        registry.register(name)


def test_only_callables_can_be_registered(registry):
    with pytest.raises(RegistryError, match="only a class or a function"):
        registry.register("net")("not a function")


@pytest.mark.parametrize("register", [register_model, register_dataset])
def test_models_and_datasets_must_be_classes(register):
    with pytest.raises(RegistryError, match="only a class can be registered"):
        register("thing")(net)


def test_restored_undoes_registrations(registry):
    registry.register("kept")(net)
    with registry.restored():
        registry.register("dropped")(net)
        assert "dropped" in registry
    assert list(registry) == ["kept"]


@pytest.mark.parametrize("listing", [get_model_names, get_dataset_names, get_backbone_names])
def test_listing(listing):
    names = listing(names_only=True)
    details = listing()
    assert isinstance(names, list)
    assert list(details) == names
    for entry in details.values():
        assert set(entry) == {"class", "parsable_args"}
        assert callable(entry["class"])
        for argument in entry["parsable_args"].values():
            assert set(argument) == {"type", "default", "required"}


def test_listing_of_a_new_name():
    @register_backbone("fresh_net")
    def fresh(num_classes, depth, width=16):
        pass

    assert "fresh-net" in get_backbone_names(names_only=True)
    assert get_backbone_names()["fresh-net"] == {
        "class": fresh,
        "parsable_args": {
            "depth": {"type": str, "default": None, "required": True},
            "width": {"type": int, "default": 16, "required": False},
        },
    }


def test_framework_parameters_are_not_listed():
    assert get_model_names()["sgd"]["parsable_args"] == {}
    assert get_dataset_names()["seq-fmnist-mini"]["parsable_args"] == {}
    assert "num_classes" not in get_backbone_names()["cnn"]["parsable_args"]


def test_types_from_annotations():
    def function(
        num_classes: int,
        count: int,
        rate: float = 0.5,
        name: str = "a",
        on: bool = False,
        maybe: int | None = None,
        sizes: list[int] = (1, 2),
        pair: tuple[float, float] = (0.1, 0.2),
    ):
        pass

    assert parameters_of(function) == {
        "count": Parameter("count", int, None, True),
        "rate": Parameter("rate", float, 0.5),
        "name": Parameter("name", str, "a"),
        "on": Parameter("on", bool, False),
        "maybe": Parameter("maybe", int, None),
        "sizes": Parameter("sizes", int, (1, 2), is_list=True),
        "pair": Parameter("pair", float, (0.1, 0.2), is_list=True),
    }


def test_types_from_defaults_without_annotations():
    def function(count=3, rate=0.5, name="a", on=True, sizes=(1, 2), nothing=None, bare=...):
        pass

    types = {name: (p.type, p.is_list) for name, p in parameters_of(function).items()}
    assert types == {
        "count": (int, False),
        "rate": (float, False),
        "name": (str, False),
        "on": (bool, False),
        "sizes": (int, True),
        "nothing": (str, False),
        "bare": (str, False),
    }


def test_private_and_variadic_parameters_are_skipped():
    class Target:
        def __init__(self, num_classes, width=1, _cache=None, *args, **kwargs):
            pass

    assert list(parameters_of(Target)) == ["width"]


def test_string_annotations_are_evaluated():
    namespace = {}
    exec(FUTURE, namespace)
    parameters = parameters_of(namespace["net"])
    assert (parameters["width"].type, parameters["rate"].type) == (int, float)
    assert (parameters["names"].type, parameters["names"].is_list) == (str, True)


def test_unresolvable_annotations_are_ignored():
    def function(num_classes, width: "OnlyForTypeCheckers" = 8):  # noqa: F821
        pass

    assert parameters_of(function)["width"].type is int


class Documented:
    """A target with a documented signature.

    Args:
        num_classes: Classes.
        width: Units of
            the layer.
        depth: Number of layers: one or more.

    Raises:
        ValueError: If `width` is 0.
    """

    def __init__(self, num_classes, width=1, depth=2, bare=3):
        pass


def documented(num_classes, width=1, bare=2) -> Documented:
    """Returns a `Documented`."""


@pytest.mark.parametrize(
    ("target", "descriptions"),
    [
        (
            Documented,
            {"width": "Units of the layer.", "depth": "Number of layers: one or more.", "bare": ""},
        ),
        (documented, {"width": "Units of the layer.", "bare": ""}),
        (net, {}),
    ],
)
def test_descriptions_from_docstrings(target, descriptions):
    found = {name: p.description for name, p in parameters_of(target).items()}
    assert found == descriptions


def test_input_shape_from_name_and_annotation():
    def function(
        num_classes,
        in_channels: int,
        input_size=32,
        pixels: Annotated[int, InputShape.FLAT] = 784,
        num_channels: Annotated[int, "unrelated"] = 8,
    ):
        pass

    shapes = {name: (p.type, p.input_shape) for name, p in parameters_of(function).items()}
    assert shapes == {
        "in_channels": (int, InputShape.CHANNELS),
        "input_size": (int, InputShape.SIZE),
        "pixels": (int, InputShape.FLAT),
        "num_channels": (int, None),
    }
