"""The arithmetic that every rule shares, each function exact where the textbook form is not."""

from __future__ import annotations

import math

import keras
from keras import ops

from keras_adamfamily import backends


def lerp(average, value, weight):
    """One step of an exponential moving average: `average + weight * (value - average)`."""
    return average + weight * (value - average)


def scale(tensor, factor, dtype):
    """`factor * tensor` for a dense or sparse tensor of `dtype`, and a float or scalar tensor."""
    return ops.multiply(tensor, ops.convert_to_tensor(factor, dtype))


def power(base, exponent):
    """`base ** exponent` for `base` in (0, 1], a Python float or a scalar tensor."""
    if isinstance(base, float):
        return ops.exp(exponent * math.log(base))
    return ops.power(base, exponent)


def one_minus_power(base, exponent):
    """`1 - base ** exponent` without cancellation: the bias correction `1 - beta ** t`.

    For beta = 0.999 and t = 1 the naive form loses half of float32's digits, and all of
    bfloat16's.
    """
    if isinstance(base, float):
        if base == 0.0:
            return ops.ones_like(exponent)
        return -ops.expm1(exponent * math.log(base))
    return -ops.expm1(exponent * ops.log1p(base - 1.0))


def divide(numerator, denominator, surely_positive: bool):
    """`numerator / denominator` for a denominator >= 0, where 0 gives 0 instead of NaN.

    Rules without epsilon need the guard: a weight that never had a gradient is 0 / 0. It costs
    nothing where a positive epsilon rules zero out. The numerator may be sparse.
    """
    if not surely_positive:
        infinite = ops.full_like(denominator, math.inf)
        denominator = ops.where(denominator > 0.0, denominator, infinite)
    return ops.divide(numerator, denominator)


def clipping_factors(norms, clipnorm, global_clipnorm):
    """What to multiply gradients of such norms by, to clip them as Keras does; all tensors."""
    bound = ops.full_like(norms, clipnorm or global_clipnorm)
    if global_clipnorm:
        norm = ops.sqrt(ops.sum(norms * norms))
        norm = norm + (norm - norm)  # one infinite gradient makes all of them NaN
        norms = ops.broadcast_to(norm, norms.shape)
    return bound / backends.maximum(norms, bound)


def is_positive(value) -> bool:
    """Whether `value` is known to be positive, in float32 too, when the program is written."""
    return isinstance(value, float) and value > 1e-30


def hashed(x):
    """32 well mixed bits for each int32 of a tensor."""
    for _ in range(2):
        x = (_upper(x) ^ x) * 0x45D9F3B
    return _upper(x) ^ x


def round_to_bfloat16(x, key, salt):
    """Float32 rounded at random to a neighbour that bfloat16 holds; see `_rounded`."""
    return backends.view(_rounded(x, key, salt, 16), "float32")


#: How many of a float32's bits go, so that 2 of its mantissa stay; and what is taken off the number
#: that is left, so that 2^-54 is 1.
_DROPPED, _LEAST = 21, ((127 - 54) << 2) - 1


def to_float8(x, key, salt):
    """Float32 >= 0 rounded at random to a byte, a float of its own, as an int32; see `_rounded`.

    There are 0, four numbers to each power of 2 from 2^-54 to 2^9, infinity and NaN. What lies
    between 0 and 2^-54 becomes 2^-54, so that nothing small seems to be nothing, and what lies
    between 2^9 and infinity becomes 2^9.
    """
    bits = ops.bitwise_right_shift(_rounded(x, key, salt, _DROPPED), _DROPPED)
    not_finite = ops.where(x == math.inf, 254, 255)
    code = ops.where(x < math.inf, ops.clip(bits - _LEAST, 1, 253), not_finite)
    return ops.where(x == 0.0, 0, code)


def widened(slot):
    """The float32 that a byte of `to_float8` stands for; state of another type as it is."""
    if keras.backend.standardize_dtype(slot.dtype) != "uint8":
        return slot
    code = ops.cast(slot, "int32")
    x = backends.view(ops.bitwise_left_shift(code + _LEAST, _DROPPED), "float32")
    not_finite = ops.where(code == 254, math.inf, math.nan)
    return ops.where(code == 0, 0.0, ops.where(code > 253, not_finite, x))


def _rounded(x, key, salt, dropped: int):
    """Float32's bits, the last of them 0, rounded up or down at random: right on average.

    The chance is the distance, so that the expectation is `x`. The random bits come from a hash of
    `x`, the float32 `key` of each element, and the int32 `salt` of the step: they don't depend on
    how variables are joined, cut or placed, and need no memory.
    """
    x, key = backends.view(x, "int32"), backends.view(key, "int32")
    noise = hashed((x ^ salt) + key * 0x3C6EF373) & 0xFFFF
    if dropped > 16:  # 16 random bits, and half of their last
        noise = noise * (1 << (dropped - 16)) + (1 << (dropped - 17))
    return (x + noise) & -(1 << dropped)


def _upper(x):
    return ops.bitwise_right_shift(x, 16) & 0xFFFF


def as_float(variable, given) -> float:
    """A variable's value as the Python float that it was given, or the shortest that equals it."""
    value = ops.convert_to_numpy(variable)[()]
    if isinstance(given, float) and value.dtype.type(given) == value:
        return given
    return float(str(value))
