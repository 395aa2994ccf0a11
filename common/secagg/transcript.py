"""What the sites of a round say about themselves, and the hashes of what all of them saw."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.secagg.errors import ProtocolError
from common.secagg.hybrid import check_public_key
from common.secagg.identity import Identity, verify
from common.secagg.keys import KEY_BYTES, PROTOCOL
from common.secagg.layout import join, join_names, read_name, read_number, split, write_number

VERSIONS = {False: b"\x01", True: b"\x02"}  # by `Session.post_quantum`
HASH_BYTES = 32
SIGNATURE_BYTES = 64
MASKING_KEY = ""  # the name of the one shared secret that belongs to no block
_NUM_FIELDS = 12
_BLOCK_FIELDS = 3


@dataclass(frozen=True)
class Session:
    """What a round is about: run, round, purpose, and the hashes (32 bytes) of the model and of the run's plan.

    `post_quantum` says by what all its sites agree on keys: X25519 alone, or together with ML-KEM-768. Each site takes
    it from the run that it agreed to, and an advert carries it as its version.
    """

    run: str
    round: int
    purpose: str
    model_hash: bytes
    plan_hash: bytes
    post_quantum: bool = False


@dataclass(frozen=True)
class BlockAdvert:
    """A block that a site holds: its name, its length in coordinates, the commitment to the self-mask seed."""

    name: str
    length: int
    commitment: bytes


@dataclass(frozen=True)
class Advert:
    """A site's advert.

    `identity_key` is the institution's own (Ed25519) and signs the advert. The other three public keys live for one
    round: `signing_key` (Ed25519) signs what the site saw, `sharing_key` and `masking_key` (see
    `common.secagg.hybrid`) seal shares and make masks. `k_min` is the smallest number of sites with which this site
    lets itself be summed.
    """

    session: Session
    institution: str
    k_min: int
    identity_key: bytes
    signing_key: bytes
    sharing_key: bytes
    masking_key: bytes
    blocks: tuple[BlockAdvert, ...]

    @property
    def block_names(self) -> tuple[str, ...]:
        """The blocks that the site holds, sorted."""
        return tuple(block.name for block in self.blocks)

    @property
    def secret_names(self) -> tuple[str, ...]:
        """The names of the secrets that the site deals in shares, in the order of dealing."""
        return (MASKING_KEY, *self.block_names)

    def block(self, name: str) -> BlockAdvert:
        """One block that the site holds."""
        return next(block for block in self.blocks if block.name == name)


def sign_advert(advert: Advert, identity: Identity) -> bytes:
    """Write an advert: the version (1 byte: 01, or 02 post-quantum), the fields in fixed order, the signature (64).

    Raises:
        ProtocolError: the advert is malformed, so that no peer would read it (advert).
    """
    body = _write(advert)
    if _read(body) != advert:
        raise ProtocolError("advert", "this site's own advert is malformed")
    return body + identity.sign(_signed(b"advert", body))


def read_advert(raw: bytes) -> Advert:
    """Read an advert and check its signature against the identity key that it names (not yet against a roster).

    Raises:
        ProtocolError: it is of another version (version), malformed (advert), or not signed by that key (signature).
    """
    advert = read_checked_advert(raw)
    check_signature(advert.identity_key, b"advert", raw[:-SIGNATURE_BYTES], raw[-SIGNATURE_BYTES:])
    return advert


def read_checked_advert(raw: bytes) -> Advert:
    """Read an advert whose signature was checked before: this process's own word, or out of a site's own state.

    Raises:
        ProtocolError: it is of another version (version) or malformed (advert).
    """
    if raw[:1] not in VERSIONS.values():
        raise ProtocolError("version", f"an advert has version {raw[:1].hex() or 'none'}, this release reads 01 and 02")
    try:
        return _read(raw[:-SIGNATURE_BYTES])
    except ValueError as error:
        raise ProtocolError("advert", f"an advert is malformed: {error}") from error


def sign_transcript(signer: Identity, kind: bytes, digest: bytes) -> bytes:
    """Sign the hash of what this site saw; `kind` keeps the stages' signatures apart."""
    return signer.sign(_signed(kind, digest))


def check_signature(public_key: bytes, kind: bytes, body: bytes, signature: bytes) -> None:
    """Check a signature made by `sign_transcript` or `sign_advert`.

    Raises:
        ProtocolError: it is wrong (signature).
    """
    try:
        verify(public_key, _signed(kind, body), signature)
    except ValueError as error:
        raise ProtocolError("signature", f"a signature under the {kind.decode()} is wrong") from error


def first_transcript(adverts: Sequence[bytes], threshold: int) -> bytes:
    """Hash the adverts of all sites, sorted by institution, and the threshold: T1."""
    return _hash(b"T1", write_number(threshold), *adverts)


def final_transcript(first: bytes, senders: Sequence[str], survivors: Sequence[str], blocks: Sequence[str]) -> bytes:
    """Hash T1, the sites that shared, the sites that survived and the blocks to be summed: T3. All lists sorted."""
    return _hash(b"T3", first, join_names(senders), join_names(survivors), join_names(blocks))


def commit_to_seed(seed: bytes, session: Session, institution: str, block: str) -> bytes:
    """Commit to the seed of a self-mask; the seed is uniform over 2^256, so its hash hides it."""
    return _hash(b"seed", seed, _write_session(session), institution.encode(), block.encode())


def commit_to_share(share: bytes, first: bytes, pair: tuple[str, str], item: str) -> bytes:
    """Commit to the share of one secret (`item`: a block, or nothing for the masking key) that a site deals to another.

    `pair` is ordered: the dealer first. The share is uniform over the field, so its hash hides it.
    """
    return _hash(b"share", share, first, pair[0].encode(), pair[1].encode(), item.encode())


def commit_to_pair(secret: bytes, first: bytes, low: bytes, high: bytes) -> bytes:
    """Commit to the secret of a pair of sites, the lower-named first; it is the output of a key derivation."""
    return _hash(b"pair", secret, first, low, high)


def _write(advert: Advert) -> bytes:
    blocks = (join([b.name.encode(), write_number(b.length), b.commitment]) for b in advert.blocks)
    fields = (
        *split(_write_session(advert.session)),
        advert.institution.encode(),
        write_number(advert.k_min),
        *(advert.identity_key, advert.signing_key, advert.sharing_key, advert.masking_key),
        join(blocks),
    )
    return VERSIONS[advert.session.post_quantum] + join(fields)


def _read(body: bytes) -> Advert:
    fields = split(body[1:])
    if len(fields) != _NUM_FIELDS:
        raise ValueError(f"it has {len(fields)} fields, not {_NUM_FIELDS}")
    run, number, purpose, *hashes = fields[:5]
    model_hash, plan_hash = map(_exact(HASH_BYTES), hashes)
    post_quantum = body[:1] == VERSIONS[True]
    session = Session(read_name(run), read_number(number), read_name(purpose), model_hash, plan_hash, post_quantum)
    institution, k_min = read_name(fields[5]), read_number(fields[6])
    blocks = tuple(_read_block(field) for field in split(fields[11]))
    names = [block.name for block in blocks]
    if not names or names != sorted(set(names)):
        raise ValueError("its blocks must be at least one, sorted, and named once each")
    if k_min < 1:
        raise ValueError("its k_min must be >= 1")
    identity_key, signing_key = map(_exact(KEY_BYTES), fields[7:9])
    sharing_key, masking_key = (check_public_key(field, post_quantum=post_quantum) for field in fields[9:11])
    return Advert(session, institution, k_min, identity_key, signing_key, sharing_key, masking_key, blocks)


def _read_block(field: bytes) -> BlockAdvert:
    fields = split(field)
    if len(fields) != _BLOCK_FIELDS:
        raise ValueError(f"a block has {len(fields)} fields, not {_BLOCK_FIELDS}")
    length = read_number(fields[1])
    if length < 1:
        raise ValueError("a block's length must be >= 1")
    return BlockAdvert(read_name(fields[0]), length, _exact(HASH_BYTES)(fields[2]))


def _exact(num_bytes: int) -> Callable[[bytes], bytes]:
    def check(field: bytes) -> bytes:
        if len(field) != num_bytes:
            raise ValueError(f"a key or hash must have {num_bytes} bytes, got {len(field)}")
        return field

    return check


def _write_session(session: Session) -> bytes:
    return join(
        [
            *(session.run.encode(), write_number(session.round), session.purpose.encode()),
            *(session.model_hash, session.plan_hash),
        ]
    )


def _signed(kind: bytes, body: bytes) -> bytes:
    return join([PROTOCOL, kind, body])


def _hash(kind: bytes, *fields: bytes) -> bytes:
    return hashlib.sha256(join([PROTOCOL, kind, *fields])).digest()
