"""`fedmosaic site init`: an institution's keys, ledger, policy and papers, whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from client.bundle import bundle_hash
from client.deployment.place import Place, Settings
from client.deployment.unit import unit_of
from client.enrolment import open_ledger
from client.policy import Policy, write_policy
from client.site import Site
from common.compose import ConfigError
from common.data.folder import read_spec
from common.data.schema import FolderSpec
from common.deployment.documents import Enrolment, Invitation, fingerprint_of, read_document
from common.files import sync_folder, write_secret, write_whole
from common.secagg.identity import create_identity
from common.secagg.transport import create_transport_key

_SECRET_BYTES = 32
_YOURS = "YOURS TO DECIDE before the first run."
_REMARKS = {
    "lifetime_epsilon": f"{_YOURS} Ten is what this release proposes; lower protects more.",
    "lifetime_delta": "Fixed since the ledger was made: another one takes another state folder.",
    "k_min": f"{_YOURS} Nobody but you knows how many of the others could work together against you.",
    "allowed_tasks": "Those of your dataset.yaml.",
    "allowed_attributes": "Those of your dataset.yaml.",
    "allowed_modalities": "Those of your dataset.yaml.",
    "allowed_peers": f"{_YOURS} Whoever is on a roster that you approve is a peer as long as this says *.",
}


@dataclass(frozen=True)
class Wish:
    """What an institution asks for: where its data lies, who invites it, and its budget."""

    folder: Path
    invitation: Path
    ledger: str | None = None
    lifetime_epsilon: float = 10.0
    lifetime_delta: float = 1e-5


@dataclass(frozen=True)
class Made:
    """What there is after `site init`."""

    place: Place
    name: str
    invitation: Invitation

    @property
    def fingerprint(self) -> str:
        """The consortium's key as people read it to each other."""
        return fingerprint_of(bytes.fromhex(self.invitation.consortium_key))


def init_site(state: Path, wish: Wish) -> Made:
    """Make a site's state folder; of the data folder, only `dataset.yaml` is read.

    Guarantees:
        whole: after a failure there is no state folder; a folder that holds anything is never touched.

    Raises:
        ConfigError: the folder is not empty, or the invitation, `dataset.yaml` or budget cannot be used.
    """
    state, folder = state.resolve(), wish.folder.resolve()
    invitation, spec = read_document(wish.invitation, Invitation), read_spec(folder)
    policy = _policy(spec, wish)
    if state.is_symlink() or (state.exists() and (not state.is_dir() or any(state.iterdir()))):
        raise ConfigError(f"{state} is not empty: nothing was changed, and no key is ever overwritten")
    draft = state.with_name(f".{state.name}.{secrets.token_hex(8)}.draft")
    draft.mkdir(mode=0o700, parents=True)
    try:
        _fill(Place(draft), invitation, spec, policy, Settings(name=spec.name, folder=folder))
        write_whole(Place(draft).unit_path, unit_of(state, folder, invitation.consortium))
        try:
            draft.rename(state)
        except OSError as error:
            raise ConfigError(f"{state} cannot be made ({error.strerror}): name a folder inside a volume") from error
    except BaseException:
        shutil.rmtree(draft)
        raise
    sync_folder(state.parent)
    return Made(Place(state), spec.name, invitation)


def _fill(place: Place, invitation: Invitation, spec: FolderSpec, policy: Policy, settings: Settings) -> None:
    site = Site(spec.name, settings.folder, place.state)
    identity = create_identity(site.identity_path)
    transport = create_transport_key(place.transport_path)
    write_secret(place.secret_path, secrets.token_hex(_SECRET_BYTES).encode())
    write_policy(site.policy_path, policy, _REMARKS)
    invitation.write(place.invitation_path)
    enrolment = Enrolment(
        name=spec.name,
        identity_key=identity.public_key.hex(),
        transport_key=transport,
        description=spec,
        bundle=bundle_hash(),
    )
    enrolment.signed(identity).write(place.enrolment_path)
    place.keep(settings)
    open_ledger(site, policy).close()  # last: a database outside cannot be unmade


def _policy(spec: FolderSpec, wish: Wish) -> Policy:
    try:
        return Policy(
            lifetime_epsilon=wish.lifetime_epsilon,
            lifetime_delta=wish.lifetime_delta,
            allowed_tasks=tuple(sorted(spec.tasks)),
            allowed_attributes=tuple(sorted(spec.attributes)),
            allowed_modalities=tuple(sorted(spec.modalities)),
            ledger=wish.ledger,
        )
    except ValueError as error:
        raise ConfigError(f"a policy with this budget cannot be: {error}") from error
