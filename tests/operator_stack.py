"""A real operator for tests: an authority, Flower's SuperLink over TLS on loopback, and runs of any bundle."""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from flwr.cli.build import build_fab_from_files

from common.deployment.documents import Enrolment, Invitation, read_document
from common.deployment.environment import PROGRAMS, environment_of
from common.deployment.supervise import Program, running
from common.secagg.identity import create_identity, load_identity
from common.secagg.roster import sign_roster
from tests.operator_app import ANSWERS

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "fedmosaic"
version = "0.1.0"
description = "A manifest."
license = "Apache-2.0"
dependencies = ["flwr==1.41.0"]
[tool.flwr.app]
publisher = "fedmosaic"
[tool.flwr.app.components]
serverapp = "tests.operator_app:app"
clientapp = "client.app:app"
[tool.flwr.app.config]
run = "query"
config = ""
plan = "null"
"""
MANIFEST = {"pyproject.toml": PYPROJECT, "README.md": "A manifest.\n", "LICENSE": "Apache-2.0\n"}


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def write_bundle(folder: Path, files: Mapping[str, str]) -> Path:
    """A bundle's source folder, and beside it the bundle as Flower builds it."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    path = folder.with_suffix(".fab")
    path.write_bytes(build_fab_from_files({name: folder / name for name in files})[0])
    return path


@dataclass(frozen=True)
class Certificates:
    authority: str
    chain: Path
    key: Path


def certify(folder: Path, *, days: float = 1, name: str = "localhost") -> Certificates:
    """An authority and a certificate of it for 127.0.0.1; `days` below 0: one that has expired."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    begins, ends = now - datetime.timedelta(days=30), now + datetime.timedelta(days=days)

    def subject(common_name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])

    keys = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    start = x509.CertificateBuilder().issuer_name(subject("authority")).not_valid_before(begins).not_valid_after(ends)
    authority = (
        start.subject_name(subject("authority"))
        .public_key(keys[0].public_key())
        .serial_number(1)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_signs_certificates(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(keys[0].public_key()), critical=False)
        .sign(keys[0], SHA384())
    )
    names = [x509.DNSName(name)] + ([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))] if name == "localhost" else [])
    server = (
        start.subject_name(subject(name))
        .public_key(keys[1].public_key())
        .serial_number(2)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), critical=False)
        .sign(keys[0], SHA384())
    )
    chain, key = folder / "server.pem", folder / "server.key"
    chain.write_bytes(server.public_bytes(Encoding.PEM))
    key.write_bytes(keys[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return Certificates(authority.public_bytes(Encoding.PEM).decode(), chain, key)


def _signs_certificates() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )


def write_invitation(folder: Path, address: str, authority: str, consortium: str = "Test") -> Path:
    """An operator's invitation, signed with the consortium's key, which is made where there is none."""
    key = folder / "consortium.pem"
    identity = load_identity(key) if key.exists() else create_identity(key)
    paper = Invitation(
        consortium=consortium, address=address, authority=authority, consortium_key=identity.public_key.hex()
    )
    return paper.signed(identity).write(folder / "invitation.json")


def write_roster(folder: Path, *enrolments: Path, extra: Mapping[str, bytes] | None = None) -> Path:
    """The consortium's roster of these enrolments."""
    papers = [read_document(path, Enrolment) for path in enrolments]
    keys = {paper.name: bytes.fromhex(paper.identity_key) for paper in papers} | dict(extra or {})
    path = folder / "roster.bin"
    path.write_bytes(sign_roster(keys, load_identity(folder / "consortium.pem")).to_bytes())
    return path


@dataclass(frozen=True)
class Operator:
    folder: Path
    invitation: Path

    def enrol(self, enrolment: Path) -> None:
        """Register a site's transport key."""
        public = self.folder / f"{read_document(enrolment, Enrolment).name}.pub"
        public.write_text(read_document(enrolment, Enrolment).transport_key)
        self._flwr("supernode", "register", str(public), "here")

    def answers(self, bundle: Path, *, patience: float = 120) -> list[str]:
        """Run a bundle's folder, and wait for what `tests.operator_app` wrote down."""
        self.results.unlink(missing_ok=True)
        self._flwr("run", str(bundle), "here")
        deadline = time.monotonic() + patience
        while not self.results.exists():
            if time.monotonic() > deadline:
                logs = "\n".join(path.read_text() for path in sorted(self.folder.glob("*.log")))
                raise TimeoutError(f"no answer in {patience} s:\n{logs[-6000:]}")
            time.sleep(0.1)
        found: list[str] = json.loads(self.results.read_text())
        return found

    @property
    def results(self) -> Path:
        return self.folder / "answers.json"

    def _flwr(self, *arguments: str) -> None:
        environment = environment_of(self.folder / "control") | {"PYTHONPATH": str(ROOT)}
        command = [str(PROGRAMS / "flwr"), *arguments]
        done = subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def operator(folder: Path) -> Iterator[Operator]:
    """A running operator without a gate: what a site talks to is Flower's SuperLink itself."""
    certificates, port = certify(folder), free_port()
    (folder / "authority.pem").write_text(certificates.authority)
    (folder / "secret").write_text("between SuperLink and SuperExec")
    control = folder / "control" / "config.toml"
    control.parent.mkdir()
    control.write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{port}"\n'
        f'root-certificates = "{folder}/authority.pem"\n'
    )
    ran = Operator(folder, write_invitation(folder, f"localhost:{port}", certificates.authority))
    extra = {"PYTHONPATH": str(ROOT), ANSWERS: str(ran.results)}
    secret = ("--superexec-auth-secret-file", str(folder / "secret"))
    tls = ("--ssl-certfile", str(certificates.chain), "--ssl-keyfile", str(certificates.key))
    link = (
        *("flower-superlink", *tls, "--ssl-ca-certfile", str(folder / "authority.pem"), "--isolation", "process"),
        *("--database", str(folder / "state.db"), "--enable-supernode-auth", *secret),
        *("--host", "127.0.0.1", "--port", str(port)),
    )
    trust = ("--root-certificates", str(folder / "authority.pem"))
    runner = ("flower-superexec", "--runtime-api-address", f"127.0.0.1:{port}", *secret, *trust)
    environment = environment_of(folder / "home") | extra
    with running([Program("superlink", link, environment, folder)]):
        _wait_for(port, certificates.authority)
        with running([Program("superexec", runner, environment, folder)]):
            yield ran


def _wait_for(port: int, authority: str) -> None:
    context = ssl.create_default_context(cadata=authority)
    deadline = time.monotonic() + 60
    while True:
        link = http.client.HTTPSConnection("127.0.0.1", port, timeout=2, context=context)
        try:
            link.request("GET", "/health")
            if link.getresponse().status == 200:
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        finally:
            link.close()


def site_command(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `fedmosaic site ...` as an institution does."""
    command = [sys.executable, "-m", "simulations.cli", "site", *arguments]
    everything = {**os.environ, **(environment or {})}
    return subprocess.run(command, env=everything, capture_output=True, text=True, check=False)


@contextmanager
def joined(state: Path, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A site that has joined, its sentences on the process's stderr and in join.log beside the state folder."""
    command = [sys.executable, "-m", "simulations.cli", "site", "join", str(state), *options]
    with (state.parent / "join.log").open("w") as log:
        process = subprocess.Popen(command, env={**os.environ, **(environment or {})}, stderr=log, text=True)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=30)


def wait_for_sentence(state: Path, words: str, *, patience: float = 60) -> str:
    """Wait until a joined site says something."""
    log, deadline = state.parent / "join.log", time.monotonic() + patience
    while words not in (said := log.read_text()):
        if time.monotonic() > deadline:
            programs = "\n".join(path.read_text() for path in sorted((state / "flower").glob("*.log")))
            raise TimeoutError(f"never said {words!r}:\n{said}\n{programs[-6000:]}")
        time.sleep(0.2)
    return said
