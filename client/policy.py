"""The institution's own floor: what it allows, read from its `policy.yaml`, whatever a run asks for."""

from __future__ import annotations

import math
import os
import stat
from collections import Counter
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from common.refusals import Code

Purpose = Literal["training", "normalisation", "evaluation", "audit"]
Normalisation = Literal["none", "site", "federated"]
Switch = Annotated[bool, Field(strict=True)]  # "no", in quotes, is a word and not a switch
EVERYTHING = "*"
Names = tuple[str, ...]
_ALL_PURPOSES: tuple[Purpose, ...] = ("training", "normalisation", "evaluation", "audit")
_ALL_NORMALISATION: tuple[Normalisation, ...] = ("none", "site", "federated")
_MODE, _WRITABLE_BY_OTHERS = 0o644, stat.S_IWGRP | stat.S_IWOTH


class Refused(Exception):
    """A request that this institution does not carry out.

    `code` is one of a closed set of short words and may leave the site; the sentence stays in its own log.
    """

    def __init__(self, code: Code, reason: str) -> None:
        """Keep the code; the reason becomes the exception's text."""
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        """The sentence."""
        return self.reason


class PolicyBroken(Refused):
    """The policy's file cannot be read as what it must be: this site agrees to nothing until someone corrects it."""

    def __init__(self, reason: str) -> None:
        """Keep the reason under the code `policy`."""
        super().__init__("policy", reason)
        self.args = (reason,)  # so that it can be pickled


class Policy(BaseModel):
    """What one institution allows.

    Each key is held when a run is agreed to, and again at every request that would read records, by the file of that
    moment. A smallest number of its own subjects is not among the keys, on purpose: whether a run is refused would
    then depend on who is in the folder, and a refusal leaves the site uncharged.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    lifetime_epsilon: Annotated[float, Field(gt=0, description="Budget of a subject over all runs, for ever.")]
    lifetime_delta: Annotated[
        float, Field(gt=0, lt=1, description="Delta of that budget; fixed once there is a ledger.")
    ]
    per_run_epsilon: float | None = Field(
        default=None, gt=0, description="Largest epsilon of one run; default: the lifetime's."
    )
    most_steps: int | None = Field(
        default=None, ge=1, description="Most steps of one run, rounds x steps_per_round; default: as the budget lasts."
    )
    min_noise_multiplier: float = Field(
        default=0.0,
        ge=0,
        description="Smallest noise of a training step, std / clip norm: this site's own, or where the sites share it"
        " out, all of it.",
    )
    min_table_noise_multiplier: float = Field(
        default=0.0,
        ge=0,
        description="Smallest noise of an evaluation, audit or normalisation table, std / sensitivity: what the sites"
        " add together, or for its own statistics this site alone.",
    )
    k_min: int = Field(default=3, ge=2, description="Smallest number of sites that may be added up.")
    allowed_purposes: tuple[Purpose, ...] = Field(default=_ALL_PURPOSES, description="What records may be read for.")
    allowed_tasks: Names = Field(default=(EVERYTHING,), description="Labels that may be learned; * is any.")
    allowed_attributes: Names = Field(default=(EVERYTHING,), description="Attributes to audit by; * is any.")
    allowed_modalities: Names = Field(
        default=(EVERYTHING,), description="Modalities that a run may read here, for whatever purpose; * is any."
    )
    allowed_blocks: Names = Field(
        default=(EVERYTHING,),
        description="Blocks of the model that may be trained here, also those that stay here: names (head/sick) or"
        " families (head); * is any.",
    )
    allowed_normalisation: tuple[Normalisation, ...] = Field(
        default=_ALL_NORMALISATION, description="How values may be scaled: none, site (own statistics), federated."
    )
    allowed_peers: Names = Field(
        default=(EVERYTHING,), description="Institutions that may be on the roster beside this one; * is any."
    )
    allowed_bundles: Names = Field(
        default=(EVERYTHING,),
        description="Hashes of the code that may run here; * is any. It finds a wrong version out, not a hostile one.",
    )
    allow_no_privacy: Switch = Field(
        default=False, description="Whether a run without differential privacy may read records."
    )
    allow_no_secagg: Switch = Field(
        default=False, description="Whether the server may see this site's own contribution."
    )
    require_post_quantum: Switch = Field(
        default=False, description="Whether masks must also withstand who records the traffic and breaks X25519 later."
    )
    allow_distributed_noise: Switch = Field(
        default=False,
        description="Whether training noise may be shared out: sites that collude with the server could then undo it.",
    )

    spent_subjects: Literal["refuse", "leave-out"] = Field(
        default="refuse",
        description="When the budget is gone: refuse the run, whoever is in the folder; or leave-out: take the run, and"
        " leave out the subjects whose own budget does not hold it, which the server cannot see.",
    )
    ledger: str | None = Field(
        default=None,
        description="Where the privacy ledger is kept: postgresql://... ; default: ledger.sqlite beside this file. The"
        " password belongs into a file that PGPASSFILE names.",
    )

    encrypt_features: bool = Field(
        default=False,
        description="Whether what frozen encoders said of records is encrypted where it is kept; decoded files are then"
        " not kept at all.",
    )
    allow_identified_files: Switch = Field(
        default=False, description="Whether DICOM and EDF files may still name their patient."
    )

    @model_validator(mode="after")
    def _run_within_lifetime(self) -> Self:
        if self.per_run_epsilon is not None and self.per_run_epsilon > self.lifetime_epsilon:
            raise ValueError(
                f"per_run_epsilon {self.per_run_epsilon} must be at most lifetime_epsilon {self.lifetime_epsilon}"
            )
        return self


def read_policy(path: Path) -> Policy:
    """Read a policy.

    Raises:
        PolicyBroken: the file is missing, others may write it, it is no YAML, or a key is unknown, missing, there
            twice, mistyped or out of range; the sentence names file, key and what to do.
    """
    try:
        with path.open(encoding="utf-8") as file:
            mode, text = os.fstat(file.fileno()).st_mode, file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyBroken(f"{path} cannot be read ({error}): restore it") from error
    if mode & _WRITABLE_BY_OTHERS:
        raise PolicyBroken(f"{path} can be written by others than its owner: check what it says, then chmod go-w it")
    return _parsed(str(path), text)


@lru_cache(maxsize=64)  # every stage of every round asks; the file is read each time, the same text parsed once
def _parsed(name: str, text: str) -> Policy:
    try:
        body, node = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PolicyBroken(f"{name} cannot be read as YAML ({' '.join(str(error).split())}): correct it") from error
    if not isinstance(body, dict) or not isinstance(node, yaml.MappingNode):
        raise PolicyBroken(f"{name} must hold keys and values, got {type(body).__name__}: write `key: value`")
    for key, times in Counter(str(key.value) for key, _ in node.value).items():
        if times > 1:
            raise PolicyBroken(f"{name}: {key}: is there {times} times: keep the one that is meant")
    try:
        return Policy.model_validate(body)
    except ValidationError as error:
        raise PolicyBroken(f"{name}: {'; '.join(_fault(fault) for fault in error.errors())}") from error


def _fault(fault: ErrorDetails) -> str:
    """A key, what is wrong with it, and what to do."""
    where = [str(part) for part in fault["loc"]]
    key, field = ".".join(where) or "keys", Policy.model_fields.get(where[0]) if where else None
    if fault["type"] == "missing":
        return f"{key}: is missing: add it ({'' if field is None else field.description})"
    if fault["type"] == "extra_forbidden":
        close = get_close_matches(key, Policy.model_fields, n=1)
        return f"{key}: is no key of a policy: {f'did you mean {close[0]}?' if close else 'take it out'}"
    means = "" if field is None else f" ({field.description})"
    return f"{key}: {fault['msg']}: correct it{means}"


def write_policy(path: Path, policy: Policy, remarks: Mapping[str, str] | None = None) -> None:
    """Write a new policy, every key with what it means, and with a remark where there is one.

    Raises:
        FileExistsError: there is one already; a policy is the institution's own and never overwritten.
    """
    lines = ["# This institution's own floor. No run, and no server, can go below it."]
    for name, field in Policy.model_fields.items():
        value = policy.model_dump(mode="json")[name]
        remark = [f"# {remarks[name]}"] if remarks is not None and name in remarks else []
        lines += [f"# {field.description}", *remark, f"{name}: {_as_yaml(value)}"]
    _write_new(path, "\n".join(lines) + "\n")


def _as_yaml(value: object) -> str:
    """One value on one line. JSON would not do: YAML takes its 1e-05 for a word."""
    return yaml.safe_dump(value, default_flow_style=True, width=math.inf).removesuffix("...\n").strip()


def _write_new(path: Path, text: str) -> None:
    """Write a new file whole or not at all."""
    draft = path.with_name(f".{path.name}.{token_hex(8)}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.chmod(_MODE)  # whatever the umask is: a file that others may write would be refused
        os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
