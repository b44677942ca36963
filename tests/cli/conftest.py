"""Fixtures of the command line."""

import os
import sys

import pytest

from mammoth_compiled.run import main


@pytest.fixture
def command(monkeypatch, capsys):
    """Returns a function that runs the command line and returns (exit code, stdout, stderr)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["run", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return run


@pytest.fixture
def error_of(command, tmp_path, monkeypatch):
    """Returns a function that asserts a command fails with one line and without writing files."""
    directory = tmp_path / "cwd"
    directory.mkdir()
    monkeypatch.chdir(directory)

    def run(*words, message):
        code, out, err = command(*words)
        assert code == 2, out + err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert message in err
        assert "Traceback" not in out + err
        assert os.listdir(directory) == []
        return err

    return run
