"""What is asked of the library transformers: read a folder on this disk, run no code of it, say nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import FeatureExtractionMixin, PreTrainedModel, PreTrainedTokenizerBase

_NOT_USED = "pooler."  # hidden states are read, not what is made of the first one


def load_model(folder: Path) -> PreTrainedModel:
    """Read a model; its weights from safetensors alone, so that nothing in them is executed.

    Raises:
        ValueError: weights are missing, which would be drawn anew by everybody who reads the folder.
    """
    with _quiet():
        from transformers import AutoModel  # noqa: PLC0415  (seconds: only where there is such a model)

        model: PreTrainedModel
        model, report = AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(_NOT_USED))
    if missing:
        raise ValueError(f"the weights of {folder} lack {', '.join(missing[:3])}")
    with torch.no_grad():
        for name in report["missing_keys"]:  # the same everywhere, though nobody reads what comes of it
            model.get_parameter(name).zero_()
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Read a model's tokenizer."""
    with _quiet():
        from transformers import AutoTokenizer  # noqa: PLC0415

        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    return tokenizer


def load_extractor(folder: Path) -> FeatureExtractionMixin:
    """Read what turns samples into a model's input."""
    with _quiet():
        from transformers import AutoFeatureExtractor  # noqa: PLC0415

        extractor: FeatureExtractionMixin = AutoFeatureExtractor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    return extractor


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars and reports off a site's terminal; as before afterwards."""
    if find_spec("transformers") is None:
        raise ValueError("a Hugging Face model needs the package transformers: pip install fedmosaic[pretrained]")
    from transformers.utils import logging  # noqa: PLC0415

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
