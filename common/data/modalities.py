"""What a modality is, kind by kind: where its cells are, and the public shape that every record is brought to.

What is listed here is public and the same at all sites, except `missing`. A record's shape never depends on the record.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Column = Annotated[str, Field(min_length=1)]
_FEWEST_LEVELS = 2
_LONGEST = 1 << 24  # steps of one record


class Described(BaseModel):
    """Read from a file: frozen, strict about names."""

    # A class called 0 or 1 may stand in YAML without quotes; yes and no may not (YAML reads them as booleans).
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)


class TabularSpec(Described):
    """A group of columns, one step in time.

    Attributes:
        columns: numeric columns.
        categorical: column -> its public levels; becomes one feature per level, 1 or -1. Columns are kept in
            alphabetical order, however a folder or a server lists them, so that all sites' features are aligned.
        missing: cells that mean "not measured", in this folder.
        bounds: public range of a numeric column; values beyond it are cut to it.
        indicators: add a feature per numeric column that says whether it was measured.
        drop_first: leave out the first level's feature.
    """

    kind: Literal["tabular"]
    columns: tuple[Column, ...] = ()
    categorical: dict[Column, tuple[str, ...]] = Field(default_factory=dict)
    missing: tuple[str, ...] = ("",)
    bounds: dict[Column, tuple[float, float]] = Field(default_factory=dict)
    indicators: bool = True
    drop_first: bool = False

    @field_validator("categorical", mode="before")
    @classmethod
    def _no_levels_from_the_data(cls, value: object) -> object:
        if value == [] or value is None:
            return {}
        if isinstance(value, list):
            raise ValueError(f"categorical columns need their public levels, as {{column: [level, ...]}}; got {value}")
        return value

    @field_validator("categorical", "bounds")
    @classmethod
    def _in_one_order(cls, value: dict[str, object]) -> dict[str, object]:
        return dict(sorted(value.items()))

    @model_validator(mode="after")
    def _consistent(self) -> TabularSpec:
        if not self.columns and not self.categorical:
            raise ValueError("a tabular modality needs at least one column")
        for column in repeated((*self.columns, *self.categorical)):
            raise ValueError(f"column {column!r} is listed twice")
        for column, levels in self.categorical.items():
            if len(levels) < _FEWEST_LEVELS or set(repeated(levels)):
                raise ValueError(f"the levels of {column!r} must be two or more, each once; got {list(levels)}")
        for column, (low, high) in self.bounds.items():
            if column not in self.columns:
                raise ValueError(f"bounds name {column!r}, which is no numeric column of this modality")
            if low >= high:
                raise ValueError(f"bounds of {column!r} must be [low, high] with low < high, got [{low}, {high}]")
        return self

    @property
    def named_columns(self) -> tuple[str, ...]:
        """The manifest's columns that this modality reads."""
        return (*self.columns, *self.categorical)

    @property
    def num_steps(self) -> int:
        """Steps in time of one record."""
        return 1

    @property
    def num_one_hot(self) -> int:
        """Number of features that the categorical columns become."""
        return sum(len(levels) - self.drop_first for levels in self.categorical.values())

    @property
    def num_features(self) -> int:
        """Features of one time step: numeric values, their indicators, levels.

        Levels need no indicator: zeros say that the column was not measured.
        """
        return len(self.columns) * (1 + self.indicators) + self.num_one_hot


class _FileSpec(Described):
    """What every modality has whose records are files that the manifest names, or texts that stand in it."""

    column: Column
    missing: tuple[str, ...] = ("",)

    @property
    def named_columns(self) -> tuple[str, ...]:
        """The manifest's columns that this modality reads."""
        start = getattr(self, "start", None)
        return (self.column, *([start] if isinstance(start, str) else []))


class ImageSpec(_FileSpec):
    """An image file (PNG, JPEG, DICOM, NIfTI), resized to one size.

    Attributes:
        size: height and width in pixels.
        channels: 1 (grey) or 3 (red, green, blue).
        window: public lowest and highest intensity of DICOM and NIfTI images, after their own rescaling; what lies
            beyond is cut. Without it, a DICOM file's own window, or its lowest and highest value.
        slice: which plane of a volume, as a part of its depth: 0.5 is the middle.
    """

    kind: Literal["image"]
    size: tuple[Annotated[int, Field(ge=8, le=4096)], Annotated[int, Field(ge=8, le=4096)]]
    channels: Literal[1, 3] = 1
    window: tuple[float, float] | None = None
    slice: float = Field(default=0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _consistent(self) -> ImageSpec:
        if self.window is not None and self.window[0] >= self.window[1]:
            raise ValueError(f"window must be [low, high] with low < high, got {list(self.window)}")
        return self

    @property
    def num_steps(self) -> int:
        """Steps in time of one record."""
        return 1


class TextSpec(_FileSpec):
    """A text that stands in its cell; a cell that names a `.txt` file inside the folder is read from there.

    Attributes:
        max_tokens: tokens of one record; what is longer is cut.
    """

    kind: Literal["text"]
    max_tokens: int = Field(default=128, ge=4, le=8192)

    @property
    def num_steps(self) -> int:
        """Steps of one record: tokens."""
        return self.max_tokens


class AudioSpec(_FileSpec):
    """A sound file (WAV, FLAC, OGG), mixed to one channel, resampled, cut to a length.

    Attributes:
        sample_rate: in hertz, to which files are resampled.
        seconds: length of one record; shorter ones are masked behind their end.
        start: column of the second at which the recording begins, on the record's own clock.
    """

    kind: Literal["audio"]
    sample_rate: int = Field(ge=100, le=192_000)
    seconds: float = Field(gt=0, le=3600)
    start: Column | None = None

    @property
    def num_steps(self) -> int:
        """Steps in time of one record: samples."""
        return max(1, round(self.sample_rate * self.seconds))


class SignalSpec(_FileSpec):
    """Samples in time of one or more channels (CSV, NPY, WFDB, EDF), resampled, cut to a length.

    Attributes:
        channels: names, as they stand in the file's header; an NPY array's columns in this order.
        sample_rate: in hertz, to which records are resampled.
        file_rate: in hertz, of files that do not say it themselves (NPY, CSV); default: sample_rate.
        seconds: length of one record; shorter ones are masked behind their end.
        bounds: public range of each channel, to which values are cut and by which they are scaled to [-1, 1].
        band: lowest and highest frequency in hertz that a filter lets through; 0 as the lowest lets all slow ones.
        start: column of the second at which the recording begins, on the record's own clock.
    """

    kind: Literal["signal"]
    sample_rate: float = Field(gt=0, le=1e6)
    channels: tuple[Column, ...] = Field(min_length=1)
    seconds: float = Field(default=10.0, gt=0, le=86_400)
    file_rate: float | None = Field(default=None, gt=0, le=1e6)
    bounds: dict[Column, tuple[float, float]] = Field(default_factory=dict)
    band: tuple[float, float] | None = None
    start: Column | None = None

    @field_validator("bounds")
    @classmethod
    def _in_one_order(cls, value: dict[str, object]) -> dict[str, object]:
        return dict(sorted(value.items()))

    @model_validator(mode="after")
    def _consistent(self) -> SignalSpec:
        for channel in repeated(self.channels):
            raise ValueError(f"channel {channel!r} is listed twice")
        for channel, (low, high) in self.bounds.items():
            if channel not in self.channels:
                raise ValueError(f"bounds name {channel!r}, which is no channel of this modality")
            if low >= high:
                raise ValueError(f"bounds of {channel!r} must be [low, high] with low < high, got [{low}, {high}]")
        if self.band is not None and not 0 <= self.band[0] < self.band[1] <= self.sample_rate / 2:
            raise ValueError(f"band must be [low, high] within 0 and half of sample_rate, got {list(self.band)}")
        if self.num_steps > _LONGEST:
            raise ValueError(f"a record of {self.num_steps} samples is longer than {_LONGEST}")
        return self

    @property
    def num_steps(self) -> int:
        """Steps in time of one record: samples."""
        return max(1, round(self.sample_rate * self.seconds))


ModalitySpec = Annotated[TabularSpec | ImageSpec | TextSpec | AudioSpec | SignalSpec, Field(discriminator="kind")]


def repeated(names: Sequence[str]) -> Iterator[str]:
    """Give every name that was there before."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield name
        seen.add(name)
