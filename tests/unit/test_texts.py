from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.text import bleu_score, word_error_rate

from client.evaluate import count_table, true_texts, written_texts
from common.data.batch import Batch, hide
from common.data.readers.texts import text_of
from common.data.readings import BEGIN, END, FIRST_BYTE, PADDING
from common.fairness.table import conditions_of
from common.fairness.texts import figures_of_texts, mean_scores
from common.metrics.texts import SCORES, TEXT_REACH, TEXT_UNIT, score_text, score_texts, text_figures, text_sums
from common.models.told import Teller
from common.releases import table_layout, tables_of
from tests.captions import captioned, captions_config, sick_notes, teach

WORDS = st.lists(st.sampled_from("abc"), max_size=9).map(" ".join)


def reference_alignment(said: list[str], meant: list[str]) -> int:
    """As many pairs of equal words as there can be."""
    return (Counter(said) & Counter(meant)).total()


@given(WORDS, WORDS.filter(bool))
def test_scores_lie_within_0_and_1_and_count_what_the_library_counts(written: str, true: str) -> None:
    bleu, meteor, wer = score_text(written, true)
    assert all(0 <= score <= 1 for score in (bleu, meteor, wer))
    assert wer == pytest.approx(min(1.0, float(word_error_rate([written], [true]))))
    if float(bleu_score([written], [[true]])) > 0:  # where no count is zero the library smooths as we do
        assert bleu == pytest.approx(float(bleu_score([written], [[true]], smooth=True)), rel=1e-5)
    pairs = reference_alignment(written.split(), true.split())
    assert (meteor > 0) == (bleu > 0) == (pairs > 0)
    if pairs:
        precision, recall = pairs / len(written.split()), pairs / len(true.split())
        mean = 10 * precision * recall / (recall + 9 * precision)
        assert mean / 2 <= meteor <= mean * (1 - 0.5 / pairs**3) + 1e-12, "at least one run, at most one a word"


@pytest.mark.parametrize(
    ("written", "true", "meteor"),
    [
        ("the cat sat on the mat", "the cat sat on the mat", 1 - 0.5 / 6**3),
        ("on the mat sat the cat", "the cat sat on the mat", 1 - 0.5 * (3 / 6) ** 3),
        ("the cat was sat on the mat", "the cat sat on the mat", (60 / 61) * (1 - 0.5 * (2 / 6) ** 3)),
    ],
)
def test_exact_meteor_gives_the_worked_examples(written: str, true: str, meteor: float) -> None:
    assert score_text(written, true)[1] == pytest.approx(meteor, abs=1e-6)


def test_a_text_without_a_word_is_compared_with_nothing() -> None:
    with pytest.raises(ValueError, match="without a word"):
        score_text("something", " ")
    scores = score_texts(["a b", "a"], ["", "a"])
    assert np.isnan(scores[0]).all()
    assert mean_scores(scores, np.array([3, 5])).shape == (1, 3)
    assert score_text("", "a b") == (0.0, 0.0, 1.0)


def test_no_subject_adds_more_than_the_stated_reach() -> None:
    corners = np.array(list(itertools.product([0.0, 1.0, 0.5, -9.0, 9.0], repeat=len(SCORES))))
    norms = np.linalg.norm(text_sums(corners), axis=1)
    assert norms.max() <= TEXT_REACH
    assert norms.max() > 0.998 * TEXT_REACH
    assert np.linalg.norm(text_sums(np.random.default_rng(0).random((4000, len(SCORES)))), axis=1).max() <= TEXT_REACH


def test_the_figures_of_the_sums_are_the_subjects_means_and_nobody_gives_none() -> None:
    scores = np.random.default_rng(0).random((300, len(SCORES)))
    found = text_figures(text_sums(scores).sum(axis=0) / TEXT_UNIT, 0.0)
    for place, name in enumerate(SCORES):
        figure, half = found[name], 1.96 * scores[:, place].std() / math.sqrt(300)
        assert figure.value == pytest.approx(scores[:, place].mean(), abs=1 / TEXT_UNIT)
        assert figure.low is not None
        assert figure.high is not None
        assert figure.high - figure.low >= 2 * half, "no narrower than the scores vary"
    assert all(figure.value is None and figure.reason for figure in text_figures(np.zeros(4), 3.0).values())


def test_tokens_become_text_up_to_the_first_end() -> None:
    tokens = [BEGIN, *(FIRST_BYTE + byte for byte in "größe".encode()), END, FIRST_BYTE + 65, END, PADDING]
    assert text_of(np.array(tokens)) == "größe"
    assert text_of(np.array([BEGIN, FIRST_BYTE + 0xC3])) == "\N{REPLACEMENT CHARACTER}"
    assert text_of(np.array([BEGIN, PADDING])) == ""


def greedy(teller: Teller, vector: Tensor, length: int) -> list[int]:
    """One text at a time, until it ends."""
    text = [BEGIN]
    while len(text) < length and text[-1] != END:
        logits = teller.following(vector.unsqueeze(0), torch.tensor([text]))[0, -1]
        text.append(max((END, *range(FIRST_BYTE, len(logits))), key=lambda token: float(logits[token])))
    return text


def test_texts_are_written_together_as_they_are_one_by_one() -> None:
    model = captioned(seed=3, moved=1.0)
    teller = model.parts.tellers["<note>"]
    assert isinstance(teller, Teller)
    vectors = 10 * torch.randn(20, captions_config().model.width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        written = teller.write(vectors).numpy()
        expected = [greedy(teller, vector, written.shape[1]) for vector in vectors]
    assert [text_of(row) for row in written] == [text_of(np.array(row)) for row in expected]
    assert len({text_of(row) for row in written}) > 2, "texts that differ, not one for all"


def test_a_model_that_was_taught_writes_the_words_and_ends_them() -> None:
    model, batch = captioned(seed=0), sick_notes(40)
    before = score_texts(written_texts(model, batch)["note"], true_texts(batch, "note")).mean(axis=0)
    teach(model, batch)
    written, true = written_texts(model, batch)["note"], true_texts(batch, "note")
    assert set(true) == {"all well", "ill"}
    after = score_texts(written, true).mean(axis=0)
    assert after[0] > 0.9
    assert after[0] > before[0]
    assert after[2] < 0.1
    blind = score_texts(written_texts(model, hide(batch, ()))["note"], true).mean(axis=0)
    assert blind[2] > 0.3, "the control: who sees nothing cannot know which of the two"


def test_the_table_ends_with_the_texts_sums_and_the_rest_is_as_without() -> None:
    model, batch = captioned(seed=0), sick_notes(30)
    teach(model, batch)
    layout = table_layout(captions_config(), "evaluation")
    assert layout.told == ("note",)
    assert [one.name for one in layout.conditions] == [one.name for one in conditions_of(["labs", "ward"])]
    table = count_table(model, batch, layout)
    assert table.shape == (layout.size,) == (tables_of(captions_config())["evaluation"].length,)
    found = figures_of_texts(layout, table, 0.0)[0]
    truth = score_texts(written_texts(model, batch)["note"], true_texts(batch, "note"))
    expected = mean_scores(truth, batch.subjects.numpy()).mean(axis=0)
    for place, score in enumerate(SCORES):
        assert found[f"{score}/note"].value == pytest.approx(expected[place], abs=1 / TEXT_UNIT)


def test_a_site_without_held_out_subjects_or_without_texts_adds_nothing() -> None:
    layout, batch = table_layout(captions_config(), "evaluation"), sick_notes(6)
    silent = Batch(
        batch.values,
        batch.mask | {"note": torch.zeros_like(batch.mask["note"])},
        *(batch.seconds, batch.labels, batch.attributes, batch.subjects),
    )
    assert count_table(captioned(seed=0), sick_notes(0), layout).sum() == 0
    assert count_table(captioned(seed=0), silent, layout)[math.prod(layout.shape) :].sum() == 0
