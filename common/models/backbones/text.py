"""A text through a pretrained language model, which brings its own tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor, nn

from common.data.modalities import TextSpec
from common.data.readings import NUM_TOKENS
from common.models.backbones.load import load_model, load_tokenizer

_FIRST_BYTE = NUM_TOKENS - 256


class HuggingFaceText(nn.Module):
    """Bytes back to text, text to the model's own tokens, tokens through the model: a BERT or any of its kind."""

    def __init__(self, spec: TextSpec, folder: Path) -> None:
        """Load the model and its tokenizer."""
        super().__init__()
        model = load_model(folder)
        self.model = getattr(model, "text_model", model)  # of two towers, such as CLIP's, the one that reads
        self._tokenizer = load_tokenizer(folder)
        positions = getattr(self.model.config, "max_position_embeddings", spec.max_tokens)
        self._length = min(spec.max_tokens, positions, self._tokenizer.model_max_length)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode bytes [batch, byte]: [batch, token, feature] and which tokens are there."""
        found = self._tokenizer(
            [text_of(row[seen]) for row, seen in zip(values.cpu().numpy(), mask.cpu().numpy(), strict=True)],
            padding="max_length",
            truncation=True,
            max_length=self._length,
            return_tensors="pt",
        ).to(values.device)
        kept = {name: found[name] for name in ("input_ids", "attention_mask")}
        return self.model(**kept).last_hidden_state, kept["attention_mask"].bool()


def text_of(tokens: np.ndarray) -> str:
    """Read byte tokens as text; a character that was cut off, and what stands for no byte, is left out."""
    letters = tokens[tokens >= _FIRST_BYTE] - _FIRST_BYTE
    return letters.astype(np.uint8).tobytes().decode("utf-8", errors="ignore")
