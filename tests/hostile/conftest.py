"""Fixtures of the tests with hostile input."""

import contextlib
import io
import traceback

import pytest

from mammoth_compiled import console
from mammoth_compiled.errors import MammothError


@pytest.fixture
def refused(monkeypatch, tmp_path):
    """Returns a function that asserts that a call raises a clear `MammothError`.

    The message is one line of bounded length that contains the given words, nothing is written into
    the working directory, and nothing is trained.
    """
    directory = tmp_path / "cwd"
    directory.mkdir()
    monkeypatch.chdir(directory)

    def check(what, call, *words):
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                call()
            except MammothError as error:
                message = str(error)
            except BaseException:
                pytest.fail(f"{what}: traceback\n{traceback.format_exc(limit=-6)}")
            else:
                pytest.fail(f"{what}: accepted")
        missing = [word for word in words if word not in message]
        assert not missing, f"{what}: {message!r} does not name {missing}"
        assert len(message) < 1200, f"{what}: {message[:300]}..."
        assert not list(directory.iterdir()), f"{what}: wrote files"

    console.begin_output()
    return check
