"""What is public about the data: a site folder's description, and the schema that a federation's folders share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, Field, model_validator

from common.data.modalities import Column, Described, ModalitySpec, TabularSpec, repeated

# A name becomes a folder, a part of a block's name and a key on the wire: letters, digits and a little more.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=64)]
PlainName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*$", max_length=64)]
Entry = TypeVar("Entry", bound=BaseModel)
_FEWEST_CLASSES, _FEWEST_BOUNDARIES = 2, 3


class TaskSpec(Described):
    """What is to be predicted.

    Attributes:
        kind: binary, multiclass: which of the classes; multilabel: of each label, whether it is there; regression: a
            number.
        column: where the answer stands; a multilabel task has `columns` instead.
        columns: multilabel: one column a label, which is named after it. One cell with all labels in it could not say
            "none of them" and "nobody looked" apart.
        classes: names of the classes; multilabel: what a label's cell says where it is not there, and where it is.
        bounds: regression: public range of the number; what lies beyond it is cut to it.
    """

    kind: Literal["binary", "multiclass", "multilabel", "regression"]
    column: Column | None = None
    columns: tuple[Column, ...] = ()
    classes: tuple[str, ...] = ("0", "1")
    bounds: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> TaskSpec:
        if self.kind == "multiclass" and "classes" not in self.model_fields_set:
            raise ValueError("a multiclass task needs `classes`, the names of all of its classes")
        if set(repeated(self.classes)) or len(self.classes) < _FEWEST_CLASSES:
            raise ValueError(f"classes must be two or more, each once; got {list(self.classes)}")
        if self.kind in ("binary", "multilabel") and len(self.classes) != _FEWEST_CLASSES:
            raise ValueError(f"a {self.kind} task has two classes, got {list(self.classes)}")
        if self.kind == "multilabel":
            self._check_labels()
        elif self.column is None or self.columns:
            raise ValueError(f"a {self.kind} task needs `column`, the one column in which its answer stands")
        if self.kind == "regression" and (self.bounds is None or self.bounds[0] >= self.bounds[1]):
            raise ValueError(f"a regression task needs public bounds [low, high] with low < high, got {self.bounds}")
        if self.kind != "regression" and self.bounds is not None:
            raise ValueError(f"a {self.kind} task has no bounds")
        return self

    def _check_labels(self) -> None:
        if self.column is not None or not self.columns or set(repeated(self.columns)):
            raise ValueError("a multilabel task needs `columns`, one column a label, each once, and no `column`")

    @property
    def named_columns(self) -> tuple[str, ...]:
        """The manifest's columns that hold the answers."""
        return self.columns if self.column is None else (self.column,)

    @property
    def num_logits(self) -> int:
        """Width of the model's answer: one per class (multiclass) or label (multilabel), else 1."""
        return {"multiclass": len(self.classes), "multilabel": len(self.columns)}.get(self.kind, 1)

    @property
    def limits(self) -> tuple[float, float]:
        """What answers lie within: the public range of a number, and 0 and 1 for a chance."""
        return self.bounds or (0.0, 1.0)


class AttributeSpec(Described):
    """A group that the audit looks at; public levels, or bands of a number whose outer ends are open."""

    column: Column
    bands: tuple[float, ...] | None = None
    levels: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _name_the_bands(cls, value: object) -> object:
        if isinstance(value, Mapping) and value.get("bands") is not None and not value.get("levels"):
            return {**value, "levels": _band_names(value["bands"])}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> AttributeSpec:
        if self.bands is not None and self.levels != _band_names(self.bands):
            raise ValueError(
                f"the levels of bands {list(self.bands)} are {list(_band_names(self.bands))}: leave them out"
            )
        if len(self.levels) < _FEWEST_CLASSES or set(repeated(self.levels)):
            raise ValueError(f"needs public levels, two or more, each once, or bands; got {list(self.levels)}")
        return self


class Schema(Described):
    """What the sites of a federation agree on: the union of their folders' descriptions."""

    modalities: dict[PlainName, ModalitySpec]
    tasks: dict[PlainName, TaskSpec]
    attributes: dict[PlainName, AttributeSpec]

    @property
    def tables(self) -> dict[str, TabularSpec]:
        """The tabular modalities."""
        return {name: spec for name, spec in self.modalities.items() if isinstance(spec, TabularSpec)}


class FolderSpec(Schema):
    """`dataset.yaml` of one site folder."""

    name: Name
    subject: Column
    split: Column | None = None
    modalities: dict[PlainName, ModalitySpec] = Field(min_length=1)
    tasks: dict[PlainName, TaskSpec] = Field(min_length=1)
    attributes: dict[PlainName, AttributeSpec] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _expand_attributes(cls, value: object) -> object:
        """Read `sex: sex` as the column, with the levels that a modality gives for it."""
        if not isinstance(value, Mapping) or not isinstance(value.get("attributes"), Mapping):
            return value
        attributes = {
            name: {"column": short, "levels": _levels_of(short, value)} if isinstance(short, str) else short
            for name, short in value["attributes"].items()
        }
        return {**value, "attributes": attributes}

    @model_validator(mode="after")
    def _no_answers_among_the_inputs(self) -> FolderSpec:
        answers = {
            column: f"the label of task {name}" for name, task in self.tasks.items() for column in task.named_columns
        }
        answers |= {self.subject: "the subject"} | ({self.split: "the split"} if self.split else {})
        for name, modality in self.modalities.items():
            for column in modality.named_columns:
                if column in answers:
                    raise ValueError(f"modality {name} reads column {column!r}, which is {answers[column]}")
        return self


def merge_schemas(specs: Sequence[FolderSpec]) -> Schema:
    """Join the sites' descriptions; how a folder writes "missing" is its own affair.

    Guarantees:
        order-free: the same sites in any order give the same schema.

    Raises:
        ValueError: two sites have one name, or describe a modality, task or attribute differently.
    """
    for name in repeated([spec.name for spec in specs]):
        raise ValueError(f"two site folders are called {name!r}: names must be unique in the federation")
    ordered = sorted(specs, key=lambda spec: spec.name)
    described = [{name: _shared(modality) for name, modality in spec.modalities.items()} for spec in ordered]
    names = [spec.name for spec in ordered]
    return Schema(
        modalities=_union("modality", names, described),
        tasks=_union("task", names, [spec.tasks for spec in ordered]),
        attributes=_union("attribute", names, [spec.attributes for spec in ordered]),
    )


def _shared(modality: ModalitySpec) -> ModalitySpec:
    return modality.model_copy(update={"missing": ("",)})


def _union(what: str, sites: Sequence[str], tables: Sequence[Mapping[str, Entry]]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    first: dict[str, str] = {}
    for site, table in zip(sites, tables, strict=True):
        for name, entry in table.items():
            if found.setdefault(name, entry) != entry:
                differing = [key for key, value in entry if value != getattr(found[name], key)]
                raise ValueError(f"{what} {name!r}: sites {first[name]} and {site} disagree on {', '.join(differing)}")
            first.setdefault(name, site)
    return dict(sorted(found.items()))


def _levels_of(column: str, folder: Mapping[object, object]) -> object:
    modalities = folder.get("modalities")
    for modality in modalities.values() if isinstance(modalities, Mapping) else ():
        categorical = modality.get("categorical") if isinstance(modality, Mapping) else None
        if isinstance(categorical, Mapping) and column in categorical:
            return categorical[column]
    return ()  # which AttributeSpec refuses, after whatever else is wrong in the file was named


def _band_names(bands: Sequence[float]) -> tuple[str, ...]:
    if len(bands) < _FEWEST_BOUNDARIES or any(low >= high for low, high in pairwise(bands)):
        raise ValueError(f"bands must be three or more ascending numbers, got {list(bands)}")
    inner = [f"{boundary:g}" for boundary in bands[1:-1]]
    return (f"<{inner[0]}", *(f"{low}-{high}" for low, high in pairwise(inner)), f">={inner[-1]}")
