"""Hyperparameters as variables of a compiled step, so that trials that differ share a program."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras
from keras.src.backend.common import global_state

from keras_adamfamily.base import FamilyOptimizer
from keras_adamfamily.schedules import TunablePeak, peak_of


def with_variables(
    optimizer: FamilyOptimizer, names: Iterable[str], **changes: Any
) -> FamilyOptimizer:
    """A copy of an optimizer, not yet built, that holds the floats of these names in variables.

    A Python float is a constant of the compiled step: each value needs a program of its own, and
    misses the compilation cache. A learning rate that is a float is a variable anyway; what goes
    with it is `initial_learning_rate`, the lr_0 of decoupled decay, unless that is given. Of a
    schedule the variable is the peak, where that is known: see `TunablePeak`.

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
    if isinstance(rate, TunablePeak):
        rate = rate.as_it_is()
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        peak = peak_of(rate) or optimizer._given("initial_learning_rate")
        is_new = not isinstance(rate, TunablePeak)
        if "learning_rate" in names and is_new and peak is not None:
            rate = TunablePeak(rate, peak)
        changes.setdefault("learning_rate", rate)
    if "learning_rate" in names and not optimizer._given_initial_learning_rate:
        names.add("initial_learning_rate")
    config = {**optimizer.get_config(), **changes}
    # Sorted, for the order is that of the state, and so part of the program.
    config["tunable"] = [*config["tunable"], *sorted(names - {"learning_rate"})]
    return type(optimizer).from_config(config)


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
        give(model, with_variables(model.optimizer, names))
    return model


def give(model: keras.Model, optimizer: FamilyOptimizer) -> None:
    """Puts another optimizer in a compiled model, also into what is saved with it."""
    model.optimizer = optimizer
    model._compile_config.config["optimizer"] = optimizer


@contextlib.contextmanager
def counting_names_anew() -> Iterator[None]:
    """Layers and metrics are named as in a new session: the first `AUC()` is `auc` each time."""
    attribute = "object_name_uids"
    counts = global_state.get_global_attribute(attribute)
    global_state.set_global_attribute(attribute, collections.defaultdict(int))
    try:
        yield
    finally:
        global_state.set_global_attribute(attribute, counts)
