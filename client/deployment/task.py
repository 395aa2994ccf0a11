"""One task of Flower's, carried out by the installed code alone: what stands in for the program `flwr-clientapp`.

Flower's own program unpacks the bundle that the server sent, and runs what it finds there. Ours is Flower's with four
names replaced in the module that does so: the bundle is hashed and dropped, dependencies are not installed, the app is
the installed one, and an exception's text stays here. Flower is pinned to one version, where these names are known;
where one is missing, nothing is run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn

from flwr.app import Context, Message
from flwr.app.error import Error
from flwr.supernode.cli.flwr_clientapp import flwr_clientapp
from flwr.supernode.runtime import run_clientapp as runtime

from client.app import app, reply_to
from client.deployment.approval import Present, check_bundle, present, sha256_of
from client.site import site_of

App = Callable[[Message, Context], Message]


def run(arguments: list[str], here: Present) -> None:
    """Carry out the task that Flower's SuperExec started this process for; never returns."""
    guard(runtime, here)
    sys.argv = ["flwr-clientapp", *arguments]
    flwr_clientapp()


def guard(module: ModuleType, here: Present) -> None:
    """Take out of Flower's module all that would run, or unpack, what a server sent.

    Raises:
        SystemExit: the module is not the one that this was written for.
    """
    received: list[str] = []

    def keep_hash(fab_file: bytes, *, skip_prompt: bool) -> None:
        received.append(sha256_of(fab_file))

    def installed(default_app_ref: str, app_path: None, *, multi_app: bool) -> Callable[[str, str, str], App]:
        return lambda fab_id, fab_version, fab_hash: approved_app(received[-1], here)

    replacements: dict[str, object] = {
        "install_from_fab": keep_hash,
        "install_app_dependencies": _refuse_to_install,
        "get_load_client_app_fn": installed,
        "Error": _without_text,
    }
    missing = [name for name in replacements if not hasattr(module, name)]
    program = getattr(module, "run_clientapp", None)
    if missing or getattr(program, "__globals__", None) is not vars(module):
        sys.exit(f"flwr {here.flwr} is not the Flower that this site knows how to guard: {missing}")
    for name, replacement in replacements.items():
        setattr(module, name, replacement)


def approved_app(received: str, here: Present) -> App:
    """Give the installed app, which answers nothing but a refusal where the bundle that came along is not approved."""

    def answer(message: Message, context: Context) -> Message:
        site = site_of(context.node_config)
        try:
            check_bundle(site, here, received)
            return app(message, context)
        except Exception as error:
            trouble = error
        return reply_to(message, context, lambda: _raise(trouble))

    return answer


def _raise(error: Exception) -> NoReturn:
    raise error


def _refuse_to_install(*_: object, **_ignored: object) -> NoReturn:
    raise PermissionError("a site installs nothing that a server names")


def _without_text(code: int, reason: str | None = None) -> Error:
    """Make an error as Flower's own, but for its text, which could say anything about this site."""
    return Error(code, None if reason is None else "failed")


if __name__ == "__main__":
    run(sys.argv[1:], present())
