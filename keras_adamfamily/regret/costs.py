"""Cost sequences f_1, f_2, ..., and for each the best fixed point in hindsight.

A sequence hands out the data of its rounds, as much at a time as is asked for: the slopes of linear
costs, the round's number for any other. The same rounds always get the same data.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_adamfamily.regret import loops
from keras_adamfamily.validation import Interval, check_float, check_integer


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """Linear costs `f_t(x) = slopes[t - 1] . x`, which start over when they are used up.

    Args:
        slopes: An array of n finite numbers for a scalar x, or of shape (n, *shape of x).

    Raises:
        ValueError: If `slopes` is empty or not of finite numbers.

    Example:

    >>> from keras_adamfamily import regret
    >>> costs = regret.Linear([3.0, -1.0, -1.0])
    >>> costs.rows(first=4, count=2)
    array([ 3., -1.])
    """

    slopes: Any

    def __post_init__(self):
        object.__setattr__(self, "slopes", finite("slopes", self.slopes))

    def __repr__(self):
        return f"Linear({_short(self.slopes)})"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of x."""
        return self.slopes.shape[1:]

    def rows(self, first: int, count: int) -> np.ndarray:
        """The slopes of `count` rounds from round `first` on (the first of all is 1)."""
        return self.slopes[(first - 1 + np.arange(count)) % len(self.slopes)]

    def native(self, rows: np.ndarray, dtype: str) -> np.ndarray:
        """The rows as the compiled loop takes them: in the dtype of x."""
        return rows.astype(dtype)

    def check(self, x) -> None:
        """Linear costs are defined at every point of their shape."""

    def gradient(self, x, row):
        return row

    def paid(self, points: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The cost of each round's point."""
        products = points.astype("float64") * rows
        return products.reshape(len(products), -1).sum(axis=1)

    def hindsight(self, box, dtype) -> LinearHindsight:
        return LinearHindsight(box)


class LinearHindsight:
    """The best fixed point for linear costs: the corner of the box against the summed slopes."""

    def __init__(self, box):
        self.box, self.total = box, np.zeros(box.low.shape)

    def see(self, rows) -> None:
        self.total = self.total + rows.sum(axis=0)

    def best(self) -> tuple[np.ndarray, float]:
        """The point and its cost over all rounds seen, exactly."""
        point = np.where(self.total > 0, self.box.low, self.box.high)
        return point, float(np.sum(self.total * point))


def periodic(rare: float, usual: float, period: int) -> Linear:
    """Linear costs of a scalar x: slope `rare` where `t mod period = 1`, `usual` elsewhere.

    Args:
        rare: A finite number, such as C.
        usual: A finite number, such as -1.
        period: An integer >= 2.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> from keras_adamfamily import regret
    >>> regret.periodic(1010, -10, period=101).rows(first=101, count=2)
    array([ -10., 1010.])
    """
    period = check_integer("period", period, 2)
    rare, usual = check_float("rare", rare, Interval()), check_float("usual", usual, Interval())
    return Linear([rare] + [usual] * (period - 1))


@dataclasses.dataclass(frozen=True, eq=False)
class Stochastic(Linear):
    """Linear costs whose slopes are drawn independently, the same for the same seed.

    Args:
        slopes: The slopes to draw from: an array of n finite numbers for a scalar x, or of shape
            (n, *shape of x).
        probabilities: A float in [0, 1] for each of them; their sum is 1.
        seed: An integer >= 0.

    Raises:
        ValueError: If an argument is out of range, or there is not one probability per slope.

    Example:

    >>> from keras_adamfamily import regret
    >>> costs = regret.Stochastic([1010, -10], probabilities=[0.01, 0.99], seed=0)
    >>> round(float((costs.rows(first=1, count=100_000) == 1010).mean()), 2)
    0.01
    """

    probabilities: Sequence[float]
    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        probabilities = finite("probabilities", self.probabilities)
        right = probabilities.shape == (len(self.slopes),) and np.all(probabilities >= 0)
        if not right or not math.isclose(probabilities.sum(), 1.0, abs_tol=1e-9):
            raise ValueError(
                "`probabilities` must be one float in [0, 1] for each slope, with the sum 1. "
                f"Received: probabilities={self.probabilities!r} for {len(self.slopes)} slopes"
            )
        object.__setattr__(self, "probabilities", probabilities)
        check_integer("seed", self.seed, 0)

    def __repr__(self):
        parts = _short(self.slopes), _short(self.probabilities)
        return f"Stochastic({parts[0]}, {parts[1]}, seed={self.seed})"

    def rows(self, first, count):
        stream = np.random.PCG64(self.seed).advance(first - 1)  # one state for each double
        draws = np.random.Generator(stream).random(count)
        bounds = np.cumsum(self.probabilities)[:-1]
        return self.slopes[np.searchsorted(bounds, draws, side="right")]


@dataclasses.dataclass(frozen=True, eq=False)
class Convex:
    """Costs given by a function `cost(x, t)`, which the backend differentiates.

    The best fixed point is the one given as `comparator`; or, for a scalar x, it is searched for at
    every checkpoint by golden sections of the box, down to 1e-9 of its width. The search pays all
    rounds so far at some 45 points, in one vectorized call for each 65,536 rounds.

    Args:
        cost: A function of the point x and the round t = 1, 2, ..., written in `keras.ops`, without
            a Python branch on either; it returns a scalar. Convex in x. As t is an int32 scalar,
            exact and fit to take from a table by, `ops.cast(t, x.dtype)` comes before arithmetic
            with x, which TensorFlow refuses otherwise.
        comparator: A point of the box to measure the regret against, or `None`.

    Raises:
        ValueError: If `cost` is not callable or `comparator` not finite; when it is played, if a
            cost is not a finite scalar.

    Example:

    >>> from keras import ops
    >>> from keras_adamfamily import regret
    >>> costs = regret.Convex(lambda x, t: ops.square(x - ops.cast(t % 2, x.dtype)))
    """

    cost: Callable[[Any, Any], Any]
    comparator: Any = None

    shape = None

    def __post_init__(self):
        if not callable(self.cost):
            raise ValueError(f"`cost` must be a function of x and t. Received: cost={self.cost!r}")
        if self.comparator is not None:
            comparator = finite("comparator", self.comparator, axes=0)
            object.__setattr__(self, "comparator", comparator)
        object.__setattr__(self, "gradient", loops.gradient(self._cost))
        object.__setattr__(self, "_paid", loops.vectorized(self._cost))

    def _cost(self, x, t):
        """The cost in x's dtype, also where it is a Python number or an integer."""
        return keras.ops.cast(self.cost(x, t), x.dtype)

    def __repr__(self):
        return f"Convex({getattr(self.cost, '__name__', self.cost)})"

    def rows(self, first: int, count: int) -> np.ndarray:
        """The numbers of `count` rounds from round `first` on."""
        return np.arange(first, first + count, dtype="int32")

    def native(self, rows: np.ndarray, dtype: str) -> np.ndarray:
        """The rows as the compiled loop takes them: as they are."""
        return rows

    def check(self, x) -> None:
        """Raises a `ValueError` unless the first round's cost at `x` is a finite scalar."""
        value = keras.ops.convert_to_numpy(self.cost(x, keras.ops.convert_to_tensor(1, "int32")))
        if value.shape != () or not np.isfinite(value):
            raise ValueError(f"`cost(x, t)` must be a finite scalar. Received: {value!r} for t=1")

    def paid(self, points: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The cost of each round's point."""
        paid = np.asarray(self._paid(points, rows), "float64")
        lost = np.flatnonzero(~np.isfinite(paid))
        if len(lost):
            first = lost[0]
            raise ValueError(
                "`cost(x, t)` must be finite wherever it is played, and its gradient too. "
                f"Received: {paid[first]} for x={points[first].tolist()}, t={rows[first]}"
            )
        return paid

    def hindsight(self, box, dtype) -> ConvexHindsight:
        return ConvexHindsight(self, box, dtype)


class ConvexHindsight:
    """The best fixed point for any convex costs: the comparator, or a search in one dimension."""

    def __init__(self, costs, box, dtype):
        self.costs, self.box, self.dtype = costs, box, dtype
        self.rounds, self.total = 0, 0.0
        self.given = costs.comparator
        if self.given is None:
            if box.low.shape != ():
                raise ValueError(
                    "`comparator` must be given for costs of several dimensions: "
                    "the best fixed point is only searched for in one."
                )
        elif self.given.shape != box.low.shape or self.given not in box:
            raise ValueError(
                f"`comparator` must be a point of the box {box}. Received: {self.given.tolist()}"
            )

    def see(self, rows) -> None:
        self.rounds += len(rows)
        if self.given is not None:
            self.total += self._cost(self.given, rows)

    def best(self) -> tuple[np.ndarray, float]:
        """The point and its cost over all rounds seen."""
        if self.given is not None:
            return self.given, self.total
        point = _golden_section(self._cost_so_far, float(self.box.low), float(self.box.high))
        return np.float64(point), self._cost_so_far(point)

    def _cost_so_far(self, point) -> float:
        starts = range(1, self.rounds + 1, loops.CAPACITY)
        sizes = (min(loops.CAPACITY, self.rounds + 1 - first) for first in starts)
        blocks = (self.costs.rows(*block) for block in zip(starts, sizes, strict=True))
        return sum(self._cost(point, rows) for rows in blocks)

    def _cost(self, point, rows) -> float:
        points = np.broadcast_to(point, (len(rows), *np.shape(point))).astype(self.dtype)
        return float(self.costs.paid(points, rows).sum())


def _golden_section(function, low: float, high: float) -> float:
    """The minimum of a convex function on an interval, to 1e-9 of its width, ends included."""
    ratio = (math.sqrt(5) - 1) / 2
    a, b = low, high
    left, right = b - ratio * (b - a), a + ratio * (b - a)
    at_left, at_right = function(left), function(right)
    while b - a > 1e-9 * (high - low):
        if at_left <= at_right:
            b, right, at_right = right, left, at_left
            left = b - ratio * (b - a)
            at_left = function(left)
        else:
            a, left, at_left = left, right, at_right
            right = a + ratio * (b - a)
            at_right = function(right)
    return min((low, (a + b) / 2, high), key=function)


def as_costs(value: Any) -> Linear | Stochastic | Convex:
    """A cost sequence from itself, an array of slopes, or a function of x and t."""
    if isinstance(value, Linear | Convex):
        return value
    return Convex(value) if callable(value) else Linear(value)


def finite(name: str, value: Any, axes: int = 1) -> np.ndarray:
    """A float64 array of at least `axes` axes, not empty; or a `ValueError` saying why not."""
    try:
        array = np.array(value, "float64")
    except (TypeError, ValueError):
        array = np.array(np.nan)
    if array.ndim < axes or array.size == 0 or not np.all(np.isfinite(array)):
        what = "an array of finite numbers" if axes else "a finite number or an array of such"
        raise ValueError(f"`{name}` must be {what}. Received: {name}={value!r:.80}")
    return array


def _short(array: np.ndarray) -> str:
    """An array of a few numbers in full, a longer one by its first."""
    return np.array2string(array, threshold=4, edgeitems=2, separator=", ").replace("\n", "")
