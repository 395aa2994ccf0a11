"""`site approve`: what is pinned is what was looked at, and nothing else runs; code and unsigned rosters never are."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from client.deployment.approval import Present, check_bundle, check_installed, present, read_approval, sha256_of
from client.deployment.approve import difference, pin
from client.deployment.init import Wish, init_site
from client.deployment.place import Place
from client.policy import Refused
from common.secagg.identity import create_identity, load_identity, new_identity
from common.secagg.roster import sign_roster
from tests.operator_stack import MANIFEST, certify, write_bundle, write_invitation, write_roster
from tests.toy_federation import write_toy_sites


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An operator's folder: an invitation, a consortium's key, a bundle."""
    folder = tmp_path_factory.mktemp("operator")
    write_invitation(folder, "localhost:9", certify(folder).authority)
    write_bundle(folder / "bundle", MANIFEST)
    return folder


@pytest.fixture
def place(operator: Path, tmp_path: Path) -> Place:
    (folder,) = write_toy_sites(tmp_path / "data", sites=1, subjects=8)
    return init_site(tmp_path / "state", Wish(folder, operator / "invitation.json")).place


def approved(place: Place, operator: Path) -> Place:
    roster = write_roster(operator, place.enrolment_path)
    pin(place, difference(place, roster, operator / "bundle.fab"))
    return place


def test_what_was_approved_is_what_may_run(place: Place, operator: Path) -> None:
    approved(place, operator)
    received = sha256_of((operator / "bundle.fab").read_bytes())
    check_bundle(place.site(), present(), received)
    assert read_approval(place.state).bundle == received


@pytest.mark.parametrize(
    ("here", "received", "code"),
    [
        (present, "0" * 64, "bundle"),
        (lambda: Present("0" * 64, present().flwr), None, "bundle"),
        (lambda: Present(present().package, "1.40.0"), None, "bundle"),
    ],
)
def test_anything_else_is_refused(
    here: Callable[[], Present], received: str | None, code: str, place: Place, operator: Path
) -> None:
    approved(place, operator)
    with pytest.raises(Refused) as caught:
        check_bundle(place.site(), here(), received or read_approval(place.state).bundle)
    assert caught.value.code == code


def test_nothing_runs_before_something_was_approved(place: Place) -> None:
    with pytest.raises(Refused, match="nothing is approved"):
        check_installed(place.site(), present())


def test_another_roster_than_the_approved_one_is_refused(place: Place, operator: Path) -> None:
    approved(place, operator)
    roster = place.site().roster_path
    keys = {"site-0": load_identity(place.site().identity_path).public_key, "spy": new_identity().public_key}
    roster.write_bytes(sign_roster(keys, load_identity(operator / "consortium.pem")).to_bytes())
    with pytest.raises(Refused) as caught:
        check_installed(place.site(), present())
    assert caught.value.code == "roster"


def test_a_roster_of_another_consortium_is_refused(place: Place, operator: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    create_identity(tmp_path / "other" / "consortium.pem")
    roster = write_roster(tmp_path / "other", place.enrolment_path)
    with pytest.raises(Refused, match="not signed with the consortium's key"):
        difference(place, roster, operator / "bundle.fab")


def test_a_roster_with_another_key_under_this_sites_name_is_refused(place: Place, operator: Path) -> None:
    roster = write_roster(operator, place.enrolment_path, extra={"site-0": new_identity().public_key})
    with pytest.raises(Refused, match="this site's own key"):
        difference(place, roster, operator / "bundle.fab")


def test_a_difference_names_who_came_who_went_and_who_has_another_key(place: Place, operator: Path) -> None:
    keys = {name: new_identity().public_key for name in ("goes", "changes", "stays", "comes")}
    first = write_roster(operator, place.enrolment_path, extra={n: keys[n] for n in ("goes", "changes", "stays")})
    found = difference(place, first, operator / "bundle.fab")
    assert sorted(found.added) == ["changes", "goes", "site-0", "stays"]
    assert found.news == ("nothing was approved before",)
    pin(place, found)
    later = {"changes": new_identity().public_key, "stays": keys["stays"], "comes": keys["comes"]}
    found = difference(place, write_roster(operator, place.enrolment_path, extra=later), operator / "bundle.fab")
    assert (list(found.added), found.removed, list(found.changed)) == (["comes"], ("goes",), ["changes"])
    assert found.kept == ("site-0", "stays")
    assert found.news == ()


def archive(entries: list[tuple[str, bytes]]) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as target:
        for name, text in entries:
            target.writestr(name, text)
    return body.getvalue()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (archive([("pyproject.toml", b""), ("client/app.py", b"")]), "more than a manifest"),
        (archive([("pyproject.toml", b""), ("sitecustomize.py", b"")]), "more than a manifest"),
        (archive([("pyproject.toml", b""), ("../pyproject.toml", b"")]), "more than a manifest"),
        (archive([("pyproject.toml", bytes(2**21))]), "unpacks to more"),
        (archive([("LICENSE", bytes(2**22))]), "unpacks to more"),
        (b"no archive", "is no archive"),
        (bytes(2**20 + 1), "has less than"),
    ],
)
def test_a_bundle_that_is_no_manifest_is_refused(body: bytes, words: str, place: Place, operator: Path) -> None:
    roster = write_roster(operator, place.enrolment_path)
    (place.state / "odd.fab").write_bytes(body)
    with pytest.raises(Refused, match=words):
        difference(place, roster, place.state / "odd.fab")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_bundle_that_names_a_file_twice_is_refused(place: Place, operator: Path) -> None:
    (place.state / "odd.fab").write_bytes(archive([("README.md", b"one"), ("README.md", b"other")]))
    with pytest.raises(Refused, match="twice"):
        difference(place, write_roster(operator, place.enrolment_path), place.state / "odd.fab")
