"""What is wrong with a description, in words that whoever wrote dataset.yaml can act on."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from pydantic_core import ErrorDetails

from common.data.modalities import AudioSpec, Described, ImageSpec, SignalSpec, TabularSpec, TextSpec
from common.data.readings import KINDS
from common.data.schema import AttributeSpec, FolderSpec, TaskSpec

_OPTION = 2  # where an option of a modality stands in a key
_LONGEST_SHOWN = 80
_DESCRIBED: tuple[type[Described], ...] = (
    *(TabularSpec, ImageSpec, TextSpec, AudioSpec, SignalSpec),
    *(AttributeSpec, TaskSpec, FolderSpec),
)
_KEYS = sorted({key for one in _DESCRIBED for key in one.model_fields})


def sentence(fault: ErrorDetails) -> str:
    """Name the key as it stands in the file, what is wrong with it, and where that is known what to write."""
    say = _SENTENCES.get(fault["type"])
    said = say(fault) if say else f"{fault['msg'].removeprefix('Value error, ')}{_got(fault)}"
    return f"{_key_of(fault)}: {said}"


def _key_of(fault: ErrorDetails) -> str:
    """Leave out what pydantic puts between a modality's name and its options: its kind."""
    parts = [str(part) for part in fault["loc"] if part != "[key]"]
    if parts[:1] == ["modalities"] and len(parts) > _OPTION and parts[2] in KINDS:
        del parts[2]
    if fault["type"].startswith("union_tag"):
        parts.append("kind")
    return ".".join(parts) or "the file"


def _got(fault: ErrorDetails) -> str:
    if fault["type"] == "value_error":  # our own sentence, which has said it
        return ""
    shown = repr(fault["input"])
    return f", got {shown if len(shown) <= _LONGEST_SHOWN else f'{shown[:_LONGEST_SHOWN]}...'}"


def _unknown(fault: ErrorDetails) -> str:
    close = get_close_matches(str(fault["loc"][-1]), _KEYS, n=1, cutoff=0.75)
    return f"unknown key{f'; did you mean {close[0]}?' if close else ''}"


def _no_text(fault: ErrorDetails) -> str:
    quotes = "; YAML reads yes, no, on and off without quotes as true and false"
    return f"a text was expected{_got(fault)}{quotes if isinstance(fault['input'], bool) else ''}"


def _no_list(fault: ErrorDetails) -> str:
    example = f"; write [{fault['input']}]" if isinstance(fault["input"], str) else ""
    return f"a list was expected{_got(fault)}{example}"


def _no_name(fault: ErrorDetails) -> str:
    return f"a name has letters from a to z, digits, _ and -, and does not begin with -{_got(fault)}"


_KINDS = ", ".join(KINDS)
_SENTENCES: dict[str, Callable[[ErrorDetails], str]] = {
    "missing": lambda _fault: "is missing",
    "extra_forbidden": _unknown,
    "union_tag_not_found": lambda _fault: f"is missing; one of {_KINDS}",
    "union_tag_invalid": lambda fault: f"{fault['input'].get('kind')!r} is none of {_KINDS}",
    "tuple_type": _no_list,
    "string_type": _no_text,
    "string_pattern_mismatch": _no_name,
    "model_type": lambda fault: f"keys and values were expected, as in `name: cleveland`{_got(fault)}",
    "dict_type": lambda fault: f"keys and values were expected{_got(fault)}",
}
