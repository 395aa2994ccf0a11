"""Large sums at full size: a thousand sites in process, and a whole run of 101 institutions through their gates."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.gate import answer
from common.large_messages import ChooseRequest
from common.messages import Refusal, Request, ShareRequest
from common.secagg.roster import LARGEST_COMPLETE
from simulations.bench.crowd import STAGES
from simulations.bench.scale import measure_scale
from tests.federation_run import prepare_toy, run_toy
from tests.toy_federation import write_toy_sites

NUM_SITES = LARGEST_COMPLETE + 1
NO_PRIVACY = ("privacy=none", "rounds=1", "data.normalisation=none", "audit.attributes=[]")


@pytest.mark.slow
def test_a_thousand_sites_sum_ten_thousand_parameters_while_a_hundred_fall_silent() -> None:
    scale = measure_scale(1_000, 10_000, seed=3)  # raises where the sum is not the exact one
    assert scale.exact
    assert scale.silent_sites == 100
    assert 900 <= scale.summed_sites < 1_000
    assert 2 * scale.degree < 400
    assert scale.most_bytes_of_a_site < 4 * 10_000 + 400_000


@pytest.mark.slow
def test_101_institutions_train_through_their_gates_with_neighbours_of_their_own_choice(tmp_path: Path) -> None:
    write_toy_sites(tmp_path / "data", sites=NUM_SITES, subjects=12)
    prepared, record, state = run_toy(tmp_path, *NO_PRIVACY, "drop=[site-3@1,site-50@1]")
    assert state.round == 1
    assert len(record.rounds[0].sites) == NUM_SITES - 2
    assert record.rounds[0].dropped == ("site-3", "site-50")
    stages = {str(line["stage"]) for line in prepared.sites[0].logged("left")}
    assert stages == {kind.__name__ for kind in STAGES}
    # Nothing secret is left, and the smaller protocol is closed to so many: it would deal the same secrets out again.
    assert not list(tmp_path.rglob("*.secret"))
    site, request = prepared.sites[0], ShareRequest(prepared.folder.name, 1, "training", 68, [b""] * NUM_SITES)
    assert answer(site, lambda: request) == Refusal("settled")
    (site.run_folder(request.run) / "settled").unlink()  # as if the run still went on
    assert answer(site, lambda: request) == Refusal("large")


def test_a_small_roster_keeps_to_the_stronger_protocol(tmp_path: Path) -> None:
    prepared = prepare_toy(tmp_path, *NO_PRIVACY)
    request: Request = ChooseRequest(prepared.folder.name, 1, "training", b"\xf0", 3, 3)
    assert answer(prepared.sites[0], lambda: request) == Refusal("complete")
