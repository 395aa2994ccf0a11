"""What the sites minimise: a weighted sum of parts, each with a schedule, and each honest about whom it looks at.

A part is per example where a row's loss depends on that row alone, besides the model and public facts. Only then does a
subject's clipped gradient bound what the subject can do, so only such parts may be trained under differential privacy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from common.section import Section

NOT_PER_EXAMPLE = (
    "compares the records of a batch with each other, so that every record's gradient depends on all the others and"
    " clipping bounds nobody: one record was measured to move the clipped sum by 6.5 times the clip norm (infonce, 64"
    " records) and by 16.9 times (siglip); use anchor, whose negatives are fixed and public, or privacy=none"
)


class _Part(Section):
    """One summand: its weight, and how that changes with the rounds."""

    per_example: ClassVar[bool] = True

    weight: float = Field(1.0, gt=0, le=1000, description="How much the part counts.")
    schedule: Literal["constant", "warm-up", "decay"] = Field(
        "constant", description="warm-up: the weight grows to its full size over `over` rounds; decay: it goes to zero."
    )
    over: int = Field(1, ge=1, description="Rounds of the warm-up or decay.")

    def weight_in(self, round: int) -> float:
        """The weight in a round, counted from 1; 0 stands for no round in particular, where it is in full."""
        return self.weight * (1.0 if round < 1 else _SCHEDULES[self.schedule](round, self.over))


class TaskLoss(_Part):
    """The task's own loss, with the auxiliary heads': cross-entropy or squared error."""

    kind: Literal["task"]


class Anchor(_Part):
    """A modality learns to name its own record's partner among fixed strangers.

    The partner is what the frozen encoder of another modality says of the same record; the strangers are what it says
    of `bank` made-up records. Nothing on that side is trained: any loss of two trained sides and a fixed bank is
    smallest where everybody has the same vector.
    """

    kind: Literal["anchor"]
    query: str = Field(description="The modality that learns.")
    target: str = Field(description="The modality of the partner; model.frozen must name its encoder.")
    bank: int = Field(64, ge=1, le=4096, description="Made-up records.")
    temperature: float = Field(0.1, ge=0.01, le=10)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The two modalities."""
        return ((self.query, self.target),)

    @model_validator(mode="after")
    def _two(self) -> Anchor:
        if self.query == self.target:
            raise ValueError(f"query and target must be two modalities, got {self.query} twice")
        return self


class MaskedTokens(_Part):
    """Pieces of one modality are hidden, and asked for: a text's bytes by cross-entropy, others by squared error.

    What is hidden is drawn a record and step anew, under privacy from the noise's own secret stream.
    """

    kind: Literal["masked_tokens"]
    modality: str = Field(description="The modality of which pieces are hidden.")
    chance: float = Field(0.3, gt=0, lt=1, description="Of one piece to be hidden.")


class Caption(_Part):
    """The text of one modality is told, byte by byte, from what the others say; the model never reads that modality."""

    kind: Literal["caption"]
    target: str = Field(description="The text modality that is told.")
    layers: int = Field(1, ge=1, le=48, description="Layers of the decoder.")


class InBatch(_Part):
    """Every record names its partner in another modality among the batch's others; all pairs of `modalities`."""

    per_example: ClassVar[bool] = False

    kind: Literal["infonce", "siglip"]
    modalities: tuple[str, ...] = Field(min_length=2, description="The modalities that are brought together.")
    temperature: float = Field(0.1, ge=0.01, le=10)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Every two of the modalities, in the order in which a model pairs them."""
        return tuple(combinations(self.modalities, 2))

    @model_validator(mode="after")
    def _each_once(self) -> InBatch:
        if len(set(self.modalities)) < len(self.modalities):
            raise ValueError(f"modalities must be named once each, got {', '.join(self.modalities)}")
        return self


Part = Annotated[TaskLoss | Anchor | MaskedTokens | Caption | InBatch, Field(discriminator="kind")]
TASK_ONLY: tuple[Part, ...] = (TaskLoss(kind="task"),)  # type: ignore[call-arg]  # the fields have defaults


def check_parts(parts: tuple[Part, ...]) -> None:
    """Refuse parts that do not go together.

    Raises:
        ValueError: the sentence says which.
    """
    if [part.kind for part in parts].count("task") != 1:
        raise ValueError("objective.parts needs one part of kind task: it is what evaluation and audit measure")
    for kind, names in (("caption", told(parts)), ("masked_tokens", hidden(parts))):
        if len(set(names)) < len(names):
            raise ValueError(f"objective.parts: one {kind} a modality, got {', '.join(names)}")
    for part in parts:
        for name in set(named_modalities(part)) & set(told(parts)):
            if part.kind != "caption":
                raise ValueError(f"objective.parts: {name} is told by a caption, so {part.kind} may not read it")


def check_setting(parts: tuple[Part, ...], privacy: str, model: str, frozen: Sequence[str], rounds: int) -> None:
    """Refuse parts that a run cannot have: what clipping cannot bound, and what could only collapse or look.

    Args:
        parts: of the objective.
        privacy: its kind.
        model: its kind.
        frozen: blocks that are not trained.
        rounds: of the run.

    Raises:
        ValueError: the sentence says which, and why.
    """
    from common.blocks import is_named  # noqa: PLC0415  (numpy: not before a configuration is checked)

    if not any(part.weight_in(rounds) for part in parts):  # a decay never comes back
        raise ValueError(
            f"objective.parts: every weight is 0 by round {rounds}: it would be paid for, and learn nothing"
        )
    for part in parts:
        if not part.per_example and privacy != "none":
            raise ValueError(f"objective.parts: {part.kind} {NOT_PER_EXAMPLE}")
        if part.kind != "task" and model != "transformer":
            raise ValueError(f"objective.parts: {part.kind} needs model=transformer, got {model}")
        if isinstance(part, Anchor) and not is_named(f"encoder/{part.target}", frozen):
            raise ValueError(
                f"objective.parts: anchor needs model.frozen to name encoder/{part.target}: with both sides trained, a"
                " fixed bank is best served by one vector for everybody"
            )
        if isinstance(part, MaskedTokens) and is_named(f"encoder/{part.modality}", frozen):
            raise ValueError(
                f"objective.parts: masked_tokens hides pieces of {part.modality} from its encoder, and a frozen one has"
                " read them before"
            )


def named_modalities(part: Part) -> tuple[str, ...]:
    """The modalities that a part names."""
    if isinstance(part, Anchor):
        return (part.query, part.target)
    if isinstance(part, MaskedTokens):
        return (part.modality,)
    if isinstance(part, Caption):
        return (part.target,)
    return part.modalities if isinstance(part, InBatch) else ()


def read_modalities(parts: tuple[Part, ...], modalities: Iterable[str]) -> tuple[str, ...]:
    """The modalities that a model reads: all that it is not asked to tell.

    Raises:
        ValueError: none is left.
    """
    read = tuple(name for name in modalities if name not in told(parts))
    if not read:
        raise ValueError("objective.parts: captions tell every modality there is, and leave none to be read")
    return read


def told(parts: tuple[Part, ...]) -> tuple[str, ...]:
    """The modalities that are told, and so not read."""
    return tuple(part.target for part in parts if isinstance(part, Caption))


def hidden(parts: tuple[Part, ...]) -> tuple[str, ...]:
    """The modalities of which pieces are hidden."""
    return tuple(part.modality for part in parts if isinstance(part, MaskedTokens))


def in_round(parts: tuple[Part, ...], round: int) -> tuple[Part, ...]:
    """The parts with the weights that they have in a round."""
    return tuple(part.model_copy(update={"weight": part.weight_in(round), "schedule": "constant"}) for part in parts)


_SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "constant": lambda _round, _over: 1.0,
    "warm-up": lambda round, over: min(1.0, round / over),
    "decay": lambda round, over: max(0.0, 1.0 - round / over),
}
