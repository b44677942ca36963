"""python -m mammoth_compiled.run: runs one experiment from the command line."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mammoth_compiled.config import Parser, Resolution
from mammoth_compiled.config.commands import add_command_args, help_text, listing
from mammoth_compiled.config.config_file import read_config_file
from mammoth_compiled.config.experiments import describe, given_parts, resolve_experiments
from mammoth_compiled.console import say
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.exit_codes import INTERRUPTED, SUCCESS
from mammoth_compiled.files import write_atomically
from mammoth_compiled.launch import is_launched
from mammoth_compiled.plugins import import_plugin
from mammoth_compiled.signals import exit_code


def run(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code.

    Args:
        argv: The words of the command line, without the program.

    Raises:
        MammothError: If an argument is invalid or the run fails.
    """
    command, rest = _parse_command(argv)
    if "html" in command and "explain" not in command:
        raise ConfigError("--html needs --explain")
    for plugin in command.get("import", []):
        import_plugin(plugin)
    # Torch takes seconds to import. Only what looks at a registry, and what follows, does so.
    if command.get("list"):
        say(listing(plugins="import" in command))
        return SUCCESS
    if command.get("help"):
        parts, _ = given_parts(rest)
        say(help_text(**parts))
        return SUCCESS
    file = read_config_file(command["config"]) if "config" in command else {}
    resolutions = resolve_experiments(rest, file, command.get("seeds"))
    if is_launched() and (len(resolutions) > 1 or "dry_run" in command):
        raise ConfigError("torchrun: give one seed and one configuration, without --dry_run")
    if len(resolutions) > 1 and not {"explain", "show_config", "dry_run"} & set(command):
        from mammoth_compiled.sweep.runs import run_side_by_side

        runs = [resolution.args for resolution in resolutions]
        return run_side_by_side(
            runs, command.get("workers"), command.get("import", []), command.get("together")
        )
    for number, resolution in enumerate(resolutions, start=1):
        if len(resolutions) > 1:
            say(f"run {number} of {len(resolutions)}")
        code = _run(resolution, command)
        if code != SUCCESS:
            return code
    return SUCCESS


def _parse_command(argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns the flags that decide what to do, and the words of the other arguments."""
    parser = Parser()
    add_command_args(parser)
    return parser.read_known(argv)


def _run(resolution: Resolution, command: Mapping[str, Any]) -> int:
    """Does with the arguments of one run what the command line asks for."""
    from mammoth_compiled.device import set_base_path
    from mammoth_compiled.dry_run import estimate
    from mammoth_compiled.engine.explain import explain_backbone
    from mammoth_compiled.engine.explain_html import explanation_page
    from mammoth_compiled.runner import build
    from mammoth_compiled.training import run_experiment

    args = resolution.args
    set_base_path(args.data_dir)
    if "explain" in command:
        explanation = explain_backbone(*build(args))
        say(str(explanation))
        if "html" in command:
            write_atomically(Path(command["html"]), explanation_page(explanation).encode())
            say(f"explanation: {command['html']}")
    elif "show_config" in command or "dry_run" in command:
        say(describe(resolution))
        if "dry_run" in command:
            say(estimate(*build(args)))
    else:
        results = run_experiment(args)
        return INTERRUPTED if results.interrupted else SUCCESS
    return SUCCESS


def main() -> None:
    """Ends the process: 0 on success, else after one message.

    The exit code is 2 after an error, 1 if standard output cannot be written, and 128 + n after
    signal n.
    """
    sys.exit(exit_code(lambda: run(sys.argv[1:])))


if __name__ == "__main__":
    main()
