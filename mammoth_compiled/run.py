"""python -m mammoth_compiled.run: runs one experiment from the command line."""

import contextlib
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from mammoth_compiled.config import Parser, Resolution, RunConfig
from mammoth_compiled.config.commands import add_command_args, help_text, listing
from mammoth_compiled.config.config_file import read_config_file
from mammoth_compiled.config.experiments import describe, given_parts, resolve_experiments
from mammoth_compiled.console import begin_output, discard_output, output_failure, quiet, say
from mammoth_compiled.errors import MammothError, OutputError
from mammoth_compiled.exit_codes import ERROR, INTERRUPTED, NO_OUTPUT, SUCCESS
from mammoth_compiled.plugins import import_plugin
from mammoth_compiled.signals import signals_end_process


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
    # What follows imports torch, and with it everything that registers itself, only if it must.
    if command.get("list"):
        say(listing(plugins="import" in command))
        return SUCCESS
    if command.get("help"):
        parts, _ = given_parts(rest)
        if parts:
            _register_built_in_parts()
        say(help_text(**parts))
        return SUCCESS
    _register_built_in_parts()
    file = read_config_file(command["config"]) if "config" in command else {}
    resolutions = resolve_experiments(rest, file)
    for number, resolution in enumerate(resolutions, start=1):
        if len(resolutions) > 1:
            say(f"run {number} of {len(resolutions)}")
        code = _run(resolution, command, is_grid=len(resolutions) > 1)
        if code != SUCCESS:
            return code
    return SUCCESS


def _parse_command(argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns the flags that decide what to do, and the words of the other arguments."""
    parser = Parser()
    add_command_args(parser)
    return parser.read_known(argv)


def _register_built_in_parts() -> None:
    importlib.import_module("mammoth_compiled.public")


def _run(resolution: Resolution, command: Mapping[str, Any], is_grid: bool) -> int:
    """Does with the arguments of one run what the command line asks for."""
    from mammoth_compiled.dry_run import estimate
    from mammoth_compiled.engine.explain import explain_backbone
    from mammoth_compiled.engine.run_folder import run_folder
    from mammoth_compiled.observers import command_line_observers
    from mammoth_compiled.runner import build
    from mammoth_compiled.training import train

    args = resolution.args
    if args.data_dir is not None:
        # User-defined datasets read their files from base_path().
        os.environ["MAMMOTH_BASE_PATH"] = args.data_dir
    if "explain" in command:
        say(explain_backbone(*build(args)))
    elif "show_config" in command or "dry_run" in command:
        say(describe(resolution))
        if "dry_run" in command:
            say(estimate(*build(args)))
    else:
        config = RunConfig.from_namespace(args)
        with quiet(args.quiet), run_folder(config, is_grid) as args.out:
            # Before the model is built: an observer raises at once if it cannot write its output.
            observers = command_line_observers(RunConfig.from_namespace(args))
            results = train(*build(args), observers=observers)
        return INTERRUPTED if results.interrupted else SUCCESS
    return SUCCESS


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
