"""Pretrained networks of a few hundred weights, written as Hugging Face folders: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers.utils import logging

SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
IMAGE = {"image_size": 16, "patch_size": 8, **SIZE}
UNKNOWN, ENDS = {"unk_token": "[UNK]"}, ("[PAD]", "[CLS]", "[SEP]")
WORDS = (*ENDS, "[UNK]", *"abcdefghijklmnopqrstuvwxyz", "cough", "fever")
TEXTS = {"vocab_size": len(WORDS), "max_position_embeddings": 12, **SIZE}


def write_bert(folder: Path) -> None:
    _save(transformers.BertModel(transformers.BertConfig(**TEXTS)), folder)
    write_tokenizer(folder)


def write_clip(folder: Path) -> None:
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = transformers.CLIPConfig(text_config={**TEXTS, **ends}, vision_config=IMAGE, projection_dim=8)
    _save(transformers.CLIPModel(config), folder)
    write_tokenizer(folder)


def write_vit(folder: Path) -> None:
    _save(transformers.ViTModel(transformers.ViTConfig(**IMAGE)), folder)


def write_resnet(folder: Path) -> None:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    model = transformers.ResNetModel(config)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    _save(model, folder)


def write_wav2vec2(folder: Path) -> None:
    config = transformers.Wav2Vec2Config(
        conv_dim=(8, 8),
        conv_stride=(5, 4),
        conv_kernel=(10, 8),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        **SIZE,
    )
    _save(transformers.Wav2Vec2Model(config), folder)
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=16000).save_pretrained(folder)


def write_ast(folder: Path) -> None:
    bands = {"max_length": 32, "num_mel_bins": 16}
    config = transformers.ASTConfig(patch_size=8, frequency_stride=8, time_stride=8, **bands, **SIZE)
    _save(transformers.ASTModel(config), folder)
    transformers.ASTFeatureExtractor(sampling_rate=16000, **bands).save_pretrained(folder)


def write_tokenizer(folder: Path) -> None:
    vocabulary = {word: place for place, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, continuing_subword_prefix="", **UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **UNKNOWN, **dict(zip(("pad_token", "cls_token", "sep_token"), ENDS, strict=True))
    ).save_pretrained(folder)


WRITERS = {
    "bert": write_bert,
    "clip": write_clip,
    "vit": write_vit,
    "resnet": write_resnet,
    "wav2vec2": write_wav2vec2,
    "ast": write_ast,
}


def write_all(root: Path) -> None:
    """Write every folder under a root, the same in every process."""
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        for name, write in WRITERS.items():
            torch.manual_seed(len(name))
            write(root / name)
    if bars:
        logging.enable_progress_bar()


def _save(model: transformers.PreTrainedModel, folder: Path) -> None:
    with torch.no_grad():
        for parameter in model.parameters():  # first weights are small enough to hide what a token is
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
