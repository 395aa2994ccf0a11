"""A server that asks for one thing too many, for every key of a policy, at the real door."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.enrolment import open_ledger
from client.gate import answer
from client.policy import Policy, Refused, read_policy
from client.policy_rules import Asked, check
from client.site import Site
from common.data.modalities import TextSpec
from common.messages import Advert, Enrolled, Refusal, Reply, Request, pack
from common.objectives import Part, named_modalities
from common.refusals import CODES
from tests.architecture.tree import ROOT
from tests.example_models import ANCHOR, SCHEMA, Recipe, config_of, part_of
from tests.policy_cases import CASES, WIDE, Case, Stand, set_policy


def say(site: Site, request: Request) -> Reply:
    return answer(site, lambda: request)


def entries(site: Site) -> int:
    with open_ledger(site, read_policy(site.policy_path)) as ledger:
        return len(ledger.entries())


def named(case: Case) -> str:
    return f"{case.key}-{case.code}"


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Stand:
    return Stand.build(tmp_path_factory.mktemp("stand"))


def lose_records(site: Site) -> None:
    """Whoever opens the records from here on leaves a line in the log."""
    (site.folder / "manifest.csv").unlink()


def refused_for(site: Site, case: Case, request: Request) -> None:
    """Refused by its code and nothing else; the sentence names the rule, in the log only; no record was read."""
    reply = say(site, request)
    assert reply == Refusal(case.code), site.logged("refused")[-1:] + site.logged("failed")[-1:]
    reason = str(site.logged("refused")[-1]["reason"])
    assert (case.rule or case.key) in reason
    assert pack(reply) == pack(Refusal(case.code))
    assert site.logged("failed") == ()


# How the site keeps what is its own, and which of its files it reads: unit/test_features.py, unit/test_site_data.py.
REFUSES_NOTHING = {"encrypt_features", "allow_identified_files"}


def test_no_key_is_missing_from_the_table() -> None:
    assert sorted({case.key for case in CASES} | REFUSES_NOTHING) == sorted(Policy.model_fields)
    assert {case.code for case in CASES} <= set(CODES)


def row(key: str) -> str:
    """A key's line on the page."""
    field = Policy.model_fields[key]
    default = "must be given" if field.is_required() else f"`{json.dumps(field.default)}`"
    codes = ", ".join(f"`{code}`" for code in sorted({case.code for case in CASES if case.key == key}))
    return f"| `{key}` | {default} | {field.description} | {codes or 'nothing'} |"


def test_the_page_says_every_key_its_default_and_its_code() -> None:
    lines = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8").splitlines()
    start = lines.index("|---|---|---|---|") + 1
    assert lines[start : lines.index("", start)] == [row(key) for key in Policy.model_fields]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=named)
def test_exactly_what_is_allowed_is_agreed_to_and_answered(case: Case, stand: Stand, tmp_path: Path) -> None:
    site = stand.site(tmp_path.name, case.policy(stand.plan(case.exact), more=False), case.exact)
    for number, run in enumerate((*case.before, case.exact)):
        assert isinstance(say(site, stand.enrol(run, f"run-{number}")), Enrolled), site.logged("refused")
    before = entries(site)
    assert isinstance(say(site, stand.task(case.exact, f"run-{len(case.before)}")), Advert)
    assert entries(site) == before + 1


@pytest.mark.parametrize("case", CASES, ids=named)
def test_one_thing_too_many_is_refused_uncharged_and_unread(
    case: Case, stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = stand.plan(case.exact)
    site = stand.site(tmp_path.name, case.policy(plan, more=False), case.more)
    for number, run in enumerate(case.before):
        assert isinstance(say(site, stand.enrol(run, f"run-{number}")), Enrolled)
    before = entries(site)
    lose_records(site)
    set_policy(site, case.policy(plan, more=True))
    refused_for(site, case, stand.enrol(case.more, "more"))
    set_policy(site, case.policy(plan, more=False))
    assert entries(site) == before
    assert not (site.run_folder("more") / "enrolment.json").exists()
    assert say(site, stand.task(case.more, "more")) == Refusal("not-enrolled")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_key_that_was_tightened_meanwhile_holds_for_runs_that_were_agreed_to(
    case: Case, stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    site = stand.site(tmp_path.name, WIDE, case.more)
    for number, run in enumerate((*case.before, case.more)):
        assert isinstance(say(site, stand.enrol(run, f"run-{number}")), Enrolled), site.logged("refused")
    before = entries(site)
    lose_records(site)
    tight = {**WIDE, "spent_subjects": "refuse", **case.policy(stand.plan(case.exact), more=True)}
    loose = {"lifetime_delta": WIDE["lifetime_delta"]} if case.key != "lifetime_delta" else {}
    set_policy(site, {**tight, **loose})  # delta is the ledger's, and fixed with it
    refused_for(site, case, stand.task(case.more, f"run-{len(case.before)}"))
    set_policy(site, WIDE)
    assert entries(site) == before


def test_records_that_are_read_where_they_must_not_be_would_be_noticed(stand: Stand, tmp_path: Path) -> None:
    case = CASES[0]
    site = stand.site(tmp_path.name, case.policy(None, more=False), case.exact)
    lose_records(site)
    assert isinstance(say(site, stand.enrol(case.exact, "run")), Enrolled)
    with pytest.raises(AssertionError):
        assert site.logged("failed") == ()


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (part_of(kind="caption", target="report"), "teller/report"),
        (part_of(kind="masked_tokens", modality="labs"), "restorer/labs"),
        (ANCHOR, "projection/labs"),
    ],
    ids=lambda given: given if isinstance(given, str) else given.kind,
)
def test_a_part_of_an_objective_is_a_block_and_what_it_names_a_modality_that_a_policy_can_refuse(
    part: Part, block: str
) -> None:
    report = TextSpec(kind="text", column="report", max_tokens=9)
    schema = SCHEMA.model_copy(update={"modalities": SCHEMA.modalities | {"report": report}})
    config = config_of(Recipe(parts=(part,), frozen=("encoder/ecg",))).model_copy(update={"data_schema": schema})
    asked = Asked(config, None, tuple(sorted(schema.modalities)), (), "0" * 64)
    free = Policy.model_validate(
        {"lifetime_epsilon": 8.0, "lifetime_delta": 1e-3, "allow_no_privacy": True, "allow_no_secagg": True}
    )
    check(free, asked)
    families = ("encoder", "fusion", "head", "auxiliary")
    check(free.model_copy(update={"allowed_blocks": (*families, block)}), asked)
    with pytest.raises(Refused, match=f"allowed_blocks has .*, not {block}"):
        check(free.model_copy(update={"allowed_blocks": families}), asked)
    for name in named_modalities(part):
        others = tuple(other for other in schema.modalities if other != name)
        with pytest.raises(Refused, match=f"allowed_modalities has .*, not {name}"):
            check(free.model_copy(update={"allowed_modalities": others}), asked)
