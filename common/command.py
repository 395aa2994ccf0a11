"""How every command ends: with one line on stderr and an exit code that a program can rely on."""

from __future__ import annotations

import sys
import traceback
from contextlib import AbstractContextManager

import typer

FAILED, WRONG, REFUSED = 1, 2, 3


class _Errors(AbstractContextManager[None]):
    def __init__(self, *, debug: bool) -> None:
        self._debug = debug

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, SystemExit | typer.Exit):
            return
        if self._debug:
            traceback.print_exception(error)
        if isinstance(error, KeyboardInterrupt):
            _say("stopped by you; what was finished is kept")
            raise typer.Exit(FAILED) from error
        _say(_sentence(error))
        raise typer.Exit(_code(error)) from error


def errors(*, debug: bool) -> AbstractContextManager[None]:
    """Turn whatever goes wrong in the block into one line and an exit code; a traceback only where one is asked for."""
    return _Errors(debug=debug)


def _code(error: BaseException) -> int:
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"Refused", "RunRefused"}:
        return REFUSED
    return WRONG if names & {"ConfigError", "DataError", "LedgerUnreadable"} else FAILED


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if _code(error) != FAILED else f"{text} ({type(error).__name__}; --debug shows where)"


def _say(text: str) -> None:
    sys.stderr.write(f"fedmosaic: {text}\n")
