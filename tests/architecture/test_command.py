"""The command surface: what exists, that each command shows an example, and that asking for help is quick."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from typing import Any

import pytest

HEAVY = {"torch", "opacus", "flwr", "ray", "dp_accounting", "scipy", "numpy", "sklearn", "matplotlib", "hydra"}
SITE = tuple(("site", word) for word in ("check", "init", "approve", "join", "status", "budget", "policy"))
PROGRAM = """
import json, sys
from simulations.cli import main
sys.argv = ["fedmosaic", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    code = end.code or 0
sys.stderr.write(json.dumps({"code": code, "modules": sorted({name.split(".")[0] for name in sys.modules})}))
"""


def ask(*arguments: str) -> tuple[str, dict[str, Any]]:
    environment = {**os.environ, "COLUMNS": "120", "TERM": "dumb", "NO_COLOR": "1"}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout, json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize(
    "arguments",
    [(*words, "--help") for words in ((), ("simulate",), ("report",), ("bench",), ("verify",), *SITE)],
)
def test_help_loads_nothing_heavy_and_shows_an_example(arguments: tuple[str, ...]) -> None:
    text, told = ask(*arguments)
    assert told["code"] == 0
    assert HEAVY & set(told["modules"]) == set()
    assert "Example: fedmosaic " in text


def test_the_root_lists_the_commands_that_exist() -> None:
    text, _ = ask("--help")
    assert {"simulate", "report", "verify", "site", "server"} <= set(text.split())


def test_an_unknown_command_is_wrong_usage() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "simulations.cli", "simualte"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "simualte" in done.stderr


def test_help_costs_less_than_half_a_second_of_processor_time() -> None:
    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "simulations.cli", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Processor time, and the best of five: this machine may be busy with something else.
    assert min(once() for _ in range(5)) < 0.5
