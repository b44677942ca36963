"""The arguments of a run: what there is, what is given, what is known to work best.

Precedence: given > best known setting of (model, dataset) > the dataset's default > the argument's.
"""

import argparse
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from mammoth_compiled.config.values import boolean, non_negative_float, non_negative_int, positive_float, positive_int
from mammoth_compiled.device import get_device
from mammoth_compiled.errors import ConfigError, unknown_name
from mammoth_compiled.registry import Parameter, backbones, datasets, models


class Parser(ArgumentParser):
    """An argument parser that raises `ConfigError` instead of ending the process."""

    def error(self, message: str) -> Any:
        """Raises ConfigError."""
        raise ConfigError(message)


def add_rehearsal_args(parser: ArgumentParser) -> None:
    """Adds `--buffer_size` and `--minibatch_size` to a model's parser."""
    group = parser.add_argument_group("Rehearsal")
    group.add_argument(
        "--buffer_size", type=positive_int, required=True, help="Capacity of the buffer, samples."
    )
    group.add_argument(
        "--minibatch_size",
        type=positive_int,
        help="Samples replayed per step (default: the batch size).",
    )


def add_base_args(parser: ArgumentParser) -> None:
    """Adds the arguments that every run has."""
    add = parser.add_argument_group("Experiment").add_argument
    add("--model", required=True, metavar="NAME", help="Continual-learning algorithm.")
    add("--dataset", required=True, metavar="NAME", help="Dataset, as a stream of tasks.")
    add("--backbone", metavar="NAME", help="Network (default: the dataset's).")
    add("--lr", type=positive_float, help="Step size of the optimiser.")
    add("--batch_size", type=positive_int, help="Images of the stream per step.")
    add("--n_epochs", type=positive_int, help="Epochs per task.")
    add("--joint", type=boolean, default=False, metavar="{0,1}", help="Train on all tasks at once.")
    add(
        "--seed", type=non_negative_int, help="Seed of all random generators (default: not seeded)."
    )
    add(
        "--debug_mode",
        type=boolean,
        default=False,
        metavar="{0,1}",
        help="Run 6 batches per epoch only.",
    )

    add = parser.add_argument_group("Optimiser").add_argument
    add("--optimizer", choices=["sgd", "adam", "adamw"], default="sgd", help="Optimiser.")
    add("--optim_wd", type=non_negative_float, default=0.0, help="Weight decay.")
    add("--optim_mom", type=non_negative_float, default=0.0, help="Momentum of SGD.")
    add(
        "--optim_nesterov",
        type=boolean,
        default=False,
        metavar="{0,1}",
        help="Nesterov momentum; needs --optim_mom.",
    )
    add("--clip_grad", type=positive_float, help="Largest norm of the gradient (default: any).")
    add(
        "--lr_scheduler",
        choices=["none", "cosine", "multistep"],
        default="none",
        help="How the step size falls within a task; each task begins with --lr.",
    )
    add(
        "--lr_milestones",
        type=positive_int,
        nargs="+",
        metavar="EPOCH",
        help="Epochs of a task after which multistep lowers the step size.",
    )
    add(
        "--lr_gamma",
        type=positive_float,
        default=0.1,
        help="What multistep multiplies the step size by.",
    )

    add = parser.add_argument_group("Compute").add_argument
    add("--device", help="cpu, cuda or cuda:N (default: the first GPU, else the CPU).")
    add(
        "--compile",
        choices=["auto", "on", "off"],
        default="auto",
        help="Run the backbone compiled; auto: on a GPU always, on a CPU where it pays.",
    )
    add(
        "--cuda_graph",
        choices=["auto", "off"],
        default="auto",
        help="Run the whole training step as one CUDA graph where that can be done.",
    )
    add("--amp", choices=["off", "bf16", "fp16"], default="off", help="Precision of the backbone.")
    add("--num_workers", type=non_negative_int, help="Processes for data that is read one by one.")

    add = parser.add_argument_group("Files").add_argument
    add("--data_dir", metavar="DIR", help="Where the data is or goes (default: ./data).")
    add("--savecheck", choices=["task", "last"], help="Save after each task or at the end.")
    add(
        "--checkpoint_path",
        metavar="DIR",
        help="Where checkpoints go (default: ./data/checkpoints).",
    )
    add("--loadcheck", metavar="PATH", help="Go on from this checkpoint.")
    add("--export", metavar="DIR", help="Export the trained backbone to this folder.")
    add(
        "--formats",
        metavar="LIST",
        help="Formats of the export, with commas: onnx, pt2, aoti, torchscript, safetensors "
        "(default: onnx,pt2,safetensors).",
    )
    add(
        "--export_variants",
        metavar="LIST",
        help="Smaller ONNX models beside it, with commas: fp16, int8.",
    )
    add(
        "--export_each_task",
        type=boolean,
        default=False,
        metavar="{0,1}",
        help="Export after the first task and put the new weights in after each other.",
    )
    add("--results_path", metavar="PATH", help="Write the results to this JSON file.")


def _add_parameters(parser: ArgumentParser, title: str, parameters: Sequence[Parameter]) -> None:
    known = {action.dest for action in parser._actions}
    group = parser.add_argument_group(title)
    for p in parameters:
        # An argument of the run with the same name (`device`, say) is passed on.
        if p.name not in known:
            group.add_argument(
                f"--{p.name}",
                type=boolean if p.type is bool else p.type,
                default=p.default,
                required=p.required,
                nargs="+" if p.is_list else None,
                metavar=p.type.__name__.upper(),
                help=f"{p.type.__name__}" + ("" if p.required else f" (default: {p.default})."),
            )


def build_parser(
    model: str | None = None, dataset: str | None = None, backbone: str | None = None
) -> Parser:
    """Returns a parser of the base arguments and of those of what is named.

    Raises:
        RegistryError: If a name is unknown.
    """
    parser = Parser(
        prog="python -m mammoth_compiled.run",
        allow_abbrev=False,
        add_help=False,
        conflict_handler="resolve",
    )
    add_base_args(parser)
    if model is not None:
        entry = models[model]
        own = parser.add_argument_group(f"Model {entry.name}")
        before = set(map(id, parser._actions))
        entry.target.get_parser(parser)  # type: ignore[attr-defined]
        # What get_parser adds without a group of its own lands in argparse's default group.
        for action in list(parser._optionals._group_actions):
            if id(action) not in before:
                own._group_actions.append(action)
                parser._optionals._group_actions.remove(action)
    if dataset is not None:
        entry = datasets[dataset]
        _add_parameters(parser, f"Dataset {entry.name}", entry.parameters)
    if backbone is not None:
        entry = backbones[backbone]
        _add_parameters(parser, f"Backbone {entry.name}", entry.parameters)
    return parser


def default_backbone(dataset: str) -> str:
    """Returns the name of a dataset's own backbone."""
    name: str = datasets[dataset].target.get_backbone()  # type: ignore[attr-defined]
    return name


def resolve(model: str, dataset: str, given: Mapping[str, Any] | Sequence[str]) -> Namespace:
    """Returns all arguments of a run.

    Args:
        model: Registered name.
        dataset: Registered name.
        given: Values by name, None meaning not given; or words of a command line.

    Raises:
        ConfigError: If an argument is unknown, missing, of the wrong type or out of range.
        RegistryError: If a name is unknown.
    """
    words = not isinstance(given, Mapping)
    backbone = _peek_backbone(given) or default_backbone(dataset)
    parser = build_parser(model, dataset, backbone)
    defaults, required = {}, []
    for action in parser._actions:
        defaults[action.dest] = _default(action)
        if action.required:
            required.append(action)
        action.default, action.required = SUPPRESS, False
    chosen = {"model": models[model].name, "dataset": datasets[dataset].name}
    read = _read_words(parser, given) if words else _read_mapping(parser, given)  # type: ignore[arg-type]
    merged = {
        **defaults,
        **_dataset_defaults(dataset, defaults),
        **_own_defaults(parser),
        **_best_known(model, dataset, read, defaults),
        **read,
        **chosen,
        "backbone": backbones[backbone].name,
    }
    for action in required:
        if merged.get(action.dest) is None:
            raise ConfigError(
                f"--{action.dest} is needed for model {chosen['model']!r} on {chosen['dataset']!r} "
                f"with backbone {merged['backbone']!r}: {action.help or ''}".rstrip(": ")
            )
    args = Namespace(**merged)
    _check(args)
    return args


def _default(action: argparse.Action) -> Any:
    if isinstance(action.default, str) and callable(action.type):
        return action.type(action.default)
    return action.default


def _peek_backbone(given: Mapping[str, Any] | Sequence[str]) -> str | None:
    if isinstance(given, Mapping):
        return given.get("backbone")
    peek = Parser(add_help=False, allow_abbrev=False)
    peek.add_argument("--backbone")
    name: str | None = peek.parse_known_args(list(given))[0].backbone
    return name


def _read_words(parser: Parser, words: Sequence[str]) -> dict[str, Any]:
    args, unknown = parser.parse_known_args(list(words))
    if unknown:
        valid = [f"--{action.dest}" for action in parser._actions]
        raise ConfigError(unknown_name("argument", unknown[0].split("=")[0], valid))
    return vars(args)


def _read_mapping(parser: Parser, given: Mapping[str, Any]) -> dict[str, Any]:
    actions = {action.dest: action for action in parser._actions}
    for name in given:
        if name not in actions:
            raise ConfigError(unknown_name("argument", name, actions))
    return {
        name: _convert(parser, actions[name], value)
        for name, value in given.items()
        if value is not None
    }


def _convert(parser: Parser, action: argparse.Action, value: Any) -> Any:
    """Converts a value as the command line would convert its text."""
    if action.nargs == 0:  # a flag: the dictionary holds the value, not whether it was given
        return _convert_flag(action, value)
    if action.nargs in ("+", "*") or isinstance(action.nargs, int):
        values = value if isinstance(value, (list, tuple)) else [value]
        return [_convert_one(parser, action, v) for v in values]
    return _convert_one(parser, action, value)


def _convert_flag(action: argparse.Action, value: Any) -> Any:
    if not isinstance(action.const, bool):
        return value
    try:
        return boolean(str(value))
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"argument --{action.dest}: {error}") from None


def _convert_one(parser: Parser, action: argparse.Action, value: Any) -> Any:
    try:
        if action.type is not None or isinstance(value, str):
            value = parser._get_value(action, str(value))
        parser._check_value(action, value)
    except argparse.ArgumentError as error:
        raise ConfigError(str(error)) from None
    return value


def _dataset_defaults(dataset: str, known: Mapping[str, Any]) -> dict[str, Any]:
    values = {"lr": 0.03, "batch_size": 32, "n_epochs": 1}
    values.update(getattr(datasets[dataset].target, "DEFAULTS", {}))
    return {name: value for name, value in values.items() if name in known}


def _own_defaults(parser: Parser) -> dict[str, Any]:
    """What a model's get_parser set with `parser.set_defaults`."""
    return dict(parser._defaults)


def _best_known(
    model: str, dataset: str, given: Mapping[str, Any], known: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the best known setting; of several, the one nearest in buffer size."""
    settings = getattr(models[model].target, "DEFAULTS", {}).get(datasets[dataset].name, {})
    if isinstance(settings, list):
        wanted = given.get("buffer_size", settings[0].get("buffer_size"))
        settings = min(settings, key=lambda s: abs(s["buffer_size"] - wanted))
    return {name: value for name, value in settings.items() if name in known}


def _check(args: Namespace) -> None:
    """Checks what one argument alone cannot tell, and fills the replay batch size."""
    device = get_device(args.device)
    if args.optim_nesterov and not (args.optimizer == "sgd" and args.optim_mom > 0):
        raise ConfigError("--optim_nesterov 1 needs --optimizer sgd and --optim_mom > 0")
    if (args.lr_scheduler == "multistep") != (args.lr_milestones is not None):
        raise ConfigError("--lr_scheduler multistep and --lr_milestones EPOCH... go together")
    if args.amp == "fp16" and device.type == "cpu":
        raise ConfigError("--amp fp16 needs a GPU; valid on the CPU: off, bf16")
    for name in ("formats", "export_variants", "export_each_task"):
        if getattr(args, name) and not args.export:
            raise ConfigError(f"--{name} needs --export DIR")
    args.joint = args.joint or getattr(models[args.model].target, "JOINT", False)
    if "minibatch_size" in args and "buffer_size" in args:
        if args.minibatch_size is None:
            args.minibatch_size = min(args.batch_size, args.buffer_size)
        if args.minibatch_size > args.buffer_size:
            raise ConfigError(
                f"--minibatch_size {args.minibatch_size} exceeds --buffer_size {args.buffer_size}"
            )


def get_avail_args(
    dataset: str | None = None, model: str | None = None, backbone: str | None = None
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Returns the required and the optional arguments, each with its description.

    Args:
        dataset: Also list this dataset's arguments.
        model: Also list this model's arguments.
        backbone: Also list this backbone's arguments.

    Returns:
        Two dictionaries by argument name; values hold `description` and, if optional, `default`.

    Note:
        Differs from mammoth_lite: lr, batch_size and n_epochs are optional, since every pair of
        model and dataset has a setting to start from.
    """
    required, optional = {}, {}
    for action in build_parser(model, dataset, backbone)._actions:
        if action.required:
            required[action.dest] = {"description": action.help}
        else:
            optional[action.dest] = {"default": action.default, "description": action.help}
    return required, optional
