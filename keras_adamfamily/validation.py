"""What a valid argument is, and the one sentence that says why a value is not.

Every check raises before any training starts, and its message names the argument, the accepted
range and the value received.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any


@dataclasses.dataclass(frozen=True)
class Interval:
    """An interval of the real line; `str()` of it is the usual notation, `[0, 1)`."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        left = "(" if self.open_low or self.low == -math.inf else "["
        right = ")" if self.open_high or self.high == math.inf else "]"
        return f"{left}{self.low:g}, {self.high:g}{right}"


UNIT = Interval(0.0, 1.0)
BETA = Interval(0.0, 1.0, open_high=True)
POSITIVE = Interval(0.0, open_low=True)
NON_NEGATIVE = Interval(0.0)


def check_float(name: str, value: Any, interval: Interval, otherwise: str = "") -> float:
    """Returns `value` as a float, or raises a `ValueError` that names argument, range and value.

    Python and NumPy real numbers are accepted; booleans, strings, tensors and NaN are not.
    `otherwise` completes the sentence when something else than a float is accepted as well.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        number = float(value) if is_number else math.nan
    except OverflowError:  # an integer larger than any float
        number = math.inf
    if number not in interval:
        raise ValueError(
            f"`{name}` must be a float between {interval}.{otherwise} Received: {name}={value!r}"
        )
    return number


def check_integer(name: str, value: Any, minimum: int, otherwise: str = "") -> int:
    """Returns `value` as an int of at least `minimum`, or raises a `ValueError` saying why not."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or value < minimum:
        raise ValueError(
            f"`{name}` must be an integer >= {minimum}.{otherwise} Received: {name}={value!r}"
        )
    return int(value)


def check_choice(name: str, value: Any, choices: tuple, otherwise: str = "") -> Any:
    """Returns `value` if it is one of `choices` (`True` is not 1), else raises a `ValueError`."""
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return value
    listed = ", ".join(repr(choice) for choice in choices)
    raise ValueError(f"`{name}` must be one of {listed}.{otherwise} Received: {name}={value!r}")


def optional(check, name: str, value: Any, limit: Any, none: str = "switches it off") -> Any:
    """Applies `check` unless `value` is `None`, of which messages say what it does."""
    if value is None:
        return None
    return check(name, value, limit, f" `None` {none}.")
