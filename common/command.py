"""What every command does with what goes wrong: one sentence, one exit code."""

from __future__ import annotations

import sys
import traceback
from contextlib import AbstractContextManager

import typer

FAILED, WRONG, REFUSED = 1, 2, 3


class _Errors(AbstractContextManager[None]):
    """One line on stderr and an exit code; a traceback only where one is asked for."""

    def __init__(self, *, debug: bool) -> None:
        self._debug = debug

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, SystemExit | typer.Exit):
            return
        if self._debug:
            traceback.print_exception(error)
        if isinstance(error, KeyboardInterrupt):
            say("stopped by you; what was finished is kept")
            raise typer.Exit(FAILED) from error
        say(_sentence(error))
        raise typer.Exit(_code(error)) from error


def errors(*, debug: bool) -> AbstractContextManager[None]:
    """Around a command: whatever goes wrong becomes a sentence and an exit code."""
    return _Errors(debug=debug)


def _code(error: BaseException) -> int:
    names = {kind.__name__ for kind in type(error).__mro__}
    if any(name.endswith("Refused") for name in names):
        return REFUSED
    return WRONG if names & {"ConfigError", "DataError", "LedgerUnreadable"} else FAILED


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if _code(error) != FAILED else f"{text} ({type(error).__name__}; --debug shows where)"


def say(text: str) -> None:
    """One line to whoever typed the command."""
    sys.stderr.write(f"fedmosaic: {text}\n")
