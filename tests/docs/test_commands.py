"""The commands on README and in the documentation are accepted by the parsers of today."""

import re
import shlex
from pathlib import Path

import pytest

from mammoth_compiled.compat.__main__ import parser as compat_parser
from mammoth_compiled.config.commands import add_command_args
from mammoth_compiled.config.experiments import resolve_experiments
from mammoth_compiled.config.parser import Parser
from mammoth_compiled.export.__main__ import _parser as export_parser
from mammoth_compiled.report.__main__ import parser as report_parser
from mammoth_compiled.sweep.__main__ import parser as sweep_parser

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^[^#]*-m mammoth_compiled\.(\w+) (.*)")


def commands():
    """Yields (name of the command, its words) of all pages, those with placeholders left out."""
    for page in PAGES:
        for block in FENCE.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                match = COMMAND.match(line)
                if match and "..." not in line and "--import" not in line:
                    name, words = match[1], shlex.split(match[2], comments=True)
                    yield pytest.param(name, words, id=f"{page.stem}-{' '.join(words)}")


@pytest.mark.parametrize(("name", "words"), list(commands()))
def test_command_is_accepted(name, words):
    match name:
        case "run":
            parser = Parser()
            add_command_args(parser)
            command, rest = parser.read_known(words)
            if not {"list", "help"} & set(command):
                assert resolve_experiments(rest, {}, command.get("seeds"))
        case "sweep":
            assert sweep_parser().read(words)["file"] == "exp.yaml"
        case "report":
            report_parser().parse_args(words)
        case "compat":
            compat_parser().parse_args(words)
        case "export":
            known = {"export", "show", "open", "verify", "update"}
            export_parser().parse_args(words if words[0] in known else ["export", *words])
