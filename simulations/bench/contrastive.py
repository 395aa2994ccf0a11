"""Which objective teaches a model to find a picture's sound, with and without privacy.

The records are made up (data=synthetic): a picture and a sound that both follow from one hidden number of a subject,
and a note. A subject's records follow from the same number, so that no model can tell the partners of two records of
one subject apart: recall at 1 cannot reach 1.
"""

from __future__ import annotations

from simulations.bench.compare import Variant

FULL = ("data.synthetic.subjects=400", "privacy.declared_subjects=280", "rounds=150", "model.width=32")
QUICK = ("data.synthetic.subjects=30", "privacy.declared_subjects=21", "rounds=1", "model.width=8")
REFUSED = "infonce, epsilon 8"
_PAIR = "data.modalities=[scan,cough]"
# What each objective needs of a configuration; the task's own loss stays, small, since a run must have it.
_OBJECTIVES = {
    "anchor": (
        _PAIR,
        "objective.parts=[{kind:task,weight:0.1},{kind:anchor,query:scan,target:cough}]",
        "model.frozen=[encoder/cough]",
    ),
    "caption": (
        "objective.parts=[{kind:task,weight:0.1},{kind:caption,target:note}]",
        "objective.modality_dropout=0.5",  # only so does either alone learn to tell the note
    ),
    "infonce": (_PAIR, "objective.parts=[{kind:task,weight:0.1},{kind:infonce,modalities:[scan,cough]}]"),
}


def base_of(*, quick: bool) -> tuple[str, ...]:
    """What all runs have in common."""
    twins = ("data.synthetic.kinds=[image,audio,text]", "data.synthetic.noise=0", "audit.attributes=[]")
    optimizer = ("federation=fedadam", "objective.learning_rate=0.1", "federation.server_optimizer.lr=0.01")
    return ("experiment=synthetic", *twins, *optimizer, *(QUICK if quick else FULL))


def variants() -> tuple[Variant, ...]:
    """The rows; infonce under privacy is none of them, as the configuration refuses it (common/objectives.py)."""
    private = ("privacy=subject", "privacy.epsilon=8")
    found = []
    for name, needs in _OBJECTIVES.items():
        found.append(Variant(f"{name}, no privacy", (*needs, "privacy=none")))
        if name != "infonce":
            found.append(Variant(f"{name}, epsilon 8", (*needs, *private)))
    return tuple(found)
