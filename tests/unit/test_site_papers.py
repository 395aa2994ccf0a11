"""`site init` and `site approve`: nothing half made, no key overwritten, nothing approved that runs or is unsigned."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from typer.testing import CliRunner

from client.deployment.approve import difference, pin
from client.deployment.init import Wish, init_site
from client.deployment.place import Place
from client.deployment.status import policy_in_words, status
from client.deployment.unit import unit_of
from client.enrolment import open_ledger
from client.ledger_schema import LedgerBroken
from client.policy import Policy, read_policy
from common.compose import ConfigError
from common.data.error import DataError
from common.deployment.documents import Enrolment, read_document
from common.files import write_secret
from common.secagg.identity import PASSPHRASE_FILE, create_identity, load_identity
from common.secagg.transport import create_transport_key
from simulations.cli import app
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
def wish(operator: Path, tmp_path: Path) -> Wish:
    (folder,) = write_toy_sites(tmp_path / "data", sites=1, subjects=8)
    return Wish(folder, operator / "invitation.json")


@pytest.fixture
def place(wish: Wish, tmp_path: Path) -> Place:
    return init_site(tmp_path / "state", wish).place


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def approved(place: Place, operator: Path) -> Place:
    roster = write_roster(operator, place.enrolment_path)
    pin(place, difference(place, roster, operator / "bundle.fab"))
    return place


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_secrets_are_their_owners_alone(place: Place) -> None:
    assert mode_of(place.state) == 0o700
    for path in (place.site().identity_path, place.transport_path, place.secret_path):
        assert mode_of(path) == 0o600, path


def test_the_enrolment_is_signed_and_holds_public_keys_only(place: Place) -> None:
    paper = read_document(place.enrolment_path, Enrolment)
    identity = load_identity(place.site().identity_path)
    assert paper.name == place.site().name
    assert paper.identity_key == identity.public_key.hex()
    text = place.enrolment_path.read_text()
    assert identity.private_key.hex() not in text
    assert "PRIVATE" not in text


def test_the_transport_key_is_what_flower_reads(tmp_path: Path) -> None:
    public = create_transport_key(tmp_path / "transport.key")
    key = load_ssh_private_key((tmp_path / "transport.key").read_bytes(), None)
    assert isinstance(key, EllipticCurvePrivateKey)
    assert isinstance(key.curve, SECP384R1)
    assert public.startswith("ecdsa-sha2-nistp384 ")
    with pytest.raises(FileExistsError):
        create_transport_key(tmp_path / "transport.key")


def test_only_the_description_of_the_data_is_read(wish: Wish, tmp_path: Path) -> None:
    for path in wish.folder.iterdir():
        if path.name != "dataset.yaml":
            path.unlink()
    assert init_site(tmp_path / "state", wish).name == "site-0"


def test_the_ledger_is_made_and_is_this_sites(place: Place) -> None:
    with open_ledger(place.site(), read_policy(place.site().policy_path)) as ledger:
        assert len(ledger.entries()) == 1


def test_the_policy_names_what_this_site_has_and_says_what_is_yours_to_decide(place: Place) -> None:
    policy = read_policy(place.site().policy_path)
    assert policy.allowed_tasks == ("sick",)
    assert policy.allowed_modalities == ("labs", "vitals", "ward")
    assert {policy.allow_no_privacy, policy.allow_no_secagg, policy.allow_distributed_noise} == {False}
    text = place.site().policy_path.read_text()
    assert text.count("# ") > len(Policy.model_fields)
    assert text.count("YOURS TO DECIDE") == 3


def test_an_empty_folder_may_be_there_already(wish: Wish, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    assert mode_of(init_site(tmp_path / "state", wish).place.state) == 0o700


def test_a_second_init_changes_nothing(place: Place, wish: Wish) -> None:
    before = files_below(place.state)
    with pytest.raises(ConfigError, match="is not empty"):
        init_site(place.state, wish)
    assert files_below(place.state) == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda wish: replace(wish, folder=wish.folder / "nowhere"),
        lambda wish: replace(wish, invitation=wish.folder / "nothing.json"),
        lambda wish: replace(wish, lifetime_epsilon=-1.0),
        lambda wish: replace(wish, ledger="postgresql://127.0.0.1:1/nobody"),
    ],
)
def test_after_a_failure_there_is_no_state_folder(spoil: Callable[[Wish], Wish], wish: Wish, tmp_path: Path) -> None:
    place = tmp_path / "empty" / "state"
    with pytest.raises((ConfigError, DataError, LedgerBroken)):
        init_site(place, spoil(wish))
    assert not place.parent.exists() or list(place.parent.iterdir()) == []


def test_an_invitation_that_was_tampered_with_is_refused(wish: Wish, tmp_path: Path) -> None:
    forged = tmp_path / "forged.json"
    forged.write_text(wish.invitation.read_text().replace("localhost:9", "evil.example:9"))
    with pytest.raises(ConfigError, match="signature"):
        init_site(tmp_path / "state", replace(wish, invitation=forged))


@pytest.mark.parametrize("name", ["", "\x1b[2Jall is well", "two\nlines"])
def test_a_consortium_is_not_called_what_would_write_on_a_terminal(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="consortium"):
        write_invitation(tmp_path, "localhost:9", "", name)
    assert write_invitation(tmp_path, "localhost:9", "", "Consórcio 日本 1").exists()


def test_a_folder_without_a_description_is_named(wish: Wish, tmp_path: Path) -> None:
    (wish.folder / "dataset.yaml").unlink()
    with pytest.raises(DataError, match=r"dataset\.yaml"):
        init_site(tmp_path / "state", wish)


def test_an_encrypted_identity_needs_its_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_secret(tmp_path / "passphrase", b"correct horse\n")
    write_secret(tmp_path / "other", b"wrong horse")
    monkeypatch.setenv(PASSPHRASE_FILE, str(tmp_path / "passphrase"))
    identity = create_identity(tmp_path / "identity.pem")
    assert b"ENCRYPTED" in (tmp_path / "identity.pem").read_bytes()
    assert load_identity(tmp_path / "identity.pem") == identity
    monkeypatch.setenv(PASSPHRASE_FILE, str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"(?i)password"):
        load_identity(tmp_path / "identity.pem")
    monkeypatch.delenv(PASSPHRASE_FILE)
    with pytest.raises(ValueError, match=PASSPHRASE_FILE):
        load_identity(tmp_path / "identity.pem")


def test_a_passphrase_that_others_can_read_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "passphrase").write_text("known to all")
    (tmp_path / "passphrase").chmod(0o644)
    monkeypatch.setenv(PASSPHRASE_FILE, str(tmp_path / "passphrase"))
    with pytest.raises(ValueError, match="0600"):
        create_identity(tmp_path / "identity.pem")
    assert not (tmp_path / "identity.pem").exists()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: str, answer: str | None = None) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["site", *arguments], input=answer)
        return done.exit_code, done.output

    return command


def test_the_commands_ask_before_they_approve(
    run: Callable[..., tuple[int, str]], place: Place, operator: Path
) -> None:
    roster = str(write_roster(operator, place.enrolment_path))
    asked = ("approve", str(place.state), "--roster", roster, "--bundle", str(operator / "bundle.fab"))
    code, text = run(*asked, answer="n\n")
    assert (code, place.site().roster_path.exists()) == (1, False)
    assert "+ site-0" in text
    code, text = run(*asked, "--json")
    assert (code, json.loads(text.splitlines()[0])["approved"], place.site().roster_path.exists()) == (0, False, False)
    assert run("join", str(place.state))[0] == 3
    assert run(*asked, answer="y\n")[0] == 0
    assert place.site().roster_path.read_bytes() == Path(roster).read_bytes()


def test_code_in_a_bundle_is_exit_code_3(run: Callable[..., tuple[int, str]], place: Place, operator: Path) -> None:
    write_bundle(place.state / "odd", {**MANIFEST, "client/app.py": ""})
    roster = str(write_roster(operator, place.enrolment_path))
    code, text = run("approve", str(place.state), "--roster", roster, "--bundle", str(place.state / "odd.fab"), "--yes")
    assert (code, "client/app.py" in text) == (3, True)


def test_status_budget_and_policy_of_a_new_site(
    run: Callable[..., tuple[int, str]], place: Place, operator: Path
) -> None:
    found = status(place)
    assert (found.running, found.spent, found.runs, found.problems) == (False, 0.0, (), ())
    assert "nothing is approved" in found.trouble
    approved(place, operator)
    told = json.loads(run("status", str(place.state), "--json")[1])
    assert (told["trouble"], told["roster"], told["lifetime_epsilon"]) == ("", ["site-0"], 10.0)
    assert "refuses connections" in told["connection"]
    assert run("budget", str(place.state))[0] == 0
    assert "epsilon 10 at delta 1e-05" in run("policy", str(place.state))[1]


def test_a_changed_policy_is_told_in_other_words() -> None:
    base = Policy(lifetime_epsilon=1, lifetime_delta=1e-6)
    for key, value in (("allow_no_secagg", True), ("k_min", 5), ("most_steps", 9), ("allowed_tasks", ("sick",))):
        assert policy_in_words(base) != policy_in_words(base.model_copy(update={key: value})), key


def test_a_folder_that_is_no_sites_is_wrong_usage(run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    for command in ("join", "status", "budget", "policy"):
        code, text = run(command, str(tmp_path))
        assert (code, "site init" in text) == (2, True), command


def test_the_unit_names_program_state_and_data(place: Place) -> None:
    text = place.unit_path.read_text()
    assert f'site join "{place.state}"' in text
    assert f'ReadOnlyPaths="{place.site().folder}"' in text
    assert "NoNewPrivileges=yes" in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here to read the unit")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    """Nor with a path that a shell, Python's format and systemd would each read otherwise."""
    state = tmp_path / 'a state\'s {100%} $HOME \\ "x"'
    state.mkdir()
    unit = tmp_path / "fedmosaic-site.service"
    verify = ["systemd-analyze", "verify", str(unit)]
    for text, fine in ((unit_of(state, tmp_path, "Test"), True), (unit_of(state, Path("data"), "Test"), False)):
        unit.write_text(text)
        done = subprocess.run(verify, capture_output=True, text=True, check=False)
        assert (done.stderr == "") is fine, done.stderr


def test_the_description_of_the_data_is_the_only_fact_about_it_that_is_enrolled(place: Place) -> None:
    told = json.loads(place.enrolment_path.read_text())["description"]
    assert set(told) == set(yaml.safe_load((place.site().folder / "dataset.yaml").read_text())) | {"split"}


@pytest.mark.parametrize("name", ["flwr-agentapp", "flwr-serverapp", "flwr-simulation", "flwr-model", "flwr-connector"])
def test_no_other_task_of_flowers_runs_at_a_site(name: str, tmp_path: Path) -> None:
    program = "from pathlib import Path; import sys; from client.deployment.join import write_programs;"
    program += " write_programs(Path(sys.argv[1]), Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    done = subprocess.run([str(tmp_path / name), "--token", "x"], capture_output=True, text=True, check=False)
    assert (done.returncode, "refused" in done.stderr) == (1, True)
