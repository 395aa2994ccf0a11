"""One cell of a manifest that holds a record or names its file, and how its errors say where it stands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from common.data.error import DataError, wrong
from common.data.manifest import inside

MOST_PIXELS = 1 << 26  # of one plane: a small file may claim to be any size
LARGEST_VALUE = 1e30  # of a pixel or sample: float32 holds it, with room for what filters add
_LONGEST_SHOWN = 200


@dataclass(frozen=True)
class Cell:
    """A cell that is not empty.

    Attributes:
        manifest: the table's file, in the site folder.
        row: line of the manifest.
        text: what stands in the cell.
        identified: whether an image file may still name its patient (the site's policy).
    """

    manifest: Path
    row: int
    column: str
    text: str
    identified: bool = False

    def path(self) -> Path:
        """Give the file that the cell names.

        Raises:
            DataError: it leaves the folder, is no file, or is empty.
        """
        try:
            path = inside(self.manifest.parent, self.text)
        except DataError as error:
            raise wrong(self.manifest, str(error), row=self.row, column=self.column) from error
        if not path.stat().st_size:
            raise self.wrong("the file is empty: write it anew, or empty the cell")
        return path

    def wrong(self, problem: str) -> DataError:
        """Build the error, with the cell's place and the file that it names."""
        shown = self.text if len(self.text) <= _LONGEST_SHOWN else f"{self.text[:_LONGEST_SHOWN]}..."
        return wrong(self.manifest, f"{shown!r}: {problem}", row=self.row, column=self.column)

    def suffix(self, known: Iterable[str]) -> str:
        """Give the file's ending, one of those that are known.

        Raises:
            DataError: none of them.
        """
        lower = self.text.lower()
        for suffix in sorted(known, key=len, reverse=True):  # .nii.gz before .gz
            if lower.endswith(suffix):
                return suffix
        raise self.wrong(f"none of the files that are read here ({', '.join(known)}): convert it")
