"""How well a model writes the texts that captions tell, over all held-out records: measured by the simulator, exactly.

The protocol releases the same means, noised. BLEU and word error rate of a whole corpus, which publications quote, are
ratios of counts that one subject can move without bound: only the simulator has them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import nn

from client.evaluate import true_texts, written_texts
from common.data.batch import Batch
from common.fairness.texts import mean_scores
from common.metrics.texts import SCORES, score_texts


@dataclass(frozen=True)
class Texts:
    """By modality: each subject's mean scores [subject, score], and what was written for what, record by record."""

    scores: dict[str, np.ndarray]
    pairs: dict[str, tuple[tuple[str, str], ...]]

    @property
    def figures(self) -> dict[str, float]:
        """By score and modality (`bleu/note`), the mean over subjects; and those of all records as one corpus."""
        found: dict[str, float] = {}
        for name, scores in self.scores.items():
            if len(scores):
                found |= {
                    f"{score}/{name}": float(mean) for score, mean in zip(SCORES, scores.mean(axis=0), strict=True)
                }
                found |= {f"{score}/{name}": value for score, value in _corpus(self.pairs[name]).items()}
        return found

    def some(self, number: int) -> dict[str, tuple[tuple[str, str], ...]]:
        """The first few texts of each modality: as they stand in the record, and as they were written."""
        return {name: tuple((own, ours) for ours, own in pairs[:number]) for name, pairs in self.pairs.items()}


def texts_of(model: nn.Module, batch: Batch, shown: Batch) -> Texts:
    """Compare what a model writes for a site's records as they are shown to it with what stands in them."""
    scores, pairs = {}, {}
    for name, written in written_texts(model, shown).items():
        true = true_texts(batch, name)
        scores[name] = mean_scores(score_texts(written, true), batch.subjects.numpy())
        pairs[name] = tuple((ours, own) for ours, own in zip(written, true, strict=True) if own.split())
    return Texts(scores, pairs)


def together(each: Iterable[Texts]) -> Texts:
    """All sites' texts."""
    held = list(each)
    names = dict.fromkeys(name for texts in held for name in texts.scores)
    return Texts(
        {name: np.concatenate([one.scores[name] for one in held if name in one.scores]) for name in names},
        {name: tuple(pair for one in held for pair in one.pairs.get(name, ())) for name in names},
    )


def _corpus(pairs: tuple[tuple[str, str], ...]) -> dict[str, float]:
    from torchmetrics.functional.text import bleu_score, word_error_rate  # noqa: PLC0415  (seconds: where asked for)

    written, true = [ours for ours, _ in pairs], [own for _, own in pairs]
    bleu = float(bleu_score(written, [[own] for own in true]))
    return {"corpus_bleu": bleu, "corpus_wer": float(word_error_rate(written, true))}
