"""Membership: every cohort's root computed again from its salt and its members, and the path from a member to it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from common.verify.chain import DIGEST_BYTES
from common.verify.finding import WHOLE, Finding, is_hex, shown
from common.verify.read import Rows
from common.verify.story import Run

SECRET_BYTES = 32
Path = tuple[tuple[str, str], ...]
"""From a leaf to the root: on which side the neighbour stands ("left", "right"), and its hash in hex."""


@dataclass(frozen=True)
class Cohort:
    """One committed cohort, its pseudonyms sorted, all of them raw bytes."""

    salt: bytes
    pseudonyms: tuple[bytes, ...]

    def root(self) -> str:
        """Compute the Merkle root."""
        if not self.pseudonyms:
            return hashlib.sha256(b"\x02" + self.salt).hexdigest()
        level = [_leaf(self.salt, pseudonym) for pseudonym in self.pseudonyms]
        while len(level) > 1:
            level = _above(level)
        return level[0].hex()

    def path(self, pseudonym: bytes) -> Path:
        """Give what leads from a member's leaf to the root.

        Raises:
            ValueError: it is no member.
        """
        place, steps = self.pseudonyms.index(pseudonym), []
        level = [_leaf(self.salt, member) for member in self.pseudonyms]
        while len(level) > 1:
            neighbour = place ^ 1
            if neighbour < len(level):
                steps.append(("left" if neighbour < place else "right", level[neighbour].hex()))
            level, place = _above(level), place // 2
        return tuple(steps)


@dataclass(frozen=True)
class Membership:
    """The cohorts that can be relied on, by root, and all roots that a pseudonym is a member of."""

    cohorts: dict[str, Cohort] = field(default_factory=dict)
    roots_of: dict[bytes, frozenset[str]] = field(default_factory=dict)


def climb(salt: bytes, pseudonym: bytes, path: Path) -> str:
    """Follow a path from a member's leaf; it leads to the root exactly if the pseudonym is a member."""
    node = _leaf(salt, pseudonym)
    for side, other in path:
        pair = bytes.fromhex(other) + node if side == "left" else node + bytes.fromhex(other)
        node = hashlib.sha256(b"\x01" + pair).digest()
    return node.hex()


def read_membership(rows: Rows, runs: Iterable[Run]) -> tuple[Membership, list[Finding], list[Finding]]:
    """Check every cohort and give those that are whole, the problems and the notes.

    Each problem carries the number of the entry whose reservation names the root, where one does.
    """
    named = _named_roots(runs)
    at = {root: places[0] for root, places in named.items()}
    members: dict[str, list[object]] = {}
    for root, pseudonym in rows.members or ():
        members.setdefault(str(root), []).append(pseudonym)
    membership, problems, salts = Membership(), [], Counter(row[1] for row in rows.cohorts or ())
    roots = {str(row[0]) for row in rows.cohorts or ()}
    for root, salt, size in rows.cohorts or ():
        faults = list(_faults(root, salt, size, members.get(str(root), [])))
        faults += ["its salt is another cohort's too"] if salts[salt] > 1 else []
        problems += [Finding(at.get(str(root), WHOLE), f"cohort {_short(root)}: {fault}") for fault in faults]
        if not faults and str(root) in named:
            membership.cohorts[str(root)] = _cohort(str(salt), members.get(str(root), []))
    for root in sorted(members.keys() - roots):
        count = len(members[root])
        problems.append(Finding(at.get(root, WHOLE), f"{count} members of cohort {_short(root)}, which is not there"))
    for root, places in sorted(named.items()):
        if root not in roots:
            problems.append(Finding(places[0], f"its cohort {_short(root)} is not in the table of cohorts"))
        problems += [Finding(place, f"its cohort {_short(root)} is that of entry {places[0]}") for place in places[1:]]
    notes = [Finding(WHOLE, f"cohort {_short(root)}: no reservation names it") for root in sorted(roots - named.keys())]
    return _with_roots(membership), problems, notes


def check_disjoint(membership: Membership, runs: Sequence[Run]) -> Iterator[Finding]:
    """Check that nobody is in two cohorts of one run: the run's costliest cohort would be less than they pay."""
    for run in runs:
        roots = _roots_of(run).values()
        pseudonyms = Counter(
            pseudonym
            for root in roots
            if root in membership.cohorts
            for pseudonym in membership.cohorts[root].pseudonyms
        )
        several = sum(times > 1 for times in pseudonyms.values())
        if several:
            count = "1 subject is" if several == 1 else f"{several} subjects are"
            yield Finding(run.reserved_at, f"{count} in more than one cohort of run {shown(run.name)}")


def _faults(root: object, salt: object, size: object, members: Sequence[object]) -> Iterator[str]:
    if not is_hex(root, DIGEST_BYTES) or not is_hex(salt, SECRET_BYTES):
        yield "root or salt are not 32 bytes in hex"
        return
    odd = sum(not is_hex(pseudonym, SECRET_BYTES) for pseudonym in members)
    if odd:
        yield f"{odd} of its pseudonyms are not 32 bytes in hex"
        return
    if len(set(members)) < len(members):
        yield "a pseudonym stands in it more than once"
    if not isinstance(size, int) or size != len(members):
        yield f"its size is {shown(size)}, and it has {len(members)} members"
    if _cohort(str(salt), members).root() != root:
        yield "salt and members do not give its root"


def _cohort(salt: str, members: Iterable[object]) -> Cohort:
    return Cohort(bytes.fromhex(salt), tuple(sorted(bytes.fromhex(str(pseudonym)) for pseudonym in members)))


def _named_roots(runs: Iterable[Run]) -> dict[str, list[int]]:
    named: dict[str, list[int]] = {}
    for run in runs:
        for root in _roots_of(run).values():
            named.setdefault(root, []).append(run.reserved_at)
    return named


def _roots_of(run: Run) -> Mapping[str, str]:
    return {} if run.reservation is None else run.reservation.roots or {}


def _with_roots(membership: Membership) -> Membership:
    found: dict[bytes, set[str]] = {}
    for root, cohort in membership.cohorts.items():
        for pseudonym in cohort.pseudonyms:
            found.setdefault(pseudonym, set()).add(root)
    return Membership(membership.cohorts, {pseudonym: frozenset(roots) for pseudonym, roots in found.items()})


def _leaf(salt: bytes, pseudonym: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + salt + pseudonym).digest()


def _above(level: Sequence[bytes]) -> list[bytes]:
    pairs = zip(level[::2], level[1::2], strict=False)
    above = [hashlib.sha256(b"\x01" + left + right).digest() for left, right in pairs]
    return above + list(level[-1:]) * (len(level) % 2)


def _short(root: object) -> str:
    return shown(str(root)[:16]) + "..."
