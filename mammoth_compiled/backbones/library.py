"""LibraryBackbone: networks of other libraries behind the contract of `ReturnTypes`."""

import ast
import copy
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.errors import ConfigError, RegistryError, shorten
from mammoth_compiled.types import ReturnTypes

# Sides in pixels that are tried, from small to large, if a network does not take the dataset's.
SIDES = (32, 64, 96, 128, 160, 192, 224, 256, 384)
DEFAULT_SIDE = 224

Size = tuple[int, int]
# Takes the number of channels, the value of `--pretrained` and the arguments of --net_args.
Prepare = Callable[[int, str, dict[str, Any]], tuple[Callable[[Size], nn.Module], int | None, int]]


class LibraryBackbone(MammothBackbone):
    """A network without its last layer, and a linear classifier on its features.

    Args:
        body: The network; returns features [B, F] of images [B, C, H, W].
        feature_dim: Width of the features, F.
        num_classes: K, the width of the classifier.
        resize: Height and width in pixels to which images are resized first (bilinear); None
            keeps them.
    """

    def __init__(
        self, body: nn.Module, feature_dim: int, num_classes: int, resize: Size | None = None
    ) -> None:
        super().__init__()
        self.body: Any = body
        self.resize = resize
        self.feature_dim = feature_dim
        self.classifier = nn.Linear(feature_dim, num_classes)

    def forward(self, x: torch.Tensor, returnt: ReturnTypes = ReturnTypes.OUT) -> Any:
        """Returns logits, [B, K], features, [B, F], or both.

        A body with `forward_intermediates`, as timm's have, also supports `FULL`.
        """
        if self.resize is not None:
            x = F.interpolate(x, self.resize, mode="bilinear")
        if returnt == ReturnTypes.FULL and hasattr(self.body, "forward_intermediates"):
            last, maps = self.body.forward_intermediates(x)
            return self.classifier(self.body.forward_head(last)), maps
        features = self.body(x)
        return select_return(self.classifier(features), features, returnt)


def library_backbone(name: str, library: str, prepare: Prepare) -> Callable[..., LibraryBackbone]:
    """Returns a function that builds a network of a library; its parameters become arguments.

    Args:
        name: Name of the backbone, with its prefix.
        library: Name of the library.
        prepare: Returns a function that builds the network without its last layer for images of a
            size (H, W), the size in pixels of the images that its pretrained weights need, and the
            size that the network was designed for.
    """

    def build(
        num_classes: int,
        in_channels: int = 3,
        input_size: tuple[int, int] = (32, 32),
        pretrained: str = "none",
        resize: int | None = None,
        net_args: Sequence[str] = (),
    ) -> LibraryBackbone:
        """A network of another library.

        Args:
            num_classes: K, the width of the classifier.
            in_channels: Channels of the images.
            input_size: Height and width of the images, pixels.
            pretrained: Weights to start from: none, hub (downloads the library's), or a file.
            resize: Side in pixels to which images are resized first, by default that of the
                pretrained weights; without weights, the images' own if the network takes it.
            net_args: Further arguments of the library's function, as KEY=VALUE.
        """
        make, side, designed = prepare(in_channels, pretrained, parse_arguments(name, net_args))
        body, width, resized = fit(make, name, in_channels, input_size, resize or side, designed)
        return LibraryBackbone(body, width, num_classes, resized)

    summary = f"{name.partition(':')[2]} of {library}."
    build.__doc__ = summary + (build.__doc__ or "").partition(".")[2]
    # Messages name the module of the library.
    build.__module__, build.__qualname__ = prepare.__module__, prepare.__qualname__
    return build


def fit(
    build: Callable[[Size], nn.Module],
    name: str,
    in_channels: int,
    input_size: Sequence[int],
    side: int | None,
    designed: int = DEFAULT_SIDE,
) -> tuple[nn.Module, int, Size | None]:
    """Builds a network for the size of a dataset's images, or for the next larger that it takes.

    Args:
        build: Returns the network, without its last layer, for images of a size (H, W).
        name: Name of the backbone, for messages.
        in_channels: Channels of the images, C.
        input_size: Height and width of the dataset's images, or one number for both.
        side: Size to resize to, pixels; None chooses.
        designed: Size of the images that the network was designed for, pixels.

    Returns:
        The network, the width of its features, and the size that it needs images to be resized
        to, None if it takes them as they are.

    Raises:
        ConfigError: If it takes images of no size that was tried; gives the reason.
    """
    height, width = input_size[0], input_size[-1]
    sizes = [
        (height, width),
        *((s, s) for s in sorted({*SIDES, designed}) if s > max(height, width)),
    ]
    reasons = []
    for size in sizes if side is None else [(side, side)]:
        try:
            net = build(size)
            shape = _output_shape(net, (2, in_channels, *size))
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            reasons.append(f"{size[0]}x{size[1]}: {shorten(str(error))}")
            continue
        if len(shape) != 2:
            raise ConfigError(f"backbone {name!r} is not a classifier: it returns {list(shape)}")
        return net, shape[1], None if size == (height, width) else size
    raise ConfigError(
        f"backbone {name!r} does not take images of {reasons[-1]}. Give --resize N, the side in "
        "pixels that its authors use, often 224"
    )


def _output_shape(net: nn.Module, shape: Sequence[int]) -> torch.Size:
    """Returns the shape of the outputs for images of a shape, without computing them."""
    tensors = (*net.parameters(), *net.buffers())
    on_meta = {id(tensor): tensor.detach().to("meta") for tensor in tensors}
    # A copy, because a network may keep what it computed, such as positions for a size of images.
    copied = copy.deepcopy(net, on_meta).eval()
    with torch.no_grad():
        result: torch.Size = copied(torch.empty(shape, device="meta")).shape
    return result


def parse_arguments(name: str, words: Iterable[str]) -> dict[str, Any]:
    """Returns the arguments of `--net_args key=value ...`.

    Args:
        name: Name of the backbone, for messages.
        words: Texts `key=value`; values are Python literals, anything else is text.

    Raises:
        ConfigError: If a text has no key.

    Example:
        >>> parse_arguments("timm:vit", ["depth=2", "act_layer=gelu"])
        {'depth': 2, 'act_layer': 'gelu'}
    """
    arguments = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not (equals and key.isidentifier()):
            raise ConfigError(
                f"--net_args of backbone {name!r}: must be KEY=VALUE, got {shorten(word)}"
            )
        try:
            arguments[key] = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            arguments[key] = text
    return arguments


def unknown_network(library: str, name: str, valid: Iterable[str], listing: str) -> RegistryError:
    """Returns the error for a name that a library does not have, with the nearest three.

    Args:
        library: Name of the library.
        name: The unknown name.
        valid: The names that it has.
        listing: Python expression that lists them.
    """
    nearest = [repr(near) for near in get_close_matches(name[:99], list(valid), n=3, cutoff=0.4)]
    hint = f" Did you mean {' or '.join(nearest)}?" if nearest else ""
    return RegistryError(f"{library} has no network {shorten(name)}.{hint} All: {listing}")
