"""What a check finds: one plain sentence, and the entry that it is about."""

from __future__ import annotations

import re
from dataclasses import dataclass

_HEX_DIGITS = re.compile(r"[0-9a-f]*")


@dataclass(frozen=True, order=True)
class Finding:
    """One problem or one note.

    Attributes:
        entry: the entry's number; -1 where it is about the whole ledger, or about something beside it.
    """

    entry: int
    text: str


WHOLE = -1
_MOST_RANGES = 12


def is_hex(value: object, num_bytes: int) -> bool:
    """Whether a value is text of exactly that many bytes in lower-case hex: one spelling, so that no change hides."""
    return isinstance(value, str) and len(value) == 2 * num_bytes and _HEX_DIGITS.fullmatch(value) is not None


def shown(value: object) -> str:
    """Write a value that a stranger chose so that it cannot move a terminal's cursor or pretend to be a sentence."""
    text = value if isinstance(value, str) else repr(value)
    if text and all(character.isprintable() for character in text):
        return text
    return ascii(text)


def shown_entries(numbers: list[int]) -> str:
    """Write entry numbers, ranges together: 2-5, 9."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    ranges = [f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts[:_MOST_RANGES]]
    left = sum(len(part) for part in parts[_MOST_RANGES:])
    return ", ".join(ranges) + (f" and {left} more" if left else "")
