"""Noise streams: fresh, unshared, repeatable only in tests; shares of a table's noise that suffice."""

from __future__ import annotations

import math
import os
import pickle
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest

from common.privacy import noise as noise_module
from common.privacy.discrete_gaussian import POOL_BYTES, Bits, sample_discrete_gaussian
from common.privacy.lattice import share_std
from common.privacy.noise import NoiseSource, _normals, os_noise
from common.secagg.encoding import Draw
from common.secagg.keystream import CHUNK_BYTES, Stream, keystream, open_stream


def repeatable(seed: int = 0, site: str = "a", round: int = 1, purpose: str = "training") -> NoiseSource:
    return noise_module.test_noise(seed, site, round, purpose)


def draw_fresh(_: int) -> bytes:
    return os_noise("a", "run", 1, "training").gaussian("step 0", 8).tobytes()


def draw_from(source: NoiseSource) -> str:
    try:
        source.gaussian("step 0", 8)
    except ValueError as error:
        return str(error)
    return "drawn"


def test_every_opening_has_its_own_noise() -> None:
    names = ("a", "run", 1, "training")
    drawn = {os_noise(*names).gaussian("step 0", 4).tobytes() for _ in range(50)}
    assert len(drawn) == 50


def test_forked_workers_never_draw_the_same_noise() -> None:
    np.random.default_rng(0)  # what forks inherit must not matter
    with (
        ProcessPoolExecutor(2, mp_context=get_context("fork")) as first,
        ProcessPoolExecutor(2, mp_context=get_context("fork")) as second,
    ):
        drawn = [*first.map(draw_fresh, range(4)), *second.map(draw_fresh, range(4)), draw_fresh(0)]
    assert len(set(drawn)) == len(drawn)


def opened_before(draw: Draw) -> str:
    try:
        draw(np.empty(1))
    except ValueError as error:
        return str(error)
    return "drawn"


@pytest.mark.parametrize("kind", ["uniforms", "gaussians"])
@pytest.mark.parametrize("opened", [False, True])
def test_a_source_that_was_made_before_the_fork_refuses_in_the_child(kind: str, *, opened: bool) -> None:
    source = os_noise("a", "run", 1, "training")
    draw = source.uniforms("u") if kind == "uniforms" else source.gaussians("u")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, (opened_before(draw) if opened else draw_from(source)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        assert "made in another process" in answer.read()
    assert draw_from(source) == "drawn"


def test_a_pickled_source_refuses_in_another_process() -> None:
    body = pickle.dumps(os_noise("a", "run", 1, "training"))
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        assert "made in another process" in pool.submit(draw_from, pickle.loads(body)).result()  # noqa: S301


def test_test_noise_is_a_pure_function_of_its_names() -> None:
    for method in ("gaussian", "uniform"):
        values = getattr(repeatable(), method)("step 3", 100)
        assert np.array_equal(values, getattr(repeatable(), method)("step 3", 100))
        assert not np.array_equal(values, getattr(repeatable(), method)("step 4", 100))
    assert np.array_equal(repeatable().discrete_gaussian("t", 5.0, 50), repeatable().discrete_gaussian("t", 5.0, 50))


@pytest.mark.parametrize("other", [{"seed": 1}, {"site": "b"}, {"round": 2}, {"purpose": "audit"}])
def test_test_noise_differs_by_every_one_of_its_names(other: dict[str, Any]) -> None:
    assert not np.array_equal(repeatable().uniform("x", 4), repeatable(**other).uniform("x", 4))


def test_test_noise_is_refused_outside_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, "", "0", "true"):
        monkeypatch.delenv("FEDMOSAIC_TESTING", raising=False)
        if value is not None:
            monkeypatch.setenv("FEDMOSAIC_TESTING", value)
        with pytest.raises(ValueError, match="FEDMOSAIC_TESTING=1"):
            repeatable()
    assert os_noise("a", "run", 1, "training").kind == "os-csprng"


def test_the_source_says_what_it_is_and_never_shows_its_key() -> None:
    assert (repeatable().kind, os_noise("a", "r", 0, "audit").kind) == ("test", "os-csprng")
    source = os_noise("a", "r", 0, "audit")
    assert repr(source.key) not in repr(source)


def test_methods_of_one_label_are_independent_streams() -> None:
    source = repeatable()
    normal, uniform = source.gaussian("x", 20_000), source.uniform("x", 20_000)
    assert abs(np.corrcoef(normal, uniform)[0, 1]) < 0.03


@pytest.mark.parametrize("size", [0, 1, 3, 1000])
def test_draws_have_the_size_and_type_that_was_asked_for(size: int) -> None:
    source = repeatable()
    for values in (source.gaussian("a", size), source.uniform("a", size)):
        assert values.shape == (size,)
        assert values.dtype == np.float64
    table = source.discrete_gaussian("a", 3.0, size)
    assert table.shape == (size,)
    assert table.dtype == np.int64


def test_uniforms_drawn_in_pieces_are_those_drawn_at_once() -> None:
    source, sizes = repeatable(), [1, 3, 16_384, 0, 7]
    draw, pieces = source.uniforms("u"), [np.empty(size) for size in sizes]
    for piece in pieces:
        draw(piece)
    np.testing.assert_array_equal(np.concatenate(pieces), source.uniform("u", sum(sizes)))


def test_normals_drawn_in_pieces_are_those_drawn_at_once() -> None:
    source, sizes = repeatable(), [1, 3, 16_384, 0, 7, 4095]
    draw, pieces = source.gaussians("g"), [np.empty(size) for size in sizes]
    for piece in pieces:
        draw(piece)
    np.testing.assert_array_equal(np.concatenate(pieces), source.gaussian("g", sum(sizes)))


def test_normals_are_sums_of_four_box_muller_draws_of_one_keystream() -> None:
    """The naive twin: one value at a time, with the cosine and the sine themselves, in python's own arithmetic."""
    source, pairs = repeatable(), 2048
    words = np.frombuffer(keystream(source._key("gaussian", "g"), bytes(16), CHUNK_BYTES), "<u8").reshape(2, 4, pairs)
    values = source.gaussian("g", 2 * pairs)
    for place in (0, 1, 77, pairs - 1):
        draws = [((int(words[0, k, place]) >> 1) / 2**63, (int(words[1, k, place]) >> 1) / 2**63) for k in range(4)]
        radii = [math.sqrt(-2 * math.log(first + 2.0**-64)) for first, _ in draws]
        angles = [math.tau * (second - 0.5) for _, second in draws]
        cosine = sum(r * math.cos(angle) for r, angle in zip(radii, angles, strict=True)) / 2
        sine = sum(r * math.sin(angle) for r, angle in zip(radii, angles, strict=True)) / 2
        np.testing.assert_allclose(values[[place, place + pairs]], [cosine, sine], rtol=0, atol=1e-12)


def test_the_rarest_words_give_finite_normals() -> None:
    for word in (0, 1, 2**63, 2**64 - 1):
        stream = Stream(memoryview(word.to_bytes(8, "little") * (CHUNK_BYTES // 8)), open_stream(bytes(32)).rest)
        assert np.isfinite(_normals(stream)).all()


def test_drawing_normals_takes_a_block_of_memory_beside_them() -> None:
    values = np.empty(1_000_000)
    tracemalloc.start()
    try:
        repeatable().gaussians("g")(values)
        assert tracemalloc.get_traced_memory()[1] < 10 * CHUNK_BYTES
    finally:
        tracemalloc.stop()


def test_uniforms_lie_in_the_half_open_unit_interval_on_the_53_bit_grid() -> None:
    uniform = repeatable().uniform("u", 50_000)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert np.array_equal(uniform * 2**53, np.floor(uniform * 2**53))


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf, 2.0**28 + 1])
def test_a_discrete_gaussian_without_a_width_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="std of the discrete Gaussian must be > 0"):
        repeatable().discrete_gaussian("t", sigma, 1)


def test_bits_are_read_in_order_and_never_twice() -> None:
    blocks: list[int] = []

    def read(block: int) -> bytes:
        blocks.append(block)
        return bytes([block]) * POOL_BYTES

    bits, words = Bits(read), POOL_BYTES // 8
    drawn = [bits.below(np.full(count, 256)) for count in (3, words - 3, 1, words + 4)]
    assert blocks == [0, 1, 2]
    assert np.concatenate(drawn).tolist() == [0] * words + [1] * words + [2] * 5


def test_integers_below_a_limit_are_exactly_uniform() -> None:
    # The smallest and the largest words: 2^64 = 1 modulo 5, so that the rejection must leave word 0 out, and only that.
    words = [*range(11), *range(2**64 - 10, 2**64)]
    stream = b"".join(word.to_bytes(8, "little") for word in words) + bytes(range(256)) * POOL_BYTES
    drawn = Bits(lambda _: stream).below(np.full(20, 5))
    assert np.bincount(drawn, minlength=5).tolist() == [4] * 5


def test_limits_up_to_the_largest_are_kept() -> None:
    limits = np.array([1, 2, 3, 2**31 + 1, 2**62 - 1, 2**62 + 1] * 200)
    drawn = Bits(lambda _: os.urandom(POOL_BYTES)).below(limits)
    assert (drawn >= 0).all()
    assert (drawn < limits).all()
    assert drawn[limits > 2**61].max() > 2**61


def test_a_one_sided_stream_of_bits_ends_in_a_table_all_the_same() -> None:
    source = repeatable()
    assert sample_discrete_gaussian(Bits(lambda _: os.urandom(POOL_BYTES)), std=1e-3, size=20).tolist() == [0] * 20
    assert abs(source.discrete_gaussian("wide", 1e6, 10)).max() < 1e7


@pytest.mark.parametrize(("honest", "sites"), [(1, 3), (2, 4), (7, 10), (50, 100)])
def test_shares_of_the_guaranteed_honest_sites_carry_all_of_the_noise(honest: int, sites: int) -> None:
    share = share_std(3.0, 5.0, honest)
    assert honest * share**2 >= (3.0 * 5.0) ** 2 + 2.0 - 1e-9
    assert share**2 >= 4.0
    assert sites * share**2 > (3.0 * 5.0) ** 2


@pytest.mark.parametrize("wrong", [(0.0, 1.0, 1), (1.0, 0.0, 1), (1.0, 1.0, 0), (math.inf, 1.0, 1)])
def test_a_share_of_nothing_is_refused(wrong: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match="sensitivity and noise_multiplier must be > 0"):
        share_std(*wrong)
