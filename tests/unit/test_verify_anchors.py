"""What only the world outside can show: a ledger rolled back, replaced, or signed anew with another key."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from common.receipts import Receipt
from common.secagg.identity import Identity, new_identity
from common.secagg.roster import sign_roster
from common.verify.anchors import Anchors, read_anchors
from common.verify.read import LedgerUnreadable
from tests.verify_ledgers import Facts, Scribe, complaints, edited, example, judged, real_ledger

OTHER = b"o" * 32


def anchors_of(folder: Path, *receipts: Facts, public_key: str | None = None) -> Anchors:
    file = folder / "receipts.json"
    file.write_text(json.dumps(receipts[0] if len(receipts) == 1 else list(receipts)))
    return read_anchors([file] if receipts else [], public_key, None)


def found_with(scribe: Scribe, folder: Path, anchors: Anchors) -> dict[int, list[str]]:
    return complaints(judged(scribe.write(folder / "ledger.sqlite"), anchors))


def test_receipts_of_every_moment_of_a_ledger_fit_it(tmp_path: Path) -> None:
    scribe = example()
    anchors = anchors_of(tmp_path, *(scribe.receipt(entries) for entries in range(1, len(scribe.rows) + 1)))
    verdict = judged(scribe.write(tmp_path / "ledger.sqlite"), anchors)
    assert verdict.problems == ()
    assert verdict.anchor == "A receipt vouches for the first 8 entries."


def test_a_truncated_ledger_passes_alone_and_says_so_and_is_found_with_a_receipt(tmp_path: Path) -> None:
    scribe = example()
    receipt = scribe.receipt()
    path = edited(scribe.write(tmp_path / "ledger.sqlite"), "DELETE FROM entries WHERE seq > 5")
    alone = judged(path)
    assert alone.problems == ()
    assert alone.anchor.startswith("Nothing from outside anchors this ledger")
    found = complaints(judged(path, anchors_of(tmp_path, receipt)))
    assert set(found) == {6}
    assert "saw 8 entries, and there are 6; the ledger was rolled back" in found[6][0]


def test_a_real_ledger_that_was_rolled_back_to_an_older_copy_is_found_with_a_receipt(tmp_path: Path) -> None:
    bench = real_ledger(tmp_path)
    older = bench.path.read_bytes()
    with bench.open() as ledger:
        ledger.release("run-2", 1, "task", "training", 1)
        entries = ledger.entries()
    identity = bench.identity()
    given = Receipt.sign(bench.site, len(entries), entries[-1].digest, identity.public_key, identity.sign)
    receipt = json.loads(given.to_bytes())
    anchors = anchors_of(tmp_path, receipt)
    assert judged(bench.path, anchors).problems == ()
    for end in ("-wal", "-shm"):
        bench.path.with_name(f"{bench.path.name}{end}").unlink(missing_ok=True)
    bench.path.write_bytes(older)
    found = complaints(judged(bench.path, anchors))
    assert list(found) == [7]
    assert "the ledger was rolled back" in found[7][0]


def test_history_that_went_on_after_a_roll_back_is_found_at_the_receipts_entry(tmp_path: Path) -> None:
    scribe = example()
    receipts = scribe.receipt(4), scribe.receipt(7)
    scribe.rows = scribe.rows[:6]
    for number in (5, 6, 7):
        scribe.release("run-2", number)
    found = found_with(scribe, tmp_path, anchors_of(tmp_path, *receipts))
    assert set(found) == {6}
    assert "history up to here was replaced" in found[6][0]
    assert "(number 2)" in found[6][0]


def test_what_was_appended_since_a_receipt_is_said_not_to_be_vouched_for(tmp_path: Path) -> None:
    scribe = example()
    verdict = judged(scribe.write(tmp_path / "ledger.sqlite"), anchors_of(tmp_path, scribe.receipt(5)))
    assert verdict.anchor.startswith(
        "A receipt vouches for the first 5 entries. What was appended since (entries 5 to 7)"
    )


@pytest.mark.parametrize("anchor", ["receipt", "key", "roster"])
def test_a_ledger_signed_anew_with_another_key_is_found_with_a_receipt_a_key_or_a_roster(
    tmp_path: Path, anchor: str
) -> None:
    genuine = example()
    forged = genuine.signed_anew(OTHER)
    (tmp_path / "roster").write_bytes(roster_of(genuine))
    anchors = {
        "receipt": anchors_of(tmp_path, genuine.receipt()),
        "key": read_anchors([], genuine.public_key.upper(), None),
        "roster": read_anchors([], None, tmp_path / "roster"),
    }[anchor]
    (tmp_path / "genuine").mkdir()
    assert found_with(genuine, tmp_path / "genuine", anchors) == {}
    path = forged.write(tmp_path / "ledger.sqlite")
    assert judged(path).problems == ()  # alone it passes, and says that nothing anchors it
    assert judged(path).anchor.startswith("Nothing from outside anchors this ledger")
    verdict = judged(path, anchors)
    assert "another" in complaints(verdict)[0][0]
    assert "vouches for the first" not in verdict.anchor
    assert "only its holder can have signed" not in verdict.anchor


def test_a_ledger_signed_anew_without_telling_its_header_is_found_alone(tmp_path: Path) -> None:
    scribe = example()
    rows = scribe.rows[:]
    scribe.rows, scribe.seed = [], OTHER
    for _, kind, run, body, *_ in rows:
        scribe.append_body(kind, run, body)
    found = found_with(scribe, tmp_path, Anchors())
    assert found == {0: ["no entry is signed by the key that the header names"]}


def test_a_key_alone_does_not_pretend_to_show_a_roll_back(tmp_path: Path) -> None:
    scribe = example()
    verdict = judged(scribe.write(tmp_path / "ledger.sqlite"), Anchors(public_key=scribe.public_key))
    assert verdict.problems == ()
    assert "only its holder can have signed these entries" in verdict.anchor
    assert "an older copy of this ledger, or one that its own institution wrote anew, would pass" in verdict.anchor


@pytest.mark.parametrize("field", ["site", "entries", "head", "signature"])
def test_a_forged_receipt_is_found_and_anchors_nothing(tmp_path: Path, field: str) -> None:
    scribe = example()
    values = {"site": "hungary", "entries": 7, "head": "ab" * 32, "signature": "ab" * 64}
    receipt = scribe.receipt() | {field: values[field]}
    verdict = judged(scribe.write(tmp_path / "ledger.sqlite"), anchors_of(tmp_path, receipt))
    assert "is forged: the key that it names did not sign it" in complaints(verdict)[-1][0]
    assert verdict.anchor.startswith("Nothing from outside")


def test_a_receipt_of_another_site_is_found(tmp_path: Path) -> None:
    scribe = example()
    found = found_with(scribe, tmp_path, anchors_of(tmp_path, scribe.receipt(site="hungary")))
    assert "is of site hungary, and the ledger is of cleveland" in found[-1][0]


def test_a_roster_that_does_not_list_the_site_is_found(tmp_path: Path) -> None:
    scribe = replace(example(), site="hungary")
    (tmp_path / "roster").write_bytes(roster_of(scribe))
    found = found_with(example(), tmp_path, read_anchors([], None, tmp_path / "roster"))
    assert "the roster does not list the site" in found[0][0]


@pytest.mark.parametrize("place", [0, 30, 60, 200, -1])
def test_a_roster_that_was_changed_is_refused(tmp_path: Path, place: int) -> None:
    raw = bytearray(roster_of(example()))
    raw[place] ^= 1
    (tmp_path / "roster").write_bytes(raw)
    with pytest.raises(LedgerUnreadable, match="is no roster"):
        read_anchors([], None, tmp_path / "roster")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "cannot be read as a receipt"),
        ("3", "is no receipt: one has exactly entries, head"),
        ('{"site": "x"}', "is no receipt: one has exactly"),
        ('{"site": "x", "entries": 0, "head": "", "public_key": "", "signature": ""}', "at least 1"),
        ('{"site": "x", "entries": 1, "head": "", "public_key": "", "signature": ""}', "head must be 64"),
    ],
)
def test_a_file_that_holds_no_receipt_is_named_and_not_taken_for_a_problem(
    tmp_path: Path, text: str, complaint: str
) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(LedgerUnreadable, match=complaint) as refusal:
        read_anchors([tmp_path / "r.json"], None, None)
    assert "r.json" in str(refusal.value)
    with pytest.raises(LedgerUnreadable, match="--public-key must be 64 hex digits"):
        read_anchors([], "xyz", None)


def roster_of(scribe: Scribe) -> bytes:
    keys = {scribe.site: bytes.fromhex(scribe.public_key), "zurich": new_identity().public_key}
    return sign_roster(keys, Identity(b"c" * 32)).to_bytes()
