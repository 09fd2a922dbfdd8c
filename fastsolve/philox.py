"""The definition of a draw: counter-based standard normals, the same bits on every executor and device.

A draw is a tensor of normals [B, *shape] that is never stored: each element is a pure function of

    key      the 64-bit seed of the sample, low word first
    counter  (group low, group high, draw number, stream),  group = element // 4 inside the sample

Philox4x32-10 (Salmon et al., SC 2011) turns them into four 32-bit words, and Box-Muller turns words (0, 1) and (2, 3) into
the normals of elements 4*group .. 4*group + 3. Nothing depends on the batch, the rank, the order of evaluation or the device.

Bits are equal everywhere because only operations are used that IEEE-754 rounds correctly and every language spells: +, -, *,
sqrt, integers, conversions. No fma, no library log or cos. This NumPy text is the judge; csrc/ and kernels/ repeat it.

Accuracy against float64 Box-Muller on the same words: absolute error below 1e-6; |z| <= 5.77 (23-bit uniforms).
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Float32s = npt.NDArray[np.float32]
UInt32s = npt.NDArray[np.uint32]
UInt64s = npt.NDArray[np.uint64]

START_STREAM = 0  # the noise that sampling starts from
STEP_STREAM = 1  # the noise that stochastic solvers inject

_WEYL = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: consecutive samples get far-apart keys
_MASK = (1 << 64) - 1


def sample_seeds(seed: int | Iterable[int], batch: int) -> UInt64s:
    """Keys of the samples of a batch, uint64 [batch].

    An int seeds sample i with (seed + i * 0x9E3779B97F4A7C15) mod 2^64, so sample 0 has the seed itself; a sequence of ints
    holds one seed per sample, taken mod 2^64.

    Raises TypeError for anything but ints and ValueError for a sequence whose length is not `batch`.
    """
    if isinstance(seed, bytes | str | set | frozenset | dict):
        raise TypeError(f"seed must be an int or one int per sample, not {type(seed).__name__}")
    if type(seed) is not int and isinstance(seed, Iterable) and getattr(seed, "shape", None) != ():
        given = [_as_int(s) for s in seed]
        if len(given) != batch:
            raise ValueError(f"seed has {len(given)} entries for a batch of {batch}: give one int, or one per sample")
        return np.array([s & _MASK for s in given], np.uint64)
    return _spread(batch) + np.uint64(_as_int(seed) & _MASK)  # unsigned arrays wrap


@functools.lru_cache(maxsize=64)
def _spread(batch: int) -> UInt64s:
    return np.array([i * _WEYL & _MASK for i in range(batch)], np.uint64)


def _as_int(value: object) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or str(getattr(value, "dtype", "")).endswith("bool"):
        raise TypeError(f"seed must be an int or one int per sample, not {type(value).__name__}")
    return operator.index(value)


def philox4x32(counter: Sequence[npt.ArrayLike], key: Sequence[npt.ArrayLike], rounds: int = 10) -> tuple[UInt32s, ...]:
    """Philox4x32 (Salmon et al. 2011, section 3.3): four counter words and two key words, uint32 and broadcastable, to four words."""
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(c, np.uint32) for c in counter))
    k0, k1 = (np.asarray(k, np.uint32) for k in key)
    for _ in range(rounds):
        p0 = c0.astype(np.uint64) * np.uint64(0xD2511F53)
        p1 = c2.astype(np.uint64) * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = _high(p1) ^ c1 ^ k0, _low(p1), _high(p0) ^ c3 ^ k1, _low(p0)
        with np.errstate(over="ignore"):
            k0, k1 = k0 + np.uint32(0x9E3779B9), k1 + np.uint32(0xBB67AE85)
    return c0, c1, c2, c3


def _high(wide: UInt64s) -> UInt32s:
    return (wide >> np.uint64(32)).astype(np.uint32)


def _low(wide: UInt64s) -> UInt32s:
    return wide.astype(np.uint32)


# Cephes logf: log(1 + f) = f - f^2/2 + f^3 P(f) for sqrt(1/2) <= 1 + f < sqrt(2); ln 2 split so that e * _LN2_HIGH is exact.
_LOG = np.array(
    [7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1]
    + [-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1],
    np.float32,
)
_LN2_LOW, _LN2_HIGH = np.float32(-2.12194440e-4), np.float32(0.693359375)
# Cephes sinf and cosf on |a| <= pi/4.
_SIN = np.array([-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1], np.float32)
_COS = np.array([2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2], np.float32)
_SQRT_HALF_BITS = np.int32(0x3F3504F3)
_ANGLE = np.float32(1.5707963267948966 / 2**30)  # radians per unit of the 32-bit turn


def box_muller(first: UInt32s, second: UInt32s) -> tuple[Float32s, Float32s]:
    """Two words to two standard normals: r cos(a), r sin(a) with r = sqrt(-2 log u), u from `first`, the turn a from `second`."""
    one, half = np.float32(1), np.float32(0.5)
    u = ((first >> np.uint32(9)).astype(np.float32) + half) * np.float32(2.0**-23)  # (0, 1), exact

    # u = 2^e m with sqrt(1/2) <= m < sqrt(2), by the bits.
    bits = u.view(np.int32) - _SQRT_HALF_BITS
    exponent = bits >> np.int32(23)  # arithmetic shift: floor
    f = ((bits & np.int32(0x007FFFFF)) + _SQRT_HALF_BITS).view(np.float32) - one
    e = exponent.astype(np.float32)
    square = f * f
    p = _LOG[0] * f + _LOG[1]
    for c in _LOG[2:]:
        p = p * f + c
    log_u = (f + ((p * f) * square + e * _LN2_LOW - half * square)) + e * _LN2_HIGH
    r = np.sqrt(np.float32(-2) * log_u)

    # A full turn is 2^32: the nearest quarter, and the signed rest within an eighth of a turn.
    quarter = (second + np.uint32(1 << 29)) >> np.uint32(30)
    rest = (second - (quarter << np.uint32(30))).view(np.int32)
    a = rest.astype(np.float32) * _ANGLE
    w = a * a
    sin = ((_SIN[0] * w + _SIN[1]) * w + _SIN[2]) * w * a + a
    cos = ((_COS[0] * w + _COS[1]) * w + _COS[2]) * (w * w) - half * w + one
    odd = (quarter & np.uint32(1)).astype(bool)
    x, y = np.where(odd, sin, cos), np.where(odd, cos, sin)
    x_sign = ((quarter + np.uint32(1)) & np.uint32(2)) << np.uint32(30)  # cos < 0 in quarters 1 and 2
    y_sign = (quarter & np.uint32(2)) << np.uint32(30)  # sin < 0 in quarters 2 and 3
    x = (x.view(np.uint32) ^ x_sign).view(np.float32)
    y = (y.view(np.uint32) ^ y_sign).view(np.float32)
    return r * x, r * y


def normals(seeds: UInt64s, size: int, draw: int, stream: int = STEP_STREAM) -> Float32s:
    """Draw number `draw` of a stream, float32 [len(seeds), size]: `size` elements for each sample."""
    groups = np.arange(-(-size // 4), dtype=np.uint64)[None, :]
    key = np.asarray(seeds, np.uint64)[:, None]
    words = philox4x32((_low(groups), _high(groups), np.uint32(draw), np.uint32(stream)), (_low(key), _high(key)))
    z = np.stack(box_muller(words[0], words[1]) + box_muller(words[2], words[3]), axis=-1)
    return z.reshape(len(key), -1)[:, :size]
