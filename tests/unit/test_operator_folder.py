"""`server init` and `server enrol`: what lies in an operator's folder, and who gets onto the roster."""

from __future__ import annotations

import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import DNSName, load_pem_x509_certificate
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from common.compose import ConfigError
from common.data.folder import read_spec
from common.deployment.documents import Enrolment, Invitation, read_document
from common.secagg.identity import Identity, load_identity, new_identity
from common.secagg.roster import Roster
from server.deployment.bundle import hash_of, write_bundle
from server.deployment.certificates import days_left
from server.deployment.init import certify_servers, create, enrol, fingerprint
from server.deployment.place import Consortium, Place, consortium_of
from tests.toy_federation import write_toy_sites

SECRETS = {"authority.key", "consortium.pem", "gate.key", "link.key", "superexec.secret"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return create(tmp_path_factory.mktemp("operator") / "consortium", Consortium(name="Heart", host="gate.example.org"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return create(tmp_path / "consortium", Consortium(name="Heart", host="gate.example.org"))


def paper(folder: Path, where: Path, *, identity: Identity | None = None, name: str | None = None) -> Path:
    """An institution's enrolment, as `site init` writes it."""
    identity, spec = identity or new_identity(), read_spec(folder)
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    made = Enrolment(
        name=name or spec.name,
        identity_key=identity.public_key.hex(),
        transport_key=key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
        description=spec,
        bundle="0" * 64,
    )
    return made.signed(identity).write(where)


def test_secrets_are_their_owners_alone_and_nothing_else_is_secret(made: Place) -> None:
    keys = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (made.path / "keys").iterdir()}
    assert keys == dict.fromkeys(SECRETS, 0o600)
    secrets = [path.read_bytes() for path in (made.path / "keys").iterdir()]
    others = [path for path in made.path.rglob("*") if path.is_file() and path.parent.name != "keys"]
    for path in others:
        assert not any(secret in path.read_bytes() for secret in secrets), path
        assert b"PRIVATE KEY" not in path.read_bytes(), path


def test_the_invitation_is_signed_and_names_the_gate(made: Place) -> None:
    invitation = read_document(made.invitation_path, Invitation)
    assert invitation.address == "gate.example.org:9443"
    assert bytes.fromhex(invitation.consortium_key) == load_identity(made.key("consortium.pem")).public_key
    assert fingerprint(made) in (made.path / "README.md").read_text()


def test_the_gates_certificate_is_the_authoritys_and_nobody_elses(made: Place, place: Place) -> None:
    gate = load_pem_x509_certificate(made.certificate("gate").read_bytes())
    name = DNSName("gate.example.org")

    def verifier(authority: Place, host: DNSName):  # type: ignore[no-untyped-def]  # noqa: ANN202
        store = Store([load_pem_x509_certificate(authority.certificate("authority").read_bytes())])
        return PolicyBuilder().store(store).build_server_verifier(host)

    assert verifier(made, name).verify(gate, [])
    with pytest.raises(VerificationError):
        verifier(place, name).verify(gate, [])
    with pytest.raises(VerificationError):
        verifier(made, DNSName("elsewhere.example.org")).verify(gate, [])
    ssl.create_default_context(cafile=str(made.certificate("authority"))).load_cert_chain(
        made.certificate("gate"), made.key("gate.key")
    )


def test_certificates_are_renewed_under_the_same_authority(place: Place) -> None:
    before, authority = place.certificate("gate").read_bytes(), place.certificate("authority").read_bytes()
    certify_servers(place)
    assert place.certificate("gate").read_bytes() != before
    assert place.certificate("authority").read_bytes() == authority
    assert 364 < days_left(place.certificate("gate").read_bytes()) <= 365


def test_a_second_init_changes_nothing(place: Place) -> None:
    before = {path: path.read_bytes() for path in place.path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="never overwritten"):
        create(place.path, Consortium(name="Other", host="elsewhere"))
    assert before == {path: path.read_bytes() for path in place.path.rglob("*") if path.is_file()}


def test_of_a_failure_nothing_stays(tmp_path: Path) -> None:
    (tmp_path / "flower-is-away").mkdir()
    script = (
        "import sys; from pathlib import Path\n"
        "import server.deployment.bundle as bundle\n"
        "bundle.PROGRAMS = Path(sys.argv[1])\n"
        "from server.deployment.init import create\n"
        "from server.deployment.place import Consortium\n"
        "create(Path(sys.argv[2]), Consortium(host='gate.example.org', name='x'))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "flower-is-away"), str(tmp_path / "consortium")]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
    assert not (tmp_path / "consortium").exists()


def test_the_same_manifest_is_the_same_bundle(made: Place) -> None:
    before = hash_of(made.bundle_path)
    assert write_bundle(made) == before


@pytest.mark.parametrize(
    ("facts", "option"),
    [({"host": "a b"}, "--host"), ({"host": "x", "port": 0}, "--port"), ({"host": "x", "days": -1}, "--days")],
)
def test_a_wrong_option_is_named(facts: dict[str, object], option: str) -> None:
    with pytest.raises(ConfigError, match=option):
        consortium_of({"name": "x", **facts})


def test_a_folder_that_is_no_operators_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fedmosaic server init"):
        _ = Place(tmp_path).consortium


def test_the_roster_lists_who_is_enrolled_under_the_consortiums_signature(place: Place, tmp_path: Path) -> None:
    one, two, _, _ = write_toy_sites(tmp_path / "sites")
    papers = [paper(one, tmp_path / "one.json"), paper(two, tmp_path / "two.json")]
    assert enrol(place, papers) == ("site-0", "site-1")
    roster = Roster.from_bytes(place.roster_path.read_bytes())
    assert list(roster.keys) == ["site-0", "site-1"]
    assert roster.consortium_public_key.hex() == place.invitation.consortium_key
    assert enrol(place, (), remove=["site-0"]) == ("site-1",)
    assert list(Roster.from_bytes(place.roster_path.read_bytes()).keys) == ["site-1"]
    with pytest.raises(ConfigError, match="--remove nobody"):
        enrol(place, (), remove=["nobody"])


def test_another_identity_under_a_known_name_is_refused(place: Place, tmp_path: Path) -> None:
    one = write_toy_sites(tmp_path / "sites")[0]
    enrol(place, [paper(one, tmp_path / "one.json")])
    before = place.roster_path.read_bytes()
    with pytest.raises(ConfigError, match="another identity key"):
        enrol(place, [paper(one, tmp_path / "again.json")])
    assert place.roster_path.read_bytes() == before


@pytest.mark.parametrize(
    ("word", "other"), [('"site-0"', '"site-9"'), ('"crp"', '"alt"'), ('"bundle": "00', '"bundle": "11')]
)
def test_a_paper_that_was_tampered_with_is_refused(place: Place, tmp_path: Path, word: str, other: str) -> None:
    path = paper(write_toy_sites(tmp_path / "sites")[0], tmp_path / "one.json")
    assert word in path.read_text()
    path.write_text(path.read_text().replace(word, other))
    with pytest.raises(ConfigError, match=r"one\.json"):
        enrol(place, [path])
    assert not place.roster_path.exists()


def test_a_paper_in_another_institutions_name_is_refused(place: Place, tmp_path: Path) -> None:
    path = paper(write_toy_sites(tmp_path / "sites")[0], tmp_path / "one.json", name="site-7")
    with pytest.raises(ConfigError, match="not of 'site-7'"):
        enrol(place, [path])
