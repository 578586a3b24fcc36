"""Hyperparameters as variables of a compiled step, so that trials that differ share a program."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keras_adamfamily.base import FamilyOptimizer


def with_variables(
    optimizer: FamilyOptimizer, names: Iterable[str], **changes: Any
) -> FamilyOptimizer:
    """A copy of an optimizer, not yet built, that holds the floats of these names in variables.

    A Python float is a constant of the compiled step: each value needs a program of its own, and
    misses the compilation cache. A learning rate that is a float is a variable anyway; what goes
    with it is `initial_learning_rate`, the lr_0 of decoupled decay, unless that is given.

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
    names = set(names)
    if "learning_rate" in names and not optimizer._given_initial_learning_rate:
        names.add("initial_learning_rate")
    config = {**optimizer.get_config(), **changes}
    # Sorted, for the order is that of the state, and so part of the program.
    config["tunable"] = [*config["tunable"], *sorted(names - {"learning_rate"})]
    return type(optimizer).from_config(config)
