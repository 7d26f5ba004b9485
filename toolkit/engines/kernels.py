"""Loops over rows for a CPU in float32, compiled by numba: each row is computed by itself, whatever its company.

That is what makes a rollout's bits independent of the batch, and what spares masks, padding and copies of keys. Knows
no model, no torch and no requests: arrays in, arrays out.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core.caching import FunctionCache
from numba.extending import intrinsic
from numpy.typing import NDArray

from toolkit.errors import Unsupported

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Number = Any  # a float32; type checkers do not know what numba makes of scalars
f32: Any = np.float32

# sums may be split over a register's places (always in the same way), and multiply-adds fused; nothing assumes that
# numbers are finite, so that NaN stays NaN
MATH = {"contract", "reassoc", "nsz"}


def usable(tensor: Any) -> bool:
    """Whether kernels take this torch tensor: float32 on a CPU."""
    return bool(tensor.device.type == "cpu" and str(tensor.dtype) == "torch.float32")


class _Kept(FunctionCache):
    """Machine code on disk; where the disk is full, it is made again by the next process.

    numba counts a function's files. Two processes that begin at once would count alike, and the index of one would
    name the code of the other, made for other types; so would an index that outlived the source of its code.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        file = self._cache_file
        file._data_name_pattern = file._data_name_pattern.replace("{number:d}", f"{{number:d}}-{secrets.token_hex(4)}")

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(OSError):
            super().save_overload(sig, data)


def compiled(function: Callable[..., Any]) -> Any:
    """Machine code of a loop, kept on disk between processes where a folder for it can be written."""
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        return _refuse
    made = njit(function, nogil=True, fastmath=MATH, error_model="numpy")
    with suppress(RuntimeError):  # nowhere to keep it
        made._cache = _Kept(function)
    return made


def _refuse(*_: Any) -> NoReturn:
    raise Unsupported("numba compiles nothing here (NUMBA_DISABLE_JIT), and loops in plain Python take hours; unset it")


def _bits(context: Any, bits: Any) -> Any:
    """The float32 that has the bits of an int32."""
    return types.float32(types.int32), lambda _, builder, __, given: builder.bitcast(given[0], ir.FloatType())


_with_bits: Any = intrinsic(_bits)


@compiled
def _exp(x: Number) -> Number:
    """exp of a number that is not above 0, as a polynomial on +-log(2)/2 times a power of two (the coefficients of
    Cephes' expf, S. Moshier): libm's is called number by number, which takes most of a small model's attention."""
    nothing = x < f32(-87)  # has no whole power of two in a float32; false for NaN, which stays NaN
    x = f32(0) if nothing else x
    power = np.rint(x * f32(1.44269504088896341))
    x = x - power * f32(0.693359375) + power * f32(2.12194440e-4)
    y = f32(1.9875691500e-4)
    y = y * x + f32(1.3981999507e-3)
    y = y * x + f32(8.3334519073e-3)
    y = y * x + f32(4.1665795894e-2)
    y = y * x + f32(1.6666665459e-1)
    y = y * x + f32(5.0000001201e-1)
    y = (y * x * x + x + f32(1)) * _with_bits((np.int32(power) + np.int32(127)) << np.int32(23))
    return f32(0) if nothing else y


@compiled
def _gated(x: Number, by: Number) -> Number:
    """x sigmoid(by), finite where that is."""
    e = _exp(-abs(by))
    return (x if by > 0 else x * e) / (f32(1) + e)


@compiled
def norm(rows: Floats, weight: Floats, epsilon: float, out: Floats) -> None:
    """Each row [T, D] over its root mean square, times the weight [D] (Zhang and Sennrich 2019)."""
    width = rows.shape[1]
    for t in range(rows.shape[0]):
        total = f32(0)
        for i in range(width):
            total += rows[t, i] * rows[t, i]
        scale = f32(1) / np.sqrt(total / f32(width) + f32(epsilon))
        for i in range(width):
            out[t, i] = weight[i] * (rows[t, i] * scale)


@compiled
def gate(rows: Floats, out: Floats) -> None:
    """silu(a) * b of rows that hold a and b side by side [T, 2 I], into [T, I] (Shazeer 2020)."""
    width = out.shape[1]
    for t in range(out.shape[0]):
        for i in range(width):
            out[t, i] = _gated(rows[t, i], rows[t, i]) * rows[t, width + i]


@compiled
def activate(rows: Floats, slope: float, bend: float, out: Floats) -> None:
    """x sigmoid(slope (x + bend x^3)) of rows [T, I]: silu, and gelu nearly (Hendrycks and Gimpel 2016).

    torch computes the numbers that its registers leave over, at the end of each thread's share, in another way."""
    for t in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            x = rows[t, i]
            out[t, i] = _gated(x, f32(slope) * x * (f32(1) + f32(bend) * x * x))


@compiled
def rotate(
    mixed: Floats,
    cosine: Floats,
    sine: Floats,
    lanes: Ints,
    positions: Ints,
    query: Floats,
    keys: Floats,
    values: Floats,
) -> None:
    """Turn queries and keys to their positions (Su et al. 2021, by halves), and put keys and values into the stores.

    mixed: [T, (Hq + 2 H) hd], queries, keys and values side by side; cosine, sine: [T, hd]; query: [T, Hq, hd], the
    outcome; keys, values: stores [S, H, places, hd], written at positions [T] of lanes [T].
    """
    asked, kept, width = query.shape[1], keys.shape[1], query.shape[2]
    half = width // 2
    for t in range(len(lanes)):
        for head in range(asked + kept):
            given = mixed[t, head * width : (head + 1) * width]
            turned = query[t, head] if head < asked else keys[lanes[t], head - asked, positions[t]]
            for i in range(half):
                turned[i] = given[i] * cosine[t, i] - given[i + half] * sine[t, i]
                turned[i + half] = given[i + half] * cosine[t, i + half] + given[i] * sine[t, i + half]
        for head in range(kept):
            begin = (asked + kept + head) * width
            values[lanes[t], head, positions[t]] = mixed[t, begin : begin + width]


@compiled
def _exponentials(scores: Floats, count: int) -> Number:
    """exp(score - the largest) in place, and their sum."""
    top = f32(-np.inf)
    for j in range(count):
        top = max(top, scores[j])
    total = f32(0)
    for j in range(count):
        scores[j] = _exp(scores[j] - top)
        total += scores[j]
    return total


@compiled
def attend(
    query: Floats,
    keys: Floats,
    values: Floats,
    lanes: Ints,
    positions: Ints,
    out: Floats,
    scaling: float,
    window: int,
    softcap: float,
    first: int,
    last: int,
) -> None:
    """Attention of queries [T, Hq, hd], each over its own lane up to its own position, into `out`
    [T, Hq, width of a value].

    window: how many keys a query sees at most. softcap: scores are squashed to +-softcap by tanh; 0 for not at all.
    first, last: which of the Hq x T rows; a head's tokens follow one another, so that the keys of a long span stay
    in the cache.
    """
    tokens, shared = len(lanes), query.shape[1] // keys.shape[1]
    width, wide = keys.shape[3], values.shape[3]
    scores = np.empty(keys.shape[2], f32)
    scale, cap = f32(scaling), f32(softcap)
    for row in range(first, last):
        head, t = row // tokens, row % tokens
        begin = max(0, positions[t] + 1 - window)
        count = positions[t] + 1 - begin
        fours = count // 4 * 4
        q = query[t, head]
        k = keys[lanes[t], head // shared, begin : begin + count]
        for j in range(0, fours, 4):
            a, b, c, d = f32(0), f32(0), f32(0), f32(0)
            for i in range(width):
                a += q[i] * k[j, i]
                b += q[i] * k[j + 1, i]
                c += q[i] * k[j + 2, i]
                d += q[i] * k[j + 3, i]
            scores[j], scores[j + 1], scores[j + 2], scores[j + 3] = a, b, c, d
        for j in range(fours, count):
            a = f32(0)
            for i in range(width):
                a += q[i] * k[j, i]
            scores[j] = a
        for j in range(count):
            scores[j] *= scale
        if cap:
            for j in range(count):
                scores[j] = cap * np.tanh(scores[j] / cap)
        total = _exponentials(scores, count)
        v = values[lanes[t], head // shared, begin : begin + count]
        o = out[t, head]
        o[:] = 0
        for j in range(0, fours, 4):
            a, b, c, d = scores[j], scores[j + 1], scores[j + 2], scores[j + 3]
            for i in range(wide):
                o[i] += a * v[j, i] + b * v[j + 1, i] + c * v[j + 2, i] + d * v[j + 3, i]
        for j in range(fours, count):
            a = scores[j]
            for i in range(wide):
                o[i] += a * v[j, i]
        for i in range(wide):
            o[i] /= total
