"""From what a simulated run left, with its server and at its sites, to the record that its reports show."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from common.reports.record import RunRecord
from server.record import assemble
from simulations.budget import site_record, traffic_of
from simulations.measure import exact_test, open_bench, pooled

if TYPE_CHECKING:
    from simulations.run import Prepared


def assemble_record(prepared: Prepared, *, seconds: float) -> RunRecord:
    """Read everything back and put it into one record: what a server knows, what sites keep, and what can be measured.

    The test curve, and the test itself, are the simulator's: it holds all records.
    """
    folder, finished = prepared.folder, prepared.finished
    state, held = finished.state, finished.held
    bench = open_bench(prepared.sites, folder.name, state.released)
    known = assemble(finished, seconds=seconds)
    curve = {number: pooled(bench.score(weights)).figures for number, weights in folder.journal.models()}
    rounds = tuple(
        replace(
            one,
            test_accuracy=curve.get(one.number, {}).get("accuracy"),
            test_auroc=curve.get(one.number, {}).get("auroc"),
            test_error=curve.get(one.number, {}).get("mae"),
        )
        for one in known.rounds
    )
    return replace(
        known,
        simulated=True,
        sites=tuple(site_record(prepared, site, held[site.name]) for site in prepared.sites),
        rounds=rounds,
        test=exact_test(bench, state.final_weights()),
        traffic=traffic_of(prepared.sites, folder.name, masked=prepared.config.secagg.kind == "masked"),
    )
