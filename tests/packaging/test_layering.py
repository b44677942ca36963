"""The layers of the package: which module may import which, read from the source.

Imports go one way, see `LAYERS`. `kernels` imports nothing from the rest of the package; `export`
only what it needs to rebuild and compile a backbone, never the training side.
"""

import ast
import functools
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = "mammoth_compiled"

# A module may import those of earlier rows, and those of its own.
LAYERS = [
    {"types", "errors", "kernels", "exit_codes", "launch", "locks"},
    {"console", "files", "html", "memory", "reading", "signatures", "startup"},
    {"signals", "command_line"},
    {"registry", "device", "distributed", "plugins", "checkpoint", "metrics"},
    {"results", "loggers"},
    {"config"},
    {"report"},
    {"data"},
    {"buffers"},
    {"backbones"},
    {"datasets"},
    {"models"},
    {"compiler"},
    {"engine"},
    {"observers"},
    {"runner"},
    {"training", "dry_run"},
    {"compat"},
    {"sweep"},
    {"run", "public"},
]
EXPORT_MAY_USE = {
    "backbones",
    "types",
    "errors",
    "registry",
    "checkpoint",
    "plugins",
    "files",
    "html",
    "console",
    "exit_codes",
    "signals",
    "command_line",
    "export",
    # Its patterns are applied to what AOTInductor compiles for a GPU. It does not know training.
    "compiler",
}


def module_names():
    """Returns, by file, the dotted name under which it is imported."""
    folders = {
        REPOSITORY / PACKAGE: PACKAGE,
        REPOSITORY / "kernels": f"{PACKAGE}.kernels",
        REPOSITORY / "export": f"{PACKAGE}.export",
    }
    return {
        path: ".".join([root, *path.relative_to(folder).with_suffix("").parts])
        for folder, root in folders.items()
        for path in sorted(folder.rglob("*.py"))
        if REPOSITORY / "export" / "runtime" not in path.parents  # C++ and its tests
    }


@functools.cache
def nodes(path):
    """Returns the nodes of a file's syntax tree."""
    return list(ast.walk(ast.parse(path.read_text())))


def imports(path):
    """Yields the dotted names that a file imports, also inside functions."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == PACKAGE:  # `from mammoth_compiled import x` may mean module x
                yield from (f"{PACKAGE}.{alias.name}" for alias in node.names)
            else:
                yield node.module


MODULES = module_names()


def layer_of(name):
    """Returns the top-level module of the package in a dotted name, "" for other packages."""
    parts = name.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else ""


def used_layers(path):
    return {layer_of(name) for name in imports(path)} - {""}


def row_of(name):
    return next(i for i, row in enumerate(LAYERS) if name in row)


def test_every_module_belongs_to_a_layer():
    found = {layer_of(name) for name in MODULES.values()} - {"__init__", "", "export"}
    assert found == set().union(*LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_come_from_lower_layers(path):
    own, used = layer_of(MODULES[path]), used_layers(path)
    if own in ("__init__", "public"):
        return  # the public names come from everywhere
    if own == "export":
        assert used <= EXPORT_MAY_USE
    elif own == "kernels":
        assert used <= {"kernels"}
    else:
        # Only the command line and the public names use export.
        allowed = {name for row in LAYERS[: row_of(own)] for name in row} | {own}
        uses_export = own in ("observers", "run")
        allowed |= {"export", "export_bundle", "update_bundle"} if uses_export else set()
        assert used <= allowed


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if path.is_relative_to(REPOSITORY / "kernels")],
    ids=lambda path: path.name,
)
def test_kernels_import_only_torch_and_triton(path):
    roots = {name.split(".")[0] for name in imports(path)}
    assert roots - set(sys.stdlib_module_names) <= {"torch", "triton", PACKAGE}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_only_commands_read_argv(path):
    reads = any(
        isinstance(node, ast.Attribute)
        and node.attr == "argv"
        and isinstance(node.value, ast.Name)
        and node.value.id == "sys"
        for node in nodes(path)
    )
    assert not reads or MODULES[path] in (
        f"{PACKAGE}.run",
        f"{PACKAGE}.export.__main__",
        f"{PACKAGE}.sweep.__main__",
    )
