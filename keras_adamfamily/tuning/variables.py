"""Hyperparameters as variables of a compiled step, so that trials that differ share a program."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from keras_adamfamily.base import FamilyOptimizer
from keras_adamfamily.schedules import Schedule

SCHEDULE = keras.optimizers.schedules.LearningRateSchedule


def with_variables(
    optimizer: FamilyOptimizer, names: Iterable[str], **changes: Any
) -> FamilyOptimizer:
    """A copy of an optimizer, not yet built, that holds the floats of these names in variables.

    A Python float is a constant of the compiled step: each value needs a program of its own, and
    misses the compilation cache. A learning rate that is a float is a variable anyway; what goes
    with it is `initial_learning_rate`, the lr_0 of decoupled decay, unless that is given. Of a
    schedule whose peak is known as `initial_learning_rate` the peak becomes one.

    Args:
        optimizer: An optimizer of the family.
        names: `"learning_rate"`, and what `make_tunable` accepts.
        **changes: Arguments of the optimizer that the copy is to have instead.

    Raises:
        ValueError: If the optimizer has no such float, or a change is not valid.

    Example:

    >>> import keras_adamfamily as kaf
    >>> from keras_adamfamily.tuning.variables import with_variables
    >>> optimizer = with_variables(kaf.AdamW(1e-3), ["learning_rate", "beta_1"])
    >>> optimizer.is_tunable("beta_1"), optimizer.is_tunable("beta_2")
    (True, False)
    """
    names, rate = set(names), optimizer._learning_rate
    peak = optimizer._given("initial_learning_rate")
    of_variable = "learning_rate" in names and isinstance(rate, SCHEDULE) and peak is not None
    if of_variable:
        changes = {"learning_rate": VariablePeak(rate, peak), **changes}
    if of_variable or ("learning_rate" in names and not optimizer._given_initial_learning_rate):
        names.add("initial_learning_rate")
    config = {**optimizer.get_config(), **changes}
    # Sorted, for the order is that of the state, and so part of the program.
    config["tunable"] = [*config["tunable"], *sorted(names - {"learning_rate"})]
    copy = type(optimizer).from_config(config)
    if of_variable:
        changes["learning_rate"].optimizer = copy
    return copy


@keras.saving.register_keras_serializable("keras_adamfamily")
class VariablePeak(SCHEDULE):
    """A schedule with the `initial_learning_rate` of its optimizer, a variable, as its peak.

    `lr_t = initial_learning_rate * eta_t`, `eta_t = schedule(t) / peak`. Of a schedule that is a
    multiple of its peak eta_t is the same schedule with the peak 1, so that the compiled step knows
    no peak. It is saved as the schedule that it stands for.

    Args:
        schedule: The schedule.
        peak: Its peak, a float > 0.
    """

    def __init__(self, schedule: SCHEDULE, peak: float):
        self.schedule, self.initial_learning_rate, self.optimizer = schedule, peak, None
        of_one = self._with_peak(1.0)
        self._eta = (lambda step: schedule(step) / peak) if of_one is None else of_one

    def __call__(self, step):
        return self.optimizer.initial_learning_rate * self._eta(step)

    def _with_peak(self, value: float) -> SCHEDULE | None:
        """The schedule with another peak, or `None` where it is more than a multiple of it."""
        config = self.schedule.get_config()
        if isinstance(self.schedule, Schedule):
            peak, others = "learning_rate", config.get("minimum_learning_rate")
        elif isinstance(self.schedule, keras.optimizers.schedules.CosineDecay):
            peak, others = "initial_learning_rate", config["warmup_target"]
        else:
            return None
        if others or config[peak] != self.initial_learning_rate:
            return None
        return type(self.schedule).from_config({**config, peak: value})

    def get_config(self) -> dict[str, Any]:
        now = self._with_peak(float(self.optimizer.initial_learning_rate))
        return {"schedule": keras.saving.serialize_keras_object(now or self.schedule)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SCHEDULE:
        return keras.saving.deserialize_keras_object(config["schedule"])


def share_program(model: keras.Model, names: Iterable[str]) -> keras.Model:
    """Makes the model's next `fit` find the program of a like trial in the compilation cache.

    The floats of these names go into variables of the optimizer. It helps on JAX, with
    `xla.use_compilation_cache`; on other backends, and with another kind of optimizer, the model
    stays as it is.

    Args:
        model: A compiled model that has not been trained; it is changed.
        names: What `with_variables` accepts.

    Returns:
        The model.
    """
    if keras.backend.backend() == "jax" and isinstance(model.optimizer, FamilyOptimizer):
        model.optimizer = with_variables(model.optimizer, names)
    return model
