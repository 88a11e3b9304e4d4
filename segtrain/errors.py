"""Errors that are a user's to mend: they say where, what was seen, what is allowed and what to type.

Each is shown without a traceback and ends the process with its exit code. Anything else that escapes is a bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """A mistake outside the program, told in one or several complete messages."""

    exit_code = 2

    def __init__(self, *messages: str) -> None:
        super().__init__("\n".join(messages))
        self.messages: tuple[str, ...] = messages

    def add(self, message: str) -> None:
        """One more message, for whoever knows more than the place where the error arose."""
        self.messages += (message,)
        self.args = ("\n".join(self.messages),)

    def __reduce__(self) -> tuple[type[UserError], tuple[str, ...]]:
        return type(self), self.messages  # crosses the pipe of a loader worker whole


class ConfigError(UserError):
    """Something in a configuration file, an override or a flag."""


class DataError(UserError):
    """Something in the files of a dataset."""


class CheckpointError(UserError):
    """A checkpoint that is damaged, hostile, missing or made for another configuration."""


class TrainingError(UserError):
    """Training went wrong for a reason that the user can act upon (non-finite loss, memory)."""

    exit_code = 1


def did_you_mean(word: str, allowed: Iterable[str], *, limit: int = 8) -> str:
    """`"; did you mean 'x'?"` for the nearest allowed word, else the list of what is allowed, shortened to `limit`."""
    options: Sequence[str] = sorted(allowed)
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    shown = ", ".join(options[:limit])
    return f"; allowed: {shown}" + (f", … ({len(options)} in all)" if len(options) > limit else "")
