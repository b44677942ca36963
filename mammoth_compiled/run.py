"""python -m mammoth_compiled.run: runs one experiment from the command line."""

import contextlib
import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from mammoth_compiled.config import Parser, RunConfig, resolve
from mammoth_compiled.config.commands import add_command_args, help_text, listing
from mammoth_compiled.console import begin_output, discard_output, output_failure, say
from mammoth_compiled.engine.explain import explain_backbone
from mammoth_compiled.errors import ConfigError, MammothError, OutputError
from mammoth_compiled.exit_codes import ERROR, INTERRUPTED, NO_OUTPUT, SUCCESS
from mammoth_compiled.observers import command_line_observers
from mammoth_compiled.plugins import import_plugin
from mammoth_compiled.registry import datasets, models
from mammoth_compiled.runner import build
from mammoth_compiled.signals import signals_end_process
from mammoth_compiled.training import train


def run(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code.

    Args:
        argv: The words of the command line, without the program.

    Raises:
        MammothError: If an argument is invalid or the run fails.
    """
    command, rest = _parse_command(argv)
    for plugin in command.get("import", []):
        import_plugin(plugin)
    parts = {name: command.get(name) for name in ("model", "dataset", "backbone")}
    if command.get("list"):
        say(listing())
    elif command.get("help"):
        say(help_text(**parts))
    else:
        args = _resolve(parts, rest)
        if command.get("explain"):
            say(explain_backbone(*build(args)))
        else:
            return _train(args)
    return SUCCESS


def _parse_command(argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns the flags that decide which other arguments exist, and the words of the others."""
    parser = Parser()
    add_command_args(parser)
    for name in ("model", "dataset", "backbone"):
        parser.add_argument(f"--{name}")
    return parser.read_known(argv)


def _resolve(parts: Mapping[str, str | None], rest: list[str]) -> Namespace:
    """Resolves the arguments of the run."""
    model, dataset, backbone = parts["model"], parts["dataset"], parts["backbone"]
    if model is None:
        raise ConfigError(f"--model is required; valid: {', '.join(sorted(models))}")
    if dataset is None:
        raise ConfigError(f"--dataset is required; valid: {', '.join(sorted(datasets))}")
    given = rest if backbone is None else [*rest, "--backbone", backbone]
    args = resolve(model, dataset, given)
    if args.data_dir is not None:
        # User-defined datasets read their files from base_path().
        os.environ["MAMMOTH_BASE_PATH"] = args.data_dir
    return args


def _train(args: Namespace) -> int:
    # Before the model is built: an observer raises at once if it cannot write its output.
    observers = command_line_observers(RunConfig.from_namespace(args))
    results = train(*build(args), observers=observers)
    return INTERRUPTED if results.interrupted else SUCCESS


def main() -> None:
    """Ends the process: 0 on success, else after one message.

    The exit code is 2 after an error, 1 if standard output cannot be written, and 128 + n after
    signal n.
    """
    begin_output()
    with signals_end_process():
        try:
            code = run(sys.argv[1:])
            if output_failure() and code == SUCCESS:
                raise OutputError(f"cannot write to standard output: {output_failure()}")
        except MammothError as error:
            _report(f"error: {' '.join(str(error).split())}")
            code = NO_OUTPUT if isinstance(error, OutputError) else ERROR
        except KeyboardInterrupt:
            _report("interrupted")
            code = INTERRUPTED
        if code == NO_OUTPUT or output_failure():
            discard_output()
        sys.exit(code)


def _report(line: str) -> None:
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # nowhere left to say it
            sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main()
