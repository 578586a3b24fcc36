"""Trials that are trained together: one program for those that differ in numbers alone."""

from __future__ import annotations

import functools
import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_adamfamily import registry
from keras_adamfamily.base import FamilyOptimizer
from keras_adamfamily.tuning.hypermodel import OptimizerHyperModel
from keras_adamfamily.tuning.population import Population
from keras_adamfamily.tuning.strategy import Choice, Impossible, choose, population_options
from keras_adamfamily.tuning.trial import (
    DIVERGED,
    OK,
    PRUNED,
    Asked,
    Training,
    TrialResult,
    facts_of,
    short,
    with_sum,
)

MOST_PROGRAMS = 16


class Together:
    """Trains trials as lanes of populations, one for each combination of what is not a number.

    The populations are kept: the next trials of the same kind need no compilation.

    Args:
        training: The data and the settings.
        hypermodel: Builds the models.
        strategy: `"map"` or `"vmap"`.
        lanes: How many trials are on the devices at a time.
        say: Gets a line of text about what is going on.
    """

    def __init__(
        self,
        training: Training,
        hypermodel: OptimizerHyperModel,
        strategy: str,
        lanes: int,
        say: Callable[[str], None] = lambda text: None,
    ):
        self.training, self.hypermodel = training, hypermodel
        self.strategy, self.lanes, self.say = strategy, lanes, say
        self._populations: OrderedDict[str, Population] = OrderedDict()

    def train(
        self,
        asked: Sequence[Asked],
        rungs: Sequence[int] = (),
        survivors: Callable[[dict[int, list[float]]], Iterable[int]] | None = None,
    ) -> list[TrialResult | Exception]:
        """Trains trials to their end.

        Args:
            asked: What to train.
            rungs: Epochs after which lanes may be given up.
            survivors: From the objective by epoch, by the index of the trial, to the indices that
                go on after a rung.

        Returns:
            The results, in the order of `asked`; for trials of which no program can be made, why.
        """
        kinds: dict[str, dict[int, Asked]] = {}
        for index, trial in enumerate(asked):
            kinds.setdefault(self._kind(trial), {})[index] = trial
        groups, results = [], {}
        for kind in sorted(kinds):
            try:
                groups.append(self._group(kind, kinds[kind]))
            except Exception as error:
                results |= dict.fromkeys(kinds[kind], error)
        epochs = [trial.epochs(self.training.epochs) for trial in asked]
        for begin, end in itertools.pairwise([0, *sorted({*rungs, *epochs})]):
            curves: dict[int, list[float]] = {}
            for group in groups:
                self.say(
                    f"{len(group.alive)} trials of {group.optimizer}, epoch {end} of {max(epochs)}"
                )
                curves.update(group.train(end - begin))
            at_end = {index for index in curves if epochs[index] == end}
            kept = curves.keys() - at_end
            if kept and end in rungs:
                kept &= set(survivors(curves))
            for group in groups:
                group.keep(kept, at_end)
        for group in groups:
            results |= group.results()
        return [results[index] for index in range(len(asked))]

    def check(self) -> None:
        """Raises `ValueError`, with the cause, if these trials cannot be trained together."""
        try:
            population_options(self.training.all_callbacks)
        except Impossible as error:
            raise ValueError(
                f"`strategy={self.strategy!r}` cannot be had here, use 'fit' or 'auto': {error}"
            ) from None
        self.training.train.arrays()
        self.training.validation.arrays()

    def choose(self, asked: Sequence[Asked], trials: int) -> Choice:
        """Finds out whether to train together trials such as these, and how.

        Args:
            asked: The first trials.
            trials: How many there are to be in all.
        """
        training, kind = self.training, self._kind(asked[0])
        first = {i: trial for i, trial in enumerate(asked) if self._kind(trial) == kind}
        values, seeds = self._lanes(first)
        choice = choose(
            lambda: self.hypermodel.build(asked[0].hp()),
            training.train,
            training.validation,
            hyperparameters=values,
            seeds=seeds,
            trials=max(1, trials * len(first) // len(asked)),  # that share its program
            epochs=max(trial.epochs(training.epochs) for trial in first.values()),
            callbacks=training.all_callbacks,
            class_weight=training.class_weight,
            chunk_size=self.lanes,
        )
        if choice.population is not None:
            self.strategy, self._populations[kind] = choice.strategy, choice.population
        return choice

    def _kind(self, trial: Asked) -> str:
        """What trials of one program have in common; Hyperband's notes (`tuner/`) make no other."""
        traced = {f"{trial.optimizer}/{name}" for name in self._traced(trial)}
        fixed = {
            name: value
            for name, value in trial.hyperparameters.items()
            if name not in traced and not name.startswith("tuner/")
        }
        return repr((trial.optimizer, sorted(fixed.items())))

    def _traced(self, trial: Asked) -> dict[str, str]:
        return self.hypermodel.space.traced(trial.optimizer)

    def _lanes(self, asked: Mapping[int, Asked]) -> tuple[dict[str, list[float]], list[int]]:
        """The hyperparameters and the seeds of trials of one kind."""
        values = {}
        for name, own in self._traced(next(iter(asked.values()))).items():
            given = [t.hyperparameters[f"{t.optimizer}/{name}"] for t in asked.values()]
            values[own] = given if own == name else [1.0 - value for value in given]
        return values, [trial.seed for trial in asked.values()]

    def _group(self, kind: str, asked: dict[int, Asked]) -> _Group:
        start, first = time.perf_counter(), next(iter(asked.values()))
        values, seeds = self._lanes(asked)
        if kind in self._populations:
            self._populations.move_to_end(kind)
            self._populations[kind].restart(values, seeds)
        else:
            self.say(f"building a program for {first.optimizer}")
            self._populations[kind] = self._population(first, values, seeds)
            if len(self._populations) > MOST_PROGRAMS:
                self._populations.popitem(last=False)
        group = _Group(asked, self._populations[kind], self.training, self.strategy)
        group.count(time.perf_counter() - start)
        return group

    def _population(self, first: Asked, values: dict[str, list[float]], seeds: list[int]):
        training = self.training
        return Population(
            lambda: self.hypermodel.build(first.hp()),
            training.train.arrays(),
            training.validation.arrays(),
            hyperparameters=values,
            seeds=seeds,
            batch_size=self.hypermodel.space.batch_size(
                first.hyperparameters, training.train.batch_size
            ),
            validation_batch_size=training.validation.batch_size,
            shuffle=training.train.shuffled,
            class_weight=training.class_weight,
            **population_options(training.all_callbacks),
            strategy=self.strategy,
            chunk_size=self.lanes,
        )


class _Group:
    """The lanes of one program, by the indices of their trials."""

    def __init__(
        self, asked: dict[int, Asked], population: Population, training: Training, strategy
    ):
        self.asked, self.population, self.weights = asked, population, training.weights
        self.training, self.strategy = training, strategy
        self.objective = training.objective.name
        self.optimizer = next(iter(asked.values())).optimizer
        self.finds = registry.find(self.optimizer).cls.facts is not FamilyOptimizer.facts
        self.alive = list(asked)  # in the order of the lanes
        self.known: dict[int, dict[str, Any]] = {
            index: {"status": None, "cause": None, "curves": {}, "facts": {}, "seconds": 0.0}
            for index in asked
        }

    def count(self, seconds: float) -> None:
        """Shares time between the lanes that are there."""
        for index in self.alive:
            self.known[index]["seconds"] += seconds / len(self.alive)

    def train(self, epochs: int) -> dict[int, list[float]]:
        """Trains on; returns the objective by epoch of the lanes that have not stopped."""
        if not self.alive:
            return {}
        start = time.perf_counter()
        curves = with_sum(self.training.objective, self.population.train(epochs))
        self.count(time.perf_counter() - start)
        for lane, index in enumerate(self.alive):
            self._take(
                self.known[index],
                {name: curve[lane] for name, curve in curves.items()},
                self.population.epochs[lane],
                self.population.stopped[lane],
            )
        return {
            index: self.known[index]["curves"][self.objective]
            for index in self.alive
            if self.known[index]["status"] is None
        }

    def _take(self, known, curves: dict[str, np.ndarray], trained: int, stopped: str | None):
        """Takes up the curves, until the first value that is not finite."""
        before = len(next(iter(known["curves"].values()), ()))
        curves = {name: curve[: trained - before] for name, curve in curves.items()}
        watched = [name for name in ("loss", "val_loss", self.objective) if name in curves]
        bad = np.flatnonzero(~np.isfinite([curves[name] for name in watched]).all(0))
        for name, curve in curves.items():
            part = curve[: bad[0] + 1] if len(bad) else curve
            known["curves"].setdefault(name, []).extend(map(short, part))
        if len(bad):
            lost = [name for name in dict.fromkeys(watched) if known["curves"][name][-1] is None]
            known["status"], known["cause"] = DIVERGED, f"{', '.join(lost)} not finite"
        elif stopped:
            known["status"] = OK

    def keep(self, kept: Container[int], at_end: Container[int]) -> None:
        """Goes on with some lanes; the others end, before their time if not `at_end`."""
        lanes, good = [], []
        for lane, index in enumerate(self.alive):
            known = self.known[index]
            if index in kept and known["status"] is None:
                lanes.append(lane)
                continue
            known["status"] = known["status"] or (OK if index in at_end else PRUNED)
            if self.finds:
                known["facts"] = facts_of(self.population.model(lane).optimizer)
            if known["status"] == OK:
                good.append((lane, self.asked[index], known["curves"][self.objective][-1]))
        if self.weights is not None:  # the best first, for then they are the only ones written
            for lane, asked, score in sorted(good, key=lambda run: self.weights.cost(*run[1:])):
                self.weights.keep(asked, score, functools.partial(self._model, lane))
        if lanes and len(lanes) < len(self.alive):
            self.population.keep(lanes)
        self.alive = [self.alive[lane] for lane in lanes]

    def _model(self, lane: int) -> keras.Model:
        """The model with the weights that a lane was evaluated with."""
        return self.population.model(lane, average=self.population.evaluate_average)

    def results(self) -> Iterable[tuple[int, TrialResult]]:
        for index, known in self.known.items():
            objective = known["curves"][self.objective]
            yield (
                index,
                self.asked[index].result(
                    **{**known, "seconds": round(known["seconds"], 3)},
                    score=None if known["status"] == DIVERGED else objective[-1],
                    epoch=len(objective),
                    strategy=self.strategy,
                ),
            )
