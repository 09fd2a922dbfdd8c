"""A draw: Random123's known answers, the text of its definition, and the statistics of millions of normals."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from scipy.special import ndtr

from bits import assert_bits_equal
from fastsolve.philox import START_STREAM, STEP_STREAM, box_muller, normals, philox4x32, sample_seeds

WEYL = 0x9E3779B97F4A7C15
DRAWS = 1 << 22  # of the statistics; their seeds are fixed, so a bound holds always or never


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def scalar_philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 in Python's integers, from section 3.3 of the paper."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for r in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 1 << 32)
        r0, r1 = (k0 + r * 0x9E3779B9) % (1 << 32), (k1 + r * 0xBB67AE85) % (1 << 32)
        c0, c1, c2, c3 = high1 ^ c1 ^ r0, low1, high0 ^ c3 ^ r1, low0
    return [c0, c1, c2, c3]


def exact_box_muller(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In float64: u = (first's upper 23 bits + 1/2) / 2^23, a full turn is 2^32."""
    r = np.sqrt(-2.0 * np.log(((first >> 9) + 0.5) * 2.0**-23))
    turn = second * (2.0 * np.pi * 2.0**-32)
    return r * np.cos(turn), r * np.sin(turn)


# Random123 (Salmon et al. 2011), kat_vectors, philox4x32 with 10 rounds.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN, ids=["zeros", "ones", "pi"])
def test_random123_known_answers(counter: str, key: str, expected: str) -> None:
    got = philox4x32(words(counter), words(key))
    assert [int(word) for word in got] == words(expected)
    assert all(word.dtype == np.uint32 for word in got)
    assert scalar_philox(words(counter), words(key)) == words(expected)


def test_philox_broadcasts_and_agrees_with_integers() -> None:
    rng = random.Random(1)
    counters = [[rng.getrandbits(32) for _ in range(50)] for _ in range(4)]
    keys = [[rng.getrandbits(32) for _ in range(3)] for _ in range(2)]
    got = np.stack(philox4x32([np.uint32(c)[None, :] for c in counters], [np.uint32(k)[:, None] for k in keys]), -1)
    expected = [[scalar_philox([c[i] for c in counters], [k[j] for k in keys]) for i in range(50)] for j in range(3)]
    assert_bits_equal(got, np.array(expected, np.uint32))


def test_fewer_rounds_are_other_words() -> None:
    nine, ten = (philox4x32(words(KNOWN[2][0]), words(KNOWN[2][1]), rounds) for rounds in (9, 10))
    assert [int(w) for w in nine] != [int(w) for w in ten]


def test_a_draw_is_what_its_definition_says() -> None:
    """Key: seed, low word first. Counter: group low, group high, draw, stream. Words 0, 1 and 2, 3 make four elements."""
    seed, draw, stream, size = 0x0123456789ABCDEF, 77, 5, 11
    expected = []
    for group in range(3):
        w = np.uint32(scalar_philox([group, 0, draw, stream], [0x89ABCDEF, 0x01234567]))
        expected += [*box_muller(w[0:1], w[1:2]), *box_muller(w[2:3], w[3:4])]
    got = normals(np.uint64([seed]), size, draw, stream)
    assert_bits_equal(got, np.concatenate(expected)[None, :size])


@pytest.mark.parametrize(
    ("seed", "draw", "stream", "expected"),
    [
        (0, 0, START_STREAM, "3f7dbb31 bf6cb6b0 bf1e1b9d bef6d1af be1d5353 3e392a68 3f54ec97 3e4a2da2"),
        (2**64 - 1, 3, STEP_STREAM, "becce02c 3ebd05de bdd86d4e bf0bcc49 c033eb57 bfd0aabe 3d1a2c46 3f30b354"),
    ],
)
def test_the_same_seed_gives_the_same_bits_for_ever(seed: int, draw: int, stream: int, expected: str) -> None:
    """Bits of the first eight elements: whoever changes these changes every seeded result there is."""
    got = normals(np.uint64([seed]), 8, draw, stream)
    assert_bits_equal(got.view(np.uint32)[0], np.uint32(words(expected)))


def every_radius() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All 2^23 values of u there are, each with some angle, in eight parts."""
    rng = np.random.default_rng(3)
    for part in np.split(np.arange(1 << 23, dtype=np.uint32) << np.uint32(9), 8):
        yield part, rng.integers(0, 1 << 32, part.size, dtype=np.uint32)


def many_angles() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """2^20 angles, evenly spaced, and the neighbours of every eighth of a turn, at the longest and a middling radius."""
    rim = (np.arange(8, dtype=np.int64) << 29)[:, None] + np.arange(-70, 71)[None, :]
    second = np.concatenate([np.arange(1 << 20) << 12, rim.ravel() % (1 << 32)]).astype(np.uint32)
    for first in (0, 0x9B00DBD8):
        yield np.full_like(second, first), second


@pytest.mark.parametrize("cases", [every_radius, many_angles])
def test_box_muller_is_within_1e6_of_float64(cases: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]) -> None:
    worst = 0.0
    for first, second in cases():
        for got, exact in zip(box_muller(first, second), exact_box_muller(first, second), strict=True):
            assert got.dtype == np.float32
            worst = max(worst, float(np.abs(got - exact).max()))
    assert worst < 1e-6


def test_normals_are_finite_and_bounded() -> None:
    """|z| <= sqrt(2 log 2^24) = 5.768, at the smallest u; at the largest the radius is small, not nan."""
    ends = np.uint32([0, 0xFFFFFFFF])
    x, y = box_muller(ends, np.uint32([0, 0]))
    assert x[0] == pytest.approx(math.sqrt(2.0 * math.log(2.0**24)), rel=1e-6)
    assert x[1] == pytest.approx(math.sqrt(-2.0 * math.log1p(-(2.0**-24))), rel=1e-3)
    assert y.tolist() == [0.0, 0.0]


def test_no_radius_is_the_root_of_a_number_that_needs_scaling() -> None:
    """A GPU's square root has a second case for arguments below 2^-101, which kernels/philox.py leaves out."""
    least = min(float(box_muller(first, np.zeros_like(first))[0].min()) for first, _ in every_radius())
    assert least**2 == pytest.approx(2.0**-23, rel=1e-6)


def test_a_quarter_turn_is_exact() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.integers(0, 1 << 32, (2, 10000), dtype=np.uint32)
    x, y = box_muller(first, second)
    turned_x, turned_y = box_muller(first, second + np.uint32(1 << 30))
    assert_bits_equal(turned_x, -y)
    assert_bits_equal(turned_y, x)


def test_seeds_of_an_int_are_documented() -> None:
    assert sample_seeds(42, 3).tolist() == [42, (42 + WEYL) % 2**64, (42 + 2 * WEYL) % 2**64]
    assert sample_seeds(42, 3).dtype == np.uint64
    assert sample_seeds(0, 1).tolist() == [0]
    assert sample_seeds(7, 0).tolist() == []


def test_seeds_of_a_larger_batch_begin_with_those_of_a_smaller() -> None:
    assert sample_seeds(-5, 100)[:9].tolist() == sample_seeds(-5, 9).tolist()


def test_seeds_are_taken_modulo_2_to_the_64() -> None:
    assert sample_seeds(-1, 1).tolist() == [2**64 - 1]
    assert sample_seeds(2**64 + 5, 1).tolist() == [5]
    assert sample_seeds([-1, 2**63, 2**70 + 3], 3).tolist() == [2**64 - 1, 2**63, 3]


@pytest.mark.parametrize(
    "given",
    [[3, 1, 4], (3, 1, 4), np.array([3, 1, 4], np.int32), np.uint64([3, 1, 4]), torch.tensor([3, 1, 4])],
    ids=["list", "tuple", "int32", "uint64", "torch"],
)
def test_a_sequence_holds_one_seed_per_sample(given: list[int]) -> None:
    seeds = sample_seeds(given, 3)
    assert seeds.dtype == np.uint64
    assert seeds.tolist() == [3, 1, 4]


@pytest.mark.parametrize("one", [np.int64(5), np.uint64(5), np.array(5), torch.tensor(5)], ids=repr)
def test_a_number_of_any_library_is_an_int(one: int) -> None:
    assert sample_seeds(one, 2).tolist() == sample_seeds(5, 2).tolist()


@pytest.mark.parametrize("given", [[], [1], [1, 2, 3], np.array([[1, 2]])[0:1, 0]], ids=["none", "one", "three", "np"])
def test_a_sequence_of_another_length_is_refused(given: list[int]) -> None:
    with pytest.raises(ValueError) as error:
        sample_seeds(given, 2)
    assert str(error.value) == f"seed has {len(given)} entries for a batch of 2: give one int, or one per sample"


@pytest.mark.parametrize("given", [1.5, None, "ab", True, [1, 2.0], [1, None], [True, False], np.array([True, False])])
def test_what_is_no_int_is_refused(given: object) -> None:
    with pytest.raises(TypeError, match=r"^seed must be an int or one int per sample, not "):
        sample_seeds(given, 2)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 63, 1000])
def test_a_smaller_draw_is_the_beginning_of_a_larger(size: int) -> None:
    seeds = sample_seeds(9, 3)
    draw = normals(seeds, size, 2)
    assert draw.shape == (3, size)
    assert_bits_equal(draw, normals(seeds, 1003, 2)[:, :size])


def test_a_sample_does_not_depend_on_its_batch() -> None:
    seeds = np.uint64([5, 2**63 + 1, 5, 0])
    together = normals(seeds, 63, 4)
    for i in range(4):
        assert_bits_equal(together[i : i + 1], normals(seeds[i : i + 1], 63, 4))
    assert_bits_equal(together[[3, 0, 1, 2]], normals(seeds[[3, 0, 1, 2]], 63, 4))


def test_step_noise_is_the_default_stream() -> None:
    assert START_STREAM != STEP_STREAM
    assert_bits_equal(normals(sample_seeds(0, 1), 8, 3), normals(sample_seeds(0, 1), 8, 3, STEP_STREAM))


@pytest.fixture(scope="module")
def sample() -> np.ndarray:
    """Standard normals, as float64 [64 samples, 2^16]."""
    return normals(sample_seeds(20240229, 64), DRAWS // 64, 0).astype(np.float64)


def test_moments_are_those_of_the_normal_law(sample: np.ndarray) -> None:
    """Mean, variance, skewness and kurtosis, each within four standard errors."""
    n = sample.size
    z = sample.ravel() - sample.mean()
    variance = float((z**2).mean())
    assert abs(sample.mean()) < 4.0 / math.sqrt(n)
    assert abs(variance - 1.0) < 4.0 * math.sqrt(2.0 / n)
    assert abs((z**3).mean() / variance**1.5) < 4.0 * math.sqrt(6.0 / n)
    assert abs((z**4).mean() / variance**2 - 3.0) < 4.0 * math.sqrt(24.0 / n)


def test_the_distribution_is_normal(sample: np.ndarray) -> None:
    """Kolmogorov-Smirnov: sqrt(n) D exceeds 1.95 with probability 1e-3."""
    n = sample.size
    law = ndtr(np.sort(sample.ravel()))
    step = np.arange(n + 1) / n
    distance = max(float((step[1:] - law).max()), float((law - step[:-1]).max()))
    assert math.sqrt(n) * distance < 1.95


def test_tails_are_those_of_the_normal_law(sample: np.ndarray) -> None:
    """Counts beyond 1, 2, 3 and 4 standard deviations, each side, within four of theirs."""
    for edge in (1.0, 2.0, 3.0, 4.0):
        expected = sample.size * float(ndtr(-edge))
        for count in (np.count_nonzero(sample > edge), np.count_nonzero(sample < -edge)):
            assert abs(count - expected) < 4.0 * math.sqrt(expected)


def test_each_of_four_lanes_is_normal(sample: np.ndarray) -> None:
    for lane in range(4):
        z = sample[:, lane::4]
        assert abs(z.mean()) < 4.0 / math.sqrt(z.size)
        assert abs((z**2).mean() - 1.0) < 4.0 * math.sqrt(2.0 / z.size)


def assert_independent(a: np.ndarray, b: np.ndarray) -> None:
    """Correlations of values, of squares, and of one with the square of the other: standard normal to leading order."""
    n = a.size
    square_a, square_b = (a**2 - 1.0) / math.sqrt(2.0), (b**2 - 1.0) / math.sqrt(2.0)
    for name, u, v in (
        ("values", a, b),
        ("squares", square_a, square_b),
        ("value, square", a, square_b),
        ("square, value", square_a, b),
    ):
        score = float(np.vdot(u, v)) / math.sqrt(n)
        assert abs(score) < 4.5, f"{name}: {score:.2f} standard errors"


@pytest.mark.parametrize(("a", "b"), list(itertools.combinations(range(4), 2)))
def test_elements_of_a_group_are_independent(sample: np.ndarray, a: int, b: int) -> None:
    assert_independent(sample[:, a::4], sample[:, b::4])


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 8, 64])
def test_neighbouring_elements_are_independent(sample: np.ndarray, lag: int) -> None:
    assert_independent(sample[:, :-lag], sample[:, lag:])


def test_samples_of_a_batch_are_independent(sample: np.ndarray) -> None:
    assert_independent(sample[:-1], sample[1:])


def draw(seeds: list[int], number: int, stream: int = STEP_STREAM) -> np.ndarray:
    return normals(sample_seeds(seeds, len(seeds)), 1 << 16, number, stream).astype(np.float64)


ROW = list(range(100, 116))  # 2^20 elements in all


@pytest.mark.parametrize("number", [0, 1, 1000])
def test_consecutive_draws_are_independent(number: int) -> None:
    assert_independent(draw(ROW, number), draw(ROW, number + 1))


def test_streams_are_independent() -> None:
    assert_independent(draw(ROW, 0, START_STREAM), draw(ROW, 0, STEP_STREAM))


@pytest.mark.parametrize("change", [1, 1 << 31, 1 << 32, 1 << 63])
def test_seeds_that_differ_in_a_bit_are_independent(change: int) -> None:
    assert_independent(draw(ROW, 0), draw([seed ^ change for seed in ROW], 0))


def test_swapped_words_of_seed_and_draw_are_independent() -> None:
    """Draw 1 of seed 0 is not draw 0 of seed 1, nor stream 1 of draw 0."""
    assert_independent(draw([0], 1), draw([1], 0))
    assert_independent(draw([0], 1, 0), draw([0], 0, 1))


def repeats(values: np.ndarray) -> int:
    values = np.sort(values)
    return int(np.count_nonzero(values[1:] == values[:-1]))


def test_no_block_is_repeated() -> None:
    """2^22 pairs of words of many seeds, draws and streams, all different; chance would repeat one with probability 5e-7."""
    groups = np.arange(1 << 13, dtype=np.uint32)
    number = np.arange(16, dtype=np.uint32)[:, None]
    seed = np.arange(8, dtype=np.uint32)[:, None, None]
    stream = np.arange(2, dtype=np.uint32)[:, None, None, None]
    w = [word.ravel().astype(np.uint64) for word in philox4x32((groups, 0, number, stream), (seed, 0))]
    pairs = np.concatenate([w[0] << np.uint64(32) | w[1], w[2] << np.uint64(32) | w[3]])
    assert pairs.size == DRAWS
    assert repeats(pairs) == 0


def test_words_repeat_as_often_as_chance_has_it() -> None:
    """Of n = 2^22 uniform 32-bit words, n^2 / 2^33 = 2048 pairs are equal, give or take 45."""
    w = np.concatenate(philox4x32((np.arange(DRAWS // 4, dtype=np.uint32), 0, 0, 1), (1, 0)))
    assert abs(repeats(w) - 2048) < 4.0 * math.sqrt(2048)


def test_bits_of_words_are_fair() -> None:
    w = np.concatenate(philox4x32((np.arange(DRAWS // 4, dtype=np.uint32), 0, 0, 1), (2, 0)))
    for bit in range(32):
        ones = np.count_nonzero(w & np.uint32(1 << bit))
        assert abs(ones - DRAWS / 2) < 4.5 * math.sqrt(DRAWS) / 2.0
