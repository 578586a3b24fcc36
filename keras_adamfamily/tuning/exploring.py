"""The hyperparameters that `build_model(hp)` asks for at some values of others alone.

KerasTuner's guides write `for i in range(hp.Int("layers", 1, 3)): hp.Int(f"units_{i}", ...)` and
`if hp.Boolean("dropout"): hp.Float("rate", ...)`. KerasTuner meets these once a trial happens to
get there. Met before the first trial, they are searched from the start, and the list of trials does
not depend on who has met what.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import keras_tuner

from keras_adamfamily.tuning.hypermodel import OptimizerHyperModel

MOST_BUILDS = 32  # models that are built to find out
MOST_VALUES = 16  # of an integer that may count layers; one with more of them is a size


def explore(hypermodel: keras_tuner.HyperModel, oracle: keras_tuner.Oracle) -> None:
    """Adds to the oracle's space what models at other values than the defaults ask for.

    What has been met together is moved through all combinations of its values, if these are few,
    else through its values at the same time; what is met at some of these is moved in turn, with
    those values kept. A model that cannot be built there is passed over: a trial that gets there
    fails, and says why. An oracle is shown a hypermodel once.
    """
    asks = getattr(hypermodel, "takes_hyperparameters", True)
    shown = vars(oracle).get("_shown") is hypermodel
    if not asks or shown or not (oracle.allow_new_entries and oracle.tune_new_entries):
        return
    oracle._shown = hypermodel
    own = {hp.name for hp in _space_of(hypermodel)}

    def meet(values):
        """What a model at these values asks for beside what is known."""
        hps = oracle.get_space()
        known = {hp.name for hp in hps.space}
        hps.values = {**hps.values, **values}
        hps.ensure_active_values()
        with contextlib.suppress(Exception):
            hypermodel.build(hps)
        oracle.update_space(hps)
        return [hp for hp in hps.space if hp.name not in known]

    meet({})
    waiting = [({}, [hp for hp in oracle.get_space().space if hp.name not in own])]
    builds = 0
    while waiting:
        given, together = waiting.pop(0)
        moved = {hp.name: values for hp in together if (values := _values(hp))}
        for place in _places([*moved.values()]):
            builds += 1
            if builds > MOST_BUILDS:
                warnings.warn(
                    f"`build_model(hp)` was built at {MOST_BUILDS} of its values before the search,"
                    " not all. What it asks for at others alone keeps its default: ask for it in "
                    "any case, so that it is searched",
                    stacklevel=2,
                )
                return
            there = {**given, **dict(zip(moved, place, strict=True))}
            if new := meet(there):
                waiting.append((there, new))


def _space_of(hypermodel: Any) -> list[Any]:
    """The hyperparameters of the optimizers, on which no model depends."""
    hps = keras_tuner.HyperParameters()
    if isinstance(hypermodel, OptimizerHyperModel):
        hypermodel.space.sample(hps)
    return hps.space


def _places(values: Sequence[Sequence[Any]]) -> Iterable[tuple[Any, ...]]:
    """All combinations, if they are few; else each value of each, and all of the last ones."""
    if not values:
        return []
    if math.prod(map(len, values)) <= MOST_BUILDS:
        return itertools.product(*values)
    numbers = range(max(map(len, values)))
    at_once = [tuple(own[number % len(own)] for own in values) for number in numbers]
    return [tuple(own[-1] for own in values), *at_once]


def _values(hp: Any) -> list[Any]:
    """The values at which a model may differ in what it asks for."""
    kinds = keras_tuner.engine.hyperparameters
    if isinstance(hp, kinds.Boolean):
        return [False, True]
    if isinstance(hp, kinds.Choice):
        return list(hp.values)
    if isinstance(hp, kinds.Float):
        return [hp.min_value, hp.max_value]
    if isinstance(hp, kinds.Int):
        values = range(hp.min_value, hp.max_value + 1, hp.step or 1)
        if hp.sampling != "linear" and hp.step not in (None, 1):  # the step is a factor
            factors = (hp.step**power for power in itertools.count())
            values = (hp.min_value * factor for factor in factors)
            values = list(itertools.takewhile(lambda value: value <= hp.max_value, values))
        return list(values) if len(values) <= MOST_VALUES else []
    return []
