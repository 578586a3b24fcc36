"""Learning-rate schedules with exact integer steps, for any Keras optimizer.

A schedule maps the step, counted from 0, to a learning rate. Each one here also has
`initial_learning_rate`, the rate that the multiplier eta_t = lr_t / lr_0 of decoupled weight decay
refers to: the peak, never a warm-up's first value.

With gradient accumulation Keras hands schedules the number of batches, not of updates.
"""

from __future__ import annotations

import math
import numbers
from fractions import Fraction
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_adamfamily import backends
from keras_adamfamily.numerics import as_float
from keras_adamfamily.validation import (
    POSITIVE,
    UNIT,
    Interval,
    check_float,
    check_integer,
)

_AT_LEAST_ONE = Interval(1.0)
_LAST_STEP = 2**31 - 1  # `iterations` is an int32 on JAX
_MAX_CYCLES = 2**16


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Base: integer steps in, at least float32 arithmetic whatever `floatx` is."""

    def __init__(self, learning_rate: float, name: str | None, minimum_learning_rate: float = 0.0):
        self.initial_learning_rate = check_float("learning_rate", learning_rate, POSITIVE)
        below_peak = Interval(0.0, self.initial_learning_rate)
        self.minimum_learning_rate = check_float(
            "minimum_learning_rate", minimum_learning_rate, below_peak
        )
        self.name = name or type(self).__name__

    def __call__(self, step):
        dtype = "float64" if keras.config.floatx() == "float64" else "float32"
        return self.value(ops.cast(step, "int32"), dtype)

    def value(self, step, dtype: str):
        """The learning rate at the integer tensor `step`, computed in `dtype`."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {"learning_rate": self.initial_learning_rate, "name": self.name}


def _cosine(high, low, progress):
    """From `high` at `progress` 0 to `low` at 1, along half a cosine."""
    share = 0.5 * (1.0 + backends.cos(math.pi * progress))
    return high * share + low * (1.0 - share)


@keras.saving.register_keras_serializable("keras_adamfamily")
class CosineWarmRestarts(Schedule):
    """Cosine annealing with warm restarts (SGDR, arXiv:1608.03983), exact at every restart.

    ```
    lr = minimum + (peak_i - minimum) / 2 * (1 + cos(pi * T_cur / T_i))
    T_i = round(first_cycle_steps * cycle_multiplier ** i)
    peak_i = max(learning_rate * peak_multiplier ** i, minimum)
    ```

    Cycle lengths are integers computed once in exact arithmetic, and the cycle of a step is found
    by comparing integers. (`keras.optimizers.schedules.CosineDecayRestarts` takes a float32
    logarithm instead and misses some restarts.) The best weights of a cycle are those at its end,
    just before the rate jumps back up.

    Args:
        learning_rate: Peak of the first cycle, a float > 0.
        first_cycle_steps: T_0, the length of the first cycle in steps (batches), an integer >= 1.
        cycle_multiplier: Growth of the cycle length at each restart, a float >= 1, 2 by default.
            After 65,536 cycles the length stays what it is.
        peak_multiplier: Decay of the peak at each restart, a float in [0, 1], 1 by default.
        minimum_learning_rate: The floor, a float in [0, learning_rate], 0 by default.
        name: Optional name.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> import keras_adamfamily as kaf
    >>> restarts = kaf.CosineWarmRestarts(0.1, first_cycle_steps=10, cycle_multiplier=2)
    >>> [round(float(restarts(step)), 4) for step in (0, 5, 10, 20, 30)]
    [0.1, 0.05, 0.1, 0.05, 0.1]
    """

    def __init__(
        self,
        learning_rate: float,
        first_cycle_steps: int,
        cycle_multiplier: float = 2.0,
        peak_multiplier: float = 1.0,
        minimum_learning_rate: float = 0.0,
        name: str | None = None,
    ):
        super().__init__(learning_rate, name, minimum_learning_rate)
        self.first_cycle_steps = check_integer("first_cycle_steps", first_cycle_steps, 1)
        self.cycle_multiplier = check_float("cycle_multiplier", cycle_multiplier, _AT_LEAST_ONE)
        self.peak_multiplier = check_float("peak_multiplier", peak_multiplier, UNIT)
        cycles = _cycles(self.first_cycle_steps, self.cycle_multiplier)
        # PyTorch would take a list to pieces at each step.
        self._starts, self._lengths = (np.array(of_cycles, "int32") for of_cycles in cycles)

    def locate(self, step):
        """The cycle that `step` lies in, as int32 tensors: its index, its length in steps, and the
        steps since its restart."""
        step = ops.cast(step, "int32")
        listed = len(self._starts)
        passed = ops.expand_dims(step, -1) >= ops.convert_to_tensor(self._starts[1:])
        index = ops.sum(ops.cast(passed, "int32"), axis=-1)
        start = ops.take(ops.convert_to_tensor(self._starts), index)
        length = ops.take(ops.convert_to_tensor(self._lengths), index)
        beyond = (step - start) // length  # only the last listed cycle repeats
        repeats = ops.where(index == listed - 1, beyond, ops.zeros_like(beyond))
        return index + repeats, length, step - start - repeats * length

    def cycle_steps(self, step):
        """T_i in steps: the length of the cycle that `step` lies in, an int32 scalar tensor."""
        return self.locate(step)[1]

    def value(self, step, dtype):
        index, length, since = self.locate(step)
        index, length, since = (ops.cast(x, dtype) for x in (index, length, since))
        peak = self.initial_learning_rate
        if self.peak_multiplier != 1.0:
            peak = peak * ops.power(ops.convert_to_tensor(self.peak_multiplier, dtype), index)
            floor = ops.convert_to_tensor(self.minimum_learning_rate, dtype)
            peak = backends.maximum(peak, floor)
        return _cosine(peak, self.minimum_learning_rate, since / length)

    def get_config(self):
        return {
            **super().get_config(),
            "first_cycle_steps": self.first_cycle_steps,
            "cycle_multiplier": self.cycle_multiplier,
            "peak_multiplier": self.peak_multiplier,
            "minimum_learning_rate": self.minimum_learning_rate,
        }


def _cycles(first: int, multiplier: float) -> tuple[list[int], list[int]]:
    """Starts and lengths of the cycles that fit into int32 steps, in exact rational arithmetic."""
    starts, lengths = [0], [min(first, _LAST_STEP)]
    exact = Fraction(first)
    while multiplier > 1.0 and len(starts) < _MAX_CYCLES:
        start = starts[-1] + lengths[-1]
        if start >= _LAST_STEP:
            break
        # 128 bits keep the product exact enough to round, and its cost constant.
        exact = (exact * Fraction(multiplier)).limit_denominator(2**64)
        starts.append(start)
        lengths.append(min(round(exact), _LAST_STEP - start))
    return starts, lengths


@keras.saving.register_keras_serializable("keras_adamfamily")
class WarmupCosine(Schedule):
    """A linear warm-up, then one half cosine down to the floor, where the rate stays.

    ```
    lr = learning_rate * (step + 1) / warmup_steps                      step < warmup_steps
    lr = minimum + (learning_rate - minimum) / 2 * (1 + cos(pi * p))    until total_steps
    p = (step - warmup_steps) / (total_steps - warmup_steps)
    ```

    The first step already moves (its rate is `learning_rate / warmup_steps`, not 0).

    Args:
        learning_rate: The peak, a float > 0.
        total_steps: The length of training in steps (batches), an integer >= 1.
        warmup_steps: The length of the warm-up, an integer in [0, total_steps), 0 by default.
        minimum_learning_rate: The floor, a float in [0, learning_rate], 0 by default.
        name: Optional name.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> import keras_adamfamily as kaf
    >>> schedule = kaf.WarmupCosine(0.1, total_steps=14, warmup_steps=4)
    >>> [round(float(schedule(step)), 4) for step in (0, 3, 4, 9, 14)]
    [0.025, 0.1, 0.1, 0.05, 0.0]
    """

    def __init__(
        self,
        learning_rate: float,
        total_steps: int,
        warmup_steps: int = 0,
        minimum_learning_rate: float = 0.0,
        name: str | None = None,
    ):
        super().__init__(learning_rate, name, minimum_learning_rate)
        self.total_steps = check_integer("total_steps", total_steps, 1)
        self.warmup_steps = check_integer("warmup_steps", warmup_steps, 0)
        if self.warmup_steps >= self.total_steps:
            raise ValueError(
                "`warmup_steps` must be below `total_steps`. "
                f"Received: warmup_steps={warmup_steps}, total_steps={total_steps}"
            )

    def value(self, step, dtype):
        peak, start = self.initial_learning_rate, min(self.warmup_steps, _LAST_STEP)
        after = ops.cast(step - start, dtype)
        progress = ops.clip(after / float(self.total_steps - self.warmup_steps), 0.0, 1.0)
        annealed = _cosine(peak, self.minimum_learning_rate, progress)
        if self.warmup_steps == 0:
            return annealed
        warming = peak * ops.cast(step + 1, dtype) / float(self.warmup_steps)
        return ops.where(step < start, warming, annealed)

    def get_config(self):
        return {
            **super().get_config(),
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "minimum_learning_rate": self.minimum_learning_rate,
        }


@keras.saving.register_keras_serializable("keras_adamfamily")
class InverseSqrt(Schedule):
    """`alpha / sqrt(t)` with t = step + 1: the rate that the regret bounds are proved for.

    Args:
        learning_rate: alpha, a float > 0.
        name: Optional name.

    Raises:
        ValueError: If `learning_rate` is not a positive number.

    Example:

    >>> import keras_adamfamily as kaf
    >>> round(float(kaf.InverseSqrt(0.5)(24)), 4)
    0.1
    """

    def value(self, step, dtype):
        return self.initial_learning_rate * ops.rsqrt(ops.cast(step, dtype) + 1.0)

    def __init__(self, learning_rate: float, name: str | None = None):
        super().__init__(learning_rate, name)


def peak_of(schedule: Any) -> float | None:
    """The peak that a schedule names, a float > 0, or `None`: what eta_t refers to."""
    named = (getattr(schedule, name, None) for name in ("warmup_target", "initial_learning_rate"))
    return next((float(x) for x in named if isinstance(x, numbers.Real) and x > 0), None)


@keras.saving.register_keras_serializable("keras_adamfamily")
class TunablePeak(Schedule):
    """A schedule whose peak an optimizer of this family holds in a variable, once it is built.

    ```
    lr = peak_now * eta_t,    eta_t = schedule(t) / peak
    ```

    Trials of a search that differ in the peak alone have one program: of a schedule known to be a
    multiple of its peak, eta_t is the same schedule with the peak 1.

    Args:
        schedule: A `LearningRateSchedule`.
        peak: Its peak, a float > 0.
        peak_now: What takes its place, a float >= 0; `peak` by default.
    """

    def __init__(
        self,
        schedule: keras.optimizers.schedules.LearningRateSchedule,
        peak: float,
        peak_now: float | None = None,
    ):
        super().__init__(peak, None)
        self.schedule, self.peak_now = schedule, peak if peak_now is None else peak_now
        self._of_one = self._with_peak(1.0)

    def _with_peak(self, peak: float) -> keras.optimizers.schedules.LearningRateSchedule | None:
        """The schedule with another peak, or `None` where it may be more than a multiple of it."""
        kind, config = type(self.schedule), self.schedule.get_config()
        if kind in (CosineWarmRestarts, WarmupCosine, InverseSqrt):
            name, others = "learning_rate", config.get("minimum_learning_rate")
        elif kind is keras.optimizers.schedules.CosineDecay:
            name, others = "initial_learning_rate", config["warmup_target"]
        else:
            return None
        return None if others else kind.from_config({**config, name: peak})

    def value(self, step, dtype):
        peak = ops.convert_to_tensor(self.peak_now, dtype)
        if self._of_one is not None:
            return peak * rate_at(self._of_one, step, dtype)
        return peak * rate_at(self.schedule, step, dtype) / self.initial_learning_rate

    def as_it_is(self) -> keras.optimizers.schedules.LearningRateSchedule:
        """The schedule with the peak of now, in Python floats."""
        now = as_float(self.peak_now, self.initial_learning_rate)
        if now == self.initial_learning_rate:
            return self.schedule
        with_peak = self._with_peak(now) if now > 0.0 else None
        return with_peak or TunablePeak(self.schedule, self.initial_learning_rate, now)

    def get_config(self):
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "peak": self.initial_learning_rate,
            "peak_now": as_float(self.peak_now, self.initial_learning_rate),
        }

    @classmethod
    def from_config(cls, config):
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(**{**config, "schedule": schedule})


def rate_at(schedule: keras.optimizers.schedules.LearningRateSchedule, step, dtype: str):
    """A schedule's learning rate at an integer tensor, where it can be computed in `dtype`."""
    if type(schedule).__call__ is Schedule.__call__:
        return schedule.value(ops.cast(step, "int32"), dtype)
    return backends.cast(schedule(step), dtype)
