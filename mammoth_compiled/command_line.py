"""What all commands share: a parser whose errors are one line, and checks of texts and paths."""

import argparse
import os
from typing import Any

from mammoth_compiled.console import say
from mammoth_compiled.errors import ConfigError, shorten

# Limits of Linux file systems, in bytes.
MAX_FILE_NAME = 255
MAX_PATH = 4095


class LineParser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `ConfigError` for invalid arguments, without the usage."""

    def error(self, message: str) -> Any:
        """Raises `ConfigError` with the message."""
        raise ConfigError(f"{message}; {self.prog} --help lists the arguments")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Prints the help, so that a failure is noticed."""
        if message:
            say(message.rstrip("\n"))


def non_empty(text: str) -> str:
    """Checks that a text is not empty.

    Raises:
        argparse.ArgumentTypeError: If it is.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty; leave the argument out instead")
    return text


def check_text(text: str) -> str:
    """Returns a text unchanged.

    Raises:
        argparse.ArgumentTypeError: If it contains a null byte or bytes that are not valid UTF-8.
    """
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"contains a null byte, got {shorten(text)}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(
            f"is not valid UTF-8, got {shorten(text)}: rename it"
        ) from None
    return text


def file_path(text: str) -> str:
    """Checks that a file or directory may have this path; it need not exist.

    Raises:
        argparse.ArgumentTypeError: If the path is empty, too long for the file system, or not valid
            UTF-8, which the JSON and ONNX files of a run could not name.
    """
    encoded = os.fsencode(check_text(non_empty(text)))
    longest = max(len(part) for part in encoded.split(b"/"))
    if longest > MAX_FILE_NAME or len(encoded) > MAX_PATH:
        raise argparse.ArgumentTypeError(
            f"is too long for a path ({len(encoded):,} bytes): at most {MAX_FILE_NAME} bytes per "
            f"name and {MAX_PATH:,} in all"
        )
    return text
