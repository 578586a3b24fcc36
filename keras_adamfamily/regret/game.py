"""The game: an optimizer plays the rounds of a cost sequence, and NumPy keeps the books."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_adamfamily.regret import loops
from keras_adamfamily.regret.costs import as_costs, finite
from keras_adamfamily.validation import check_choice, check_integer

_MOST_ROUNDS = 2**31 - 1  # `iterations` is an int32 on JAX


@keras.saving.register_keras_serializable("keras_adamfamily")
class Box(keras.constraints.Constraint):
    """The box that points are projected onto: a constraint of a `keras.Variable`.

    Args:
        low: A finite number, or an array of the variable's shape.
        high: As `low`, above it everywhere.

    Raises:
        ValueError: If a bound is not finite, or `low` is not below `high` everywhere.

    Example:

    >>> import keras
    >>> from keras_adamfamily import regret
    >>> x = keras.Variable(0.0)
    >>> x.constraint = regret.Box(-1.0, 1.0)
    >>> keras.optimizers.SGD(1.0).apply([keras.ops.convert_to_tensor(-5.0)], [x])
    >>> keras.ops.convert_to_numpy(x).item()
    1.0
    """

    def __init__(self, low: Any = -1.0, high: Any = 1.0):
        try:
            self.low, self.high = np.broadcast_arrays(np.float64(low), np.float64(high))
        except (TypeError, ValueError):
            self.low = self.high = np.float64(np.nan)
        if not np.all((-np.inf < self.low) & (self.low < self.high) & (self.high < np.inf)):
            raise ValueError(
                "The bounds of a box must be finite numbers, the lower one below the upper one. "
                f"Received: low={low!r}, high={high!r}"
            )

    def __call__(self, w):
        dtype = keras.backend.standardize_dtype(w.dtype)
        bounds = (ops.convert_to_tensor(bound, dtype) for bound in (self.low, self.high))
        return ops.clip(w, *bounds)

    def __contains__(self, point: np.ndarray) -> bool:
        return bool(np.all((self.low <= point) & (point <= self.high)))

    def __str__(self):
        return f"[{self.low.tolist()}, {self.high.tolist()}]"

    def get_config(self):
        return {"low": self.low.tolist(), "high": self.high.tolist()}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Result:
    """How a game went, at its checkpoints; all arrays have one entry for each.

    Attributes:
        optimizer: The name of the optimizer's class.
        costs: What it played against.
        low: Lower bounds of the box, of the shape of x.
        high: Upper bounds.
        rounds: How many rounds were played, T.
        iterates: The point after these rounds, x_{T+1}.
        means: Mean of the points played since the checkpoint before: iterates oscillate in a cycle.
        minima: Their least, by coordinate.
        maxima: Their greatest.
        best: The best fixed point of rounds 1 to T.
        paid: What was paid in these rounds, summed in float64.
        regret: R_T: what was paid beyond the best fixed point.
    """

    optimizer: str
    costs: str
    low: np.ndarray
    high: np.ndarray
    rounds: np.ndarray
    iterates: np.ndarray
    means: np.ndarray
    minima: np.ndarray
    maxima: np.ndarray
    best: np.ndarray
    paid: np.ndarray
    regret: np.ndarray

    def __repr__(self):
        figures = f"R_T / T = {self.average_regret[-1]:.6g} after T = {self.rounds[-1]} rounds"
        return f"<{self.optimizer} on {self.costs}: {figures}>"

    @property
    def average_regret(self) -> np.ndarray:
        """R_T / T, which goes to 0 if the optimizer learns."""
        return self.regret / self.rounds

    @property
    def distance(self) -> np.ndarray:
        """How far `means` are from `best`: 0 is there, 1 the opposite side of the box."""
        share = np.abs(self.means - self.best) / (self.high - self.low)
        return share.reshape(len(share), -1).max(axis=1)

    def at(self, rounds: int) -> dict[str, Any]:
        """The row of one checkpoint: each array's entry by its name.

        Raises:
            ValueError: If there is no checkpoint after `rounds` rounds.
        """
        (index,) = np.nonzero(self.rounds == rounds)
        if not len(index):
            raise ValueError(
                f"`rounds` must be one of the {len(self.rounds)} checkpoints from {self.rounds[0]} "
                f"to {self.rounds[-1]}. Received: rounds={rounds!r}"
            )
        return {name: values[index[0]] for name, values in self._columns().items()}

    def to_dict(self) -> dict[str, Any]:
        """Names, bounds, and every array as a list."""
        columns = {name: values.tolist() for name, values in self._columns().items()}
        bounds = {"low": self.low.tolist(), "high": self.high.tolist()}
        return {"optimizer": self.optimizer, "costs": self.costs, **bounds, **columns}

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict())

    def _columns(self) -> dict[str, np.ndarray]:
        names = [field.name for field in dataclasses.fields(self)][4:]
        return {name: getattr(self, name) for name in (*names, "average_regret", "distance")}


def play(
    optimizer: keras.optimizers.Optimizer,
    costs: Any,
    rounds: int,
    *,
    start: Any = 0.0,
    bounds: tuple[Any, Any] = (-1.0, 1.0),
    dtype: str = "float64",
    checkpoints: str | Sequence[int] = "log",
) -> Result:
    """Lets an optimizer play against a cost sequence and measures its regret.

    Each round plays the point, pays, hands the gradient to the optimizer's own `apply`, and the
    variable's constraint projects the point back onto the box. On JAX and TensorFlow this is a
    loop compiled by XLA: a million rounds take less than a second. PyTorch has no such loop, and
    takes about half a millisecond for each. Costs are summed in float64 whatever the dtype, and
    memory does not grow with the number of rounds.

    Args:
        optimizer: Any Keras optimizer that is not built: it is built on the point, and keeps its
            last state.
        costs: `Linear`, `Stochastic` or `Convex`; or an array of slopes, or a function of x and t.
        rounds: How many rounds to play, an integer >= 1.
        start: x_1, a number or an array, in the box.
        bounds: The box's lower and upper bound, each a number or an array of the shape of `start`.
        dtype: `"float64"` or `"float32"`: what the point and the optimizer's arithmetic are in.
        checkpoints: After which rounds to take stock: `"log"`, 20 in each decade and its end;
            `"linear"`, 200 at equal distances; or round numbers. The last round always is one.

    Returns:
        A `Result`.

    Raises:
        ValueError: If an argument is out of range, or slopes, start and bounds differ in shape.

    Example:

    >>> import keras_adamfamily as kaf
    >>> from keras_adamfamily import regret
    >>> result = regret.play(kaf.SGD(0.1), regret.Linear([1.0]), rounds=40, start=1.0)
    >>> float(result.iterates[-1]), round(float(result.regret[-1]), 9)
    (-1.0, 21.0)
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer) or optimizer.built:
        raise ValueError(
            "`optimizer` must be a Keras optimizer that is not built yet, since its state has to "
            f"begin with the game. Received: optimizer={optimizer!r}"
        )
    costs = as_costs(costs)
    rounds = check_integer("rounds", rounds, 1)
    if rounds > _MOST_ROUNDS:
        raise ValueError(f"`rounds` must be at most {_MOST_ROUNDS}. Received: rounds={rounds}")
    dtype = check_choice("dtype", dtype, ("float64", "float32"))
    box, start = _box_and_start(bounds, start, costs.shape)
    stops = _checkpoints(checkpoints, rounds)
    books = _Books(costs.hindsight(box, dtype), costs)
    capacity = min(rounds, max(loops.CAPACITY // start.size, 1))
    with loops.precision(dtype):
        costs.check(ops.convert_to_tensor(start, dtype))
        x = keras.Variable(start, dtype=dtype, name="x")
        x.constraint = box  # `keras.Variable(constraint=...)` would ignore it
        optimizer.build([x])
        advance = loops.rounds(optimizer, x, costs.gradient, capacity)
        done = 0
        for stop in stops:
            while done < stop:
                rows = costs.rows(done + 1, min(capacity, stop - done))
                books.enter(advance(costs.native(rows, dtype)), rows)
                done += len(rows)
            books.take_stock(ops.convert_to_numpy(x))
    return Result(type(optimizer).__name__, repr(costs), box.low, box.high, stops, *books.columns())


class _Books:
    """What was paid and played, in float64, and the stock taken at checkpoints."""

    def __init__(self, hindsight, costs):
        self.hindsight, self.costs = hindsight, costs
        self.paid, self.stock = 0.0, []
        self.window = []

    def enter(self, points: np.ndarray, rows: np.ndarray) -> None:
        """Books the points played against some rows; a window is what is between checkpoints."""
        self.paid += float(self.costs.paid(points, rows).sum())
        self.hindsight.see(rows)
        points = points.astype("float64")
        self.window.append((len(points), points.sum(0), points.min(0), points.max(0)))

    def take_stock(self, x: np.ndarray) -> None:
        """Closes a window; `x` is the point that would be played next."""
        counts, sums, minima, maxima = zip(*self.window, strict=True)
        mean = np.sum(sums, axis=0) / sum(counts)
        point, cost = self.hindsight.best()
        minimum, maximum = np.min(minima, axis=0), np.max(maxima, axis=0)
        self.stock.append(
            (np.float64(x), mean, minimum, maximum, point, self.paid, self.paid - cost)
        )
        self.window = []

    def columns(self) -> list[np.ndarray]:
        return [np.array(column) for column in zip(*self.stock, strict=True)]


def _box_and_start(bounds, start, shape) -> tuple[Box, np.ndarray]:
    """The box in the shape of x, and x_1 in it; `shape` is that of the slopes, or `None`."""
    start = finite("start", start, axes=0)
    if shape is not None and start.shape != shape:
        raise ValueError(
            f"`start` must be of the shape of one round's slopes, {shape}. "
            f"Received: start of shape {start.shape}"
        )
    try:
        low, high = bounds
        low, high = (np.broadcast_to(np.float64(bound), start.shape) for bound in (low, high))
    except (TypeError, ValueError):
        raise ValueError(
            "`bounds` must be two numbers, or two arrays of the shape of `start`, "
            f"{start.shape}. Received: bounds={bounds!r}"
        ) from None
    box = Box(low, high)
    if start not in box:
        raise ValueError(f"`start` must be in the box {box}. Received: start={start.tolist()}")
    return box, start


def _checkpoints(given: Any, rounds: int) -> np.ndarray:
    """Rising round numbers, the last of them `rounds`."""
    if isinstance(given, str):
        if check_choice("checkpoints", given, ("log", "linear"), " Or rounds, in a list.") == "log":
            stops = 10 ** np.arange(0, math.log10(rounds), 1 / 20)
        else:
            stops = np.linspace(0, rounds, 201)[1:]
        stops = np.maximum(np.round(stops).astype("int64"), 1)
    else:
        try:
            stops = np.array([check_integer("checkpoints", stop, 1) for stop in given], "int64")
        except TypeError:
            raise ValueError(
                "`checkpoints` must be 'log', 'linear' or a list of integers. "
                f"Received: checkpoints={given!r}"
            ) from None
    if stops.max(initial=0) > rounds:
        raise ValueError(
            f"`checkpoints` must be rounds up to the last, {rounds}. Received: {stops.max()}"
        )
    return np.unique(np.append(stops, rounds))
