"""What one entry says: its body read field by field, each in its range, with nothing left over and nothing missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from common.verify.chain import DIGEST_BYTES, canonical
from common.verify.finding import is_hex, shown
from common.verify.keys import KEY_BYTES

OLDEST, NEWEST = 2, 3
ADJACENCY, UNIT, SAMPLING = "zero-out (add or remove)", "subject", "poisson"
MECHANISMS = ("gaussian", "discrete_gaussian")
SMALLEST_MULTIPLIER = 1e-3
LARGEST_WHOLE = 2**53
LARGEST_ORDER, MOST_ORDERS = 10_000, 1_000


class BadBody(ValueError):
    """A body that cannot be read; the sentence says what is wrong with it."""


@dataclass(frozen=True)
class Header:
    """Entry 0."""

    site: str
    delta: float
    orders: tuple[float, ...]
    order: float
    public_key: str
    schema: int
    when: datetime


@dataclass(frozen=True)
class Charge:
    """What a reservation asks for one purpose; modalities are None where version 2 did not write them."""

    cohort: str
    purpose: str
    mechanism: str
    noise_multiplier: float
    sampling_rate: float
    count: int
    modalities: tuple[str, ...] | None


@dataclass(frozen=True)
class Reservation:
    """A run's charges; roots by cohort are None where it names none, so that every subject pays.

    `pseudonyms` stands for the key that the cohorts' pseudonyms were made with; None where there are no cohorts.
    """

    plan: str
    charges: tuple[Charge, ...]
    roots: Mapping[str, str] | None
    pseudonyms: str | None
    when: datetime


@dataclass(frozen=True)
class Release:
    """What left, or was about to."""

    round: int
    stage: str
    purpose: str
    count: int
    when: datetime


@dataclass(frozen=True)
class Settlement:
    """The end of a run."""

    when: datetime


@dataclass(frozen=True)
class Migration:
    """The tables were brought to another version."""

    source: int
    target: int
    when: datetime


Fact = Header | Reservation | Release | Settlement | Migration


class _Fields:
    """The fields of one JSON object, each taken once; what nobody took is too much."""

    def __init__(self, values: object, what: str) -> None:
        if not isinstance(values, dict):
            raise BadBody(f"{what} is no object")
        self._values: dict[str, object] = dict(values)
        self._what = what

    def has(self, name: str) -> bool:
        return name in self._values

    def take(self, name: str) -> object:
        if name not in self._values:
            raise BadBody(f"{self._what} has no {name}")
        return self._values.pop(name)

    def text(self, name: str, *, may_be_empty: bool = False) -> str:
        value = self.take(name)
        if not isinstance(value, str) or not (value or may_be_empty):
            raise BadBody(f"{name} is no text but {shown(value)}")
        return value

    def whole(self, name: str, least: int) -> int:
        value = self.take(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= LARGEST_WHOLE:
            raise BadBody(f"{name} is {shown(value)}, not a whole number from {least} to 2^53")
        return value

    def number(self, name: str) -> float:
        return _number(name, self.take(name))

    def when(self) -> datetime:
        value = self.text("when")
        try:
            moment = datetime.fromisoformat(value)
        except ValueError as error:
            raise BadBody(f"when is no time but {shown(value)}") from error
        if moment.tzinfo is None:
            raise BadBody(f"when has no time zone: {shown(value)}")
        return moment

    def list(self, name: str) -> list[object]:
        value = self.take(name)
        if not isinstance(value, list):
            raise BadBody(f"{name} is no list")
        return value

    def names(self, name: str) -> tuple[str, ...]:
        values = self.list(name)
        names = tuple(value for value in values if isinstance(value, str) and value)
        if len(names) < len(values) or len(set(names)) < len(names):
            raise BadBody(f"{name} is no list of names that stand once each")
        return names

    def fixed(self, name: str, only: str) -> None:
        value = self.take(name)
        if value != only:
            raise BadBody(f"{name} is {shown(value)}, and this arithmetic holds for {only} only")

    def end(self) -> None:
        if self._values:
            raise BadBody(f"{self._what} has a field that nobody knows: {shown(min(self._values))}")


def read_fact(kind: str, body: str, version: int) -> Fact:
    """Read the body of an entry of a kind, as the ledger's version at that place has it.

    Raises:
        BadBody: it is no canonical JSON, a field is missing, unknown or out of its range, or the kind is unknown.
    """
    if kind not in _READERS:
        raise BadBody(f"its kind is {shown(kind)}, which is none of {', '.join(_READERS)}")
    try:
        values: object = json.loads(body, parse_constant=_refuse_constant)
        is_canonical = canonical(values) == body
    except (ValueError, RecursionError) as error:
        raise BadBody("its body is no JSON") from error
    if not is_canonical:
        raise BadBody("its body is not in the one form that is hashed")
    fields = _Fields(values, f"its body ({kind})")
    fact = _READERS[kind](fields, version)
    fields.end()
    return fact


def _header(fields: _Fields, _version: int) -> Header:
    orders = tuple(_number("an order", order) for order in fields.list("orders"))
    if not 0 < len(orders) <= MOST_ORDERS or list(orders) != sorted(set(orders)):
        raise BadBody("orders is no rising list of numbers")
    if not (orders[0] > 1 and orders[-1] <= LARGEST_ORDER):
        raise BadBody(f"an order is outside (1, {LARGEST_ORDER}]")
    order, delta = fields.number("order"), fields.number("delta")
    if order not in orders:
        raise BadBody(f"the filter's order {order:g} is none of its orders")
    if not 0 < delta < 1:
        raise BadBody(f"delta is {delta:g}, not in (0, 1)")
    for name, only in (("adjacency", ADJACENCY), ("unit", UNIT), ("sampling", SAMPLING)):
        fields.fixed(name, only)
    public_key = fields.text("public_key")
    if not is_hex(public_key, KEY_BYTES):
        raise BadBody("public_key is no key of 32 bytes in hex")
    schema = _schema(fields)
    return Header(fields.text("site"), delta, orders, order, public_key, schema, fields.when())


def _schema(fields: _Fields) -> int:
    """The version that a header says; version 2 did not say it."""
    if not fields.has("schema"):
        return OLDEST
    schema = fields.whole("schema", OLDEST)
    if schema != NEWEST:
        raise BadBody(f"schema is {schema}, which this reader does not know")
    return schema


def _reserve(fields: _Fields, version: int) -> Reservation:
    charges = tuple(_charge(_Fields(value, "a charge"), version) for value in fields.list("charges"))
    purposes = [charge.purpose for charge in charges]
    twice = sorted({purpose for purpose in purposes if purposes.count(purpose) > 1})
    if twice:
        raise BadBody(f"it reserves {shown(twice[0])} more than once")
    roots: dict[str, str] | None = None
    pseudonyms: str | None = None
    if version > OLDEST:
        if fields.has("cohorts"):
            roots, pseudonyms = _roots(fields.take("cohorts")), fields.text("pseudonyms")
        fields.text("bundle", may_be_empty=True)
        missing = sorted({charge.cohort for charge in charges} - set(roots or {}))
        if roots is not None and missing:
            raise BadBody(f"it names no root for cohort {shown(missing[0])}")
    return Reservation(fields.text("plan"), charges, roots, pseudonyms, fields.when())


def _roots(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(is_hex(root, DIGEST_BYTES) for root in value.values()):
        raise BadBody("cohorts gives no roots of 32 bytes in hex")
    if len(set(value.values())) < len(value):
        raise BadBody("two of its cohorts have one root")
    return {str(cohort): str(root) for cohort, root in value.items()}


def _charge(fields: _Fields, version: int) -> Charge:
    cohort, purpose, mechanism = (fields.text(name) for name in ("cohort", "purpose", "mechanism"))
    noise, rate, count = fields.number("noise_multiplier"), fields.number("sampling_rate"), fields.whole("count", 0)
    if mechanism not in MECHANISMS:
        raise BadBody(f"mechanism is {shown(mechanism)}, which is none of {', '.join(MECHANISMS)}")
    if noise < SMALLEST_MULTIPLIER:
        raise BadBody(f"noise_multiplier is {noise:g}, below {SMALLEST_MULTIPLIER:g}")
    if not 0 < rate <= 1 or (mechanism == "discrete_gaussian" and rate != 1):
        raise BadBody(f"sampling_rate is {rate:g}, which {mechanism} does not allow")
    modalities = None
    if version > OLDEST:
        modalities = fields.names("modalities")
        fields.names("blocks")
        fields.fixed("adjacency", ADJACENCY)
        sampling = fields.text("sampling")
        if sampling not in ("poisson", "none") or (sampling == "none" and rate != 1):
            raise BadBody(f"sampling is {shown(sampling)} at sampling_rate {rate:g}")
    fields.end()
    return Charge(cohort, purpose, mechanism, noise, rate, count, modalities)


def _release(fields: _Fields, version: int) -> Release:
    if version > OLDEST:
        fields.text("request", may_be_empty=True)
    number, count = fields.whole("round", 0), fields.whole("count", 1)
    return Release(number, fields.text("stage"), fields.text("purpose"), count, fields.when())


def _settle(fields: _Fields, _version: int) -> Settlement:
    return Settlement(fields.when())


def _migrate(fields: _Fields, version: int) -> Migration:
    source, target = fields.whole("from", OLDEST), fields.whole("to", OLDEST)
    if source != version or not source < target <= NEWEST:
        raise BadBody(f"it goes from version {source} to {target}, where the ledger was at {version}")
    return Migration(source, target, fields.when())


_READERS: Final[Mapping[str, Callable[[_Fields, int], Fact]]] = {
    "header": _header,
    "migrate": _migrate,
    "reserve": _reserve,
    "release": _release,
    "settle": _settle,
}


def _number(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= LARGEST_WHOLE:
        raise BadBody(f"{name} is {shown(value)}, not a number within 2^53")
    return float(value)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no number")
