"""How many rows go through a model together: fewer where records or models are large, whatever the records are."""

from __future__ import annotations

from client.arithmetic import rows_at_once, rows_that_fit
from common.config import Config
from common.models.encoders.options import BytesOptions, CnnOptions, EncoderOptions, MelOptions
from tests.encoder_models import CASE, config_with, schema_with, spec_of
from tests.example_models import Recipe


def image(side: int) -> Config:
    return reading({"kind": "image", "column": "scan", "size": [side, side]}, CnnOptions(channels=8))


def sound(seconds: float) -> Config:
    spec = {"kind": "audio", "column": "voice", "sample_rate": 16000, "seconds": seconds}
    return reading(spec, MelOptions(channels=8))


def text(options: EncoderOptions) -> Config:
    return reading({"kind": "text", "column": "note", "max_tokens": 256}, options)


def reading(plain: dict[str, object], options: EncoderOptions) -> Config:
    spec, config = spec_of(plain), config_with("bytes", Recipe())
    model = config.model.model_copy(update={"encoders": {CASE: options}})
    return config.model_copy(update={"data_schema": schema_with(spec), "model": model})


def rows_of(config: Config, processes: int = 1) -> int:
    return rows_that_fit(config.model_dump_json(), processes)


def test_parts_are_smaller_where_records_are_larger() -> None:
    assert [rows_of(image(side)) for side in (16, 256, 1024)] == [128, 32, 2]
    assert [rows_of(sound(seconds)) for seconds in (0.1, 60.0)] == [128, 2]


def test_parts_are_smaller_where_the_model_keeps_more_of_a_record() -> None:
    small, deep = BytesOptions(width=8, feedforward=8), BytesOptions(width=64, feedforward=256, layers=12)
    assert rows_of(text(small)) > rows_of(text(deep)) > 1


def test_several_processes_share_the_memory_of_one() -> None:
    assert [rows_of(image(16), number) for number in (1, 2)] == [128, 16]
    assert rows_of(image(512), 4) == rows_of(image(512)) // 4


def test_a_record_that_fills_a_part_is_computed_alone() -> None:
    assert rows_at_once(image(2048).model_dump_json()) == 1
