"""Stages of a run: which rounds train which blocks, on which modalities, with which parts of the objective.

A stage follows from the configuration that everybody agreed to and from a round's number, never from a message. All
rounds are charged alike, under the one plan of the run: that a stage trains or reads less than the run changes nothing
in what is promised, and what is charged.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Annotated

from pydantic import Field

from common.augmentation import Augmentation
from common.data.schema import PlainName
from common.objectives import Part, named_modalities
from common.section import Section


class Stage(Section):
    """Some rounds of a run, one after the other."""

    name: PlainName = Field(description="What it is called.")
    rounds: int = Field(ge=1, le=100_000, description="How many rounds it takes.")
    blocks: tuple[str, ...] = Field(
        (), description="Blocks (names or families) that are trained; the others stand still, and are not sent."
    )
    modalities: tuple[str, ...] = Field((), description="Modalities that are read; records without any take no part.")
    weights: dict[str, Annotated[float, Field(ge=0, le=1000)]] = Field(
        {}, description="By part of the objective (task, anchor, caption/note), its weight; those not named are off."
    )
    augment: Augmentation | None = Field(None, description="Instead of objective.augment.")

    def weighed(self, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        """Give the objective's parts this stage's weights; without any they keep their own."""
        if not self.weights:
            return parts
        weights = (self.weights.get(part_name(part), self.weights.get(part.kind, 0.0)) for part in parts)
        return tuple(part.model_copy(update={"weight": weight}) for part, weight in zip(parts, weights, strict=True))


WHOLE = Stage(name="whole", rounds=1)  # type: ignore[call-arg]  # the fields have defaults


def stage_in(stages: tuple[Stage, ...], round: int) -> Stage:
    """The stage of a round, counted from 1; WHOLE where a run has no stages.

    Raises:
        ValueError: the stages end before that round.
    """
    if not stages:
        return WHOLE
    for stage, last in zip(stages, accumulate(stage.rounds for stage in stages), strict=True):
        if round <= last:
            return stage
    raise ValueError(f"the stages end before round {round}")


def first_rounds(stages: tuple[Stage, ...]) -> tuple[int, ...]:
    """The first round of every stage; 0, which is no round in particular, where a run has none."""
    lengths = [stage.rounds for stage in stages]
    return tuple(last - length + 1 for length, last in zip(lengths, accumulate(lengths), strict=True)) or (0,)


def reads(stage: Stage, modality: str) -> bool:
    """Whether a stage reads a modality."""
    return not stage.modalities or modality in stage.modalities


def trains(stage: Stage, block: str) -> bool:
    """Whether a stage trains a block."""
    from common.blocks import is_named  # noqa: PLC0415  (numpy: not before a configuration is checked)

    return not stage.blocks or is_named(block, stage.blocks)


def part_name(part: Part) -> str:
    """What a stage calls a part: `task`, or its kind and the modality that it asks or names first."""
    return "/".join((part.kind, *named_modalities(part)[:1]))


def check_stages(stages: tuple[Stage, ...], rounds: int, parts: tuple[Part, ...]) -> None:
    """Refuse stages that contradict the run or its objective.

    Raises:
        ValueError: the sentence names the stage.
    """
    if stages and sum(stage.rounds for stage in stages) != rounds:
        total = sum(stage.rounds for stage in stages)
        raise ValueError(f"rounds is {rounds}, and the stages have {total} together: leave it out (rounds=null)")
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names):
        raise ValueError(f"stages must have a name each, got {', '.join(names)}")
    for stage, first in zip(stages, first_rounds(stages), strict=False):
        for entry in stage.weights:
            if not any(entry in (part.kind, part_name(part)) for part in parts):
                known = ", ".join(map(part_name, parts))
                raise ValueError(f"stage {stage.name}: weights has {entry!r}; the objective's parts are {known}")
        weighed = stage.weighed(parts)
        if not any(part.weight_in(first + stage.rounds - 1) for part in weighed):
            raise ValueError(
                f"stage {stage.name}: every weight is 0 by its end: it would be paid for, and learn nothing"
            )
        for name in (name for part in weighed if part.weight for name in named_modalities(part)):
            if stage.modalities and name not in stage.modalities:
                raise ValueError(f"stage {stage.name}: a part with a weight needs {name}, which it does not read")


def with_rounds(body: object) -> object:
    """Fill in the rounds of a run where its stages say them, and nothing else does."""
    if isinstance(body, dict) and body.get("stages") and body.get("rounds") is None:
        lengths = [stage.get("rounds") for stage in body["stages"] if isinstance(stage, dict)]
        return {**body, "rounds": sum(length for length in lengths if isinstance(length, int))}
    return body
