"""Test vectors of one whole round, for whoever implements the protocol anew: every input, every byte that was sent.

`python -m tests.secagg_vectors` records a round with fresh keys into tests/golden/secagg/. That is done once for a
version of the protocol; afterwards the recorded rounds must replay, byte for byte.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from client.site_round import Secrets
from tests.secagg_round import SESSION, Message, Script, Trace, Vectors, consortium_of, secure_sum

FOLDER = Path(__file__).resolve().parent / "golden" / "secagg"
FILES = {"round-01.json": False, "round-02.json": True}  # name to whether keys are post-quantum
GONE = "site-003"
STAGES = ("share", "mask", "check", "reveal")


@dataclass
class Recorder:
    """What is asked and answered in a round, and the secrets that it begins with."""

    trace: Trace
    secrets: dict[str, Secrets] = field(default_factory=dict)
    messages: dict[str, dict[str, Any]] = field(default_factory=lambda: {stage: {} for stage in STAGES})

    def to_site(self, stage: str, site: str, message: Message) -> Message:
        if stage == "share":
            self.secrets[site] = self.trace.states[site].secrets
        if stage in STAGES:
            self.messages[stage][site] = {"asked": plain(list(message))}
        return message

    def to_server(self, stage: str, site: str, reply: Message) -> Message:
        if stage in STAGES:
            self.messages[stage][site]["answered"] = plain(list(reply))
        return reply


def record(*, post_quantum: bool) -> dict[str, Any]:
    """Four sites, one of whom never sends its vectors; one block that not all hold."""
    consortium, vectors = consortium_of(4), _vectors()
    recorder = Recorder(trace := Trace())
    session = replace(SESSION, post_quantum=post_quantum)
    script = Script(drop={GONE: "mask"}, session=session, to_site=recorder.to_site, to_server=recorder.to_server)
    secure_sum(consortium, vectors, script, trace)
    sites = {
        name: {
            "identity_key": consortium.identities[name].private_key.hex(),
            "secrets": plain(asdict(recorder.secrets[name])),
            "advert": trace.adverts[name].hex(),
            "vectors": plain(vectors[name]),
        }
        for name in consortium.names
    }
    assert trace.view is not None
    assert trace.survivors is not None
    return {
        "about": "One round of fedmosaic/secagg: bytes in hex, vectors modulo 2^32 as numbers; keys are of nobody.",
        "roster": consortium.roster.to_bytes().hex(),
        "sites": sites,
        "t1": trace.view.table.transcript.hex(),
        "messages": recorder.messages,
        "t3": trace.survivors.digest.hex(),
        "sums": {
            block: {"total": total.tolist(), "sites": list(names)} for block, (total, names) in trace.sums.items()
        },
    }


def _vectors() -> dict[str, Vectors]:
    rng, lengths = np.random.default_rng(0), {"encoder/ecg": 5, "fusion": 9}
    names = [f"site-{number:03d}" for number in range(4)]
    vectors: dict[str, Vectors] = {
        name: {block: rng.integers(0, 2**32, size, dtype=np.uint32) for block, size in lengths.items()}
        for name in names
    }
    del vectors[GONE]["encoder/ecg"]
    return vectors


def plain(value: Any) -> Any:  # noqa: ANN401  (whatever a message holds)
    """Bytes as hex, arrays as numbers, containers through and through."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def secrets_of(entry: dict[str, Any]) -> Secrets:
    """A site's recorded secrets."""
    fixed = {name: bytes.fromhex(entry[name]) for name in ("signing_key", "sharing_key", "masking_key")}
    return Secrets(**fixed, seeds=tuple(bytes.fromhex(seed) for seed in entry["seeds"]))


def unhex(entry: dict[str, str]) -> dict[str, bytes]:
    """Named bytes."""
    return {name: bytes.fromhex(body) for name, body in entry.items()}


if __name__ == "__main__":
    for name, post_quantum in FILES.items():
        path = FOLDER / name
        if path.exists():
            raise SystemExit(f"{path.name} is there: vectors of a version are recorded once")
        path.write_text(json.dumps(record(post_quantum=post_quantum), indent=1) + "\n")
