"""Which lanes of a population go on: one that has diverged stops, and early stopping if asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

EARLY = "early stopping"


class Stopping:
    """The state of `keras.callbacks.EarlyStopping` for many lanes at once, told once per epoch.

    A lane whose `"loss"`, `"val_loss"` or monitored value is not finite stops too.

    Attributes:
        epochs: How many epochs each lane has trained.
        reasons: `None` for a lane that goes on, or why it stopped: `EARLY`, or
            `"loss, val_loss not finite"`.

    Args:
        lanes: How many there are.
        rule: A `keras.callbacks.EarlyStopping`, or `None`. It is only read.
        model: The model that trains, with its metrics built: they say which way is better.
    """

    def __init__(self, lanes: int, rule: Any, model: keras.Model):
        self.epochs = np.zeros(lanes, "int64")
        self.reasons = np.full(lanes, None, object)
        self._best = np.full(lanes, np.nan)
        self._waited = np.zeros(lanes, "int64")
        self._rule = rule
        self._watched = ["loss", "val_loss"]
        if rule is not None:
            self._watched = list(dict.fromkeys([*self._watched, rule.monitor]))
            self._sign = _direction(rule, model)

    def keep(self, lanes: np.ndarray) -> None:
        """Goes on with these lanes, in this order."""
        for name in ("epochs", "reasons", "_best", "_waited"):
            setattr(self, name, getattr(self, name)[lanes])

    @property
    def running(self) -> np.ndarray:
        """The numbers of the lanes that go on."""
        return np.flatnonzero(self.reasons == None)  # noqa: E711, elementwise

    def check(self, logs: Mapping[str, Any]) -> None:
        """Raises `ValueError` if early stopping monitors something that `logs` lacks."""
        if self._rule is not None and self._rule.monitor not in logs:
            raise ValueError(
                f"`early_stopping` must monitor one of {', '.join(logs)}. "
                f"Received: monitor={self._rule.monitor!r}"
            )

    def update(self, lanes: np.ndarray, logs: Mapping[str, np.ndarray]) -> None:
        """An epoch of these lanes has ended with these values, evaluated ones where there are."""
        self.epochs[lanes] += 1
        if self._rule is not None and self._rule.monitor in logs:
            self._count(lanes, np.asarray(logs[self._rule.monitor], "float64"))
        finite = {name: np.isfinite(logs[name]) for name in self._watched if name in logs}
        for i, lane in enumerate(lanes):
            wrong = [name for name, of_lanes in finite.items() if not of_lanes[i]]
            if wrong:
                self.reasons[lane] = f"{', '.join(wrong)} not finite"

    def _count(self, lanes, values) -> None:
        rule, best = self._rule, self._best[lanes]
        counted = self.epochs[lanes] > rule.start_from_epoch
        better = counted & (self._improves(values, best) | np.isnan(best))
        enough = rule.baseline is None or self._improves(values, rule.baseline)
        self._best[lanes] = np.where(better, values, best)
        self._waited[lanes] = np.where(better & enough, 0, self._waited[lanes] + counted)
        impatient = self._waited[lanes] >= rule.patience
        stops = counted & ~better & impatient
        self.reasons[lanes[stops]] = EARLY

    def _improves(self, values, reference):
        """In the precision that Keras compares in."""
        precision = "float64" if keras.config.floatx() == "float64" else "float32"
        values = self._sign * values - abs(self._rule.min_delta)
        return np.asarray(values, precision) > np.asarray(self._sign * reference, precision)


def check_early_stopping(rule: Any) -> Any:
    """Returns `rule` if a population can do what it says.

    Raises:
        ValueError: If it is something else than `keras.callbacks.EarlyStopping` or `None`, or is to
            restore the best weights.
    """
    if rule is None:
        return None
    if type(rule) is not keras.callbacks.EarlyStopping:
        raise ValueError(
            f"`early_stopping` must be a keras.callbacks.EarlyStopping or None. Received: {rule!r}"
        )
    if rule.restore_best_weights:
        raise ValueError(
            "`early_stopping` must have restore_best_weights=False: a population keeps each "
            "lane's last weights alone"
        )
    return rule


def _direction(rule, model) -> int:
    """1 if larger is better, -1 if smaller is, as `rule` decides for this model."""
    asked = keras.callbacks.EarlyStopping(monitor=rule.monitor, mode=rule.mode)
    asked.set_model(model)
    try:
        asked._set_monitor_op()
    except ValueError as error:
        raise ValueError(f"`early_stopping` is not valid. {error}") from None
    return 1 if asked.monitor_op is keras.ops.greater else -1
