"""Training in children of a warm process: two at once, and to the bit what a new interpreter trains."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from client.deployment import hand_over
from tests.operator_stack import ROOT

pytestmark = pytest.mark.slow
PROGRAM = """
import hashlib, sys
from pathlib import Path
import client.deployment.task
from client.deployment.warm import serve

def run(arguments):
    from tests.federation_run import REPEATABLE, run_toy
    _, _, state = run_toy(Path(arguments[0]), REPEATABLE, "rounds=2")
    body = b"".join(state.weights[name].tobytes() for name in sorted(state.weights))
    Path(arguments[0], "weights").write_text(hashlib.sha256(body).hexdigest())

if sys.argv[1] == "serve":
    serve(Path(sys.argv[2]), run)
run(sys.argv[2:])
"""


def test_forked_children_train_what_a_new_interpreter_trains(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("new", "first", "second")]
    for place in places:
        place.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    start = [sys.executable, "-c", PROGRAM]
    subprocess.run([*start, "run", str(places[0])], env=environment, check=True)
    worker = subprocess.Popen([*start, "serve", str(tmp_path)], env=environment)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / hand_over.SOCKET).exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        ask = [sys.executable, "-I", "-S", hand_over.__file__, str(tmp_path)]
        both = [subprocess.Popen([*ask, str(place)], env=environment) for place in places[1:]]
        assert [one.wait(240) for one in both] == [0, 0]
    finally:
        worker.kill()
        worker.wait()
    assert len({(place / "weights").read_text() for place in places}) == 1
