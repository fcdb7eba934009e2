"""The exception for user errors, and text that is safe to print."""

import io
import re
import sys

# Control characters, line and paragraph separators, and the bytes of names that are not UTF-8 (surrogates).
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return a name as one line of valid UTF-8: a line break becomes \n, a byte that is not UTF-8 \udcff."""
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def print_any_character() -> None:
    r"""Let standard output and error print what their encoding lacks as an escape, 東 as \u6771, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class UserError(ValueError):
    """A user error with a one-line message: what is wrong, what was given, what to do.

    The command line prints the message and exits; a program that uses the library can catch it as a ValueError.
    """

    def __init__(self, message: str) -> None:
        # A data loader worker re-raises the error with its whole traceback as the message: keep the message alone.
        lines = message.rsplit("UserError: ", 1)[-1].strip().split("\n")
        super().__init__("\n".join(map(printable, lines)))
