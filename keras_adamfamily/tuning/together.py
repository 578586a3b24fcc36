"""Trials that are trained together: one program for those that differ in numbers alone."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from keras_adamfamily import registry
from keras_adamfamily.base import FamilyOptimizer
from keras_adamfamily.tuning.hypermodel import OptimizerHyperModel
from keras_adamfamily.tuning.population import Population
from keras_adamfamily.tuning.trial import (
    DIVERGED,
    OK,
    PRUNED,
    Asked,
    Training,
    TrialResult,
    facts_of,
    short,
)


def train_together(
    training: Training,
    hypermodel: OptimizerHyperModel,
    asked: Sequence[Asked],
    *,
    strategy: str,
    rungs: Sequence[int] = (),
    survivors: Callable[[dict[int, list[float]]], Iterable[int]] | None = None,
    note: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> list[TrialResult]:
    """Trains trials as lanes of populations, one for each combination of what is not a number.

    Args:
        training: The data and the settings.
        hypermodel: Builds the models.
        asked: What to train.
        strategy: `"map"` or `"vmap"`.
        rungs: Epochs after which lanes may be given up.
        survivors: From the objective by epoch, by the index of the trial, to the indices that go
            on after a rung.
        note: Gets a line of text when something begins.
        **options: Of `Population`.

    Returns:
        The results, in the order of `asked`.
    """
    groups = []
    for members in _programs(hypermodel, asked):
        trials = {index: asked[index] for index in members}
        note(f"{len(trials)} trials of {asked[members[0]].optimizer} in one program")
        groups.append(_Group(training, hypermodel, trials, strategy, options))
    for begin, end in itertools.pairwise([0, *rungs, training.epochs]):
        for group in groups:
            group.train(end - begin)
        curves = {index: curve for group in groups for index, curve in group.objectives().items()}
        last = end == training.epochs
        kept = set(curves if last or not curves else survivors(curves))
        for group in groups:
            group.keep([] if last else kept, OK if last else PRUNED)
    results = {index: result for group in groups for index, result in group.results().items()}
    return [results[index] for index in range(len(asked))]


def _programs(hypermodel: OptimizerHyperModel, asked: Sequence[Asked]) -> Iterator[list[int]]:
    """The indices of the trials that share a program."""

    def statics(index: int) -> str:
        trial = asked[index]
        traced = {f"{trial.optimizer}/{name}" for name in hypermodel.space.ranges[trial.optimizer]}
        rest = {k: v for k, v in trial.hyperparameters.items() if k not in traced}
        return repr((trial.optimizer, sorted(rest.items())))

    order = sorted(range(len(asked)), key=lambda index: (statics(index), index))
    for _, program in itertools.groupby(order, statics):
        yield list(program)


class _Group:
    """The lanes of one program, by the indices of their trials."""

    def __init__(self, training, hypermodel, asked: dict[int, Asked], strategy, options):
        self.training, self.asked, self.strategy = training, asked, strategy
        first, space = next(iter(asked.values())), hypermodel.space
        self.start = time.perf_counter()
        self.population = Population(
            lambda: hypermodel.build(first.hp()),
            training.train,
            training.validation,
            hyperparameters=_values(space.ranges[first.optimizer], asked.values()),
            seeds=[trial.seed for trial in asked.values()],
            batch_size=space.batch_size(first.hyperparameters, training.batch_size),
            strategy=strategy,
            **options,
        )
        self.finds = registry.find(first.optimizer).cls.facts is not FamilyOptimizer.facts
        self.setup = (time.perf_counter() - self.start) / len(asked)
        self.alive = list(asked)  # in the order of the lanes
        self.known: dict[int, dict[str, Any]] = {
            index: {"status": OK, "cause": None, "curves": {}, "facts": {}, "seconds": self.setup}
            for index in asked
        }

    def train(self, epochs: int) -> None:
        """Trains on, and takes up the curves, until the first value that is not finite."""
        if not self.alive:
            return
        start = time.perf_counter()
        curves = self.population.train(epochs)
        seconds = (time.perf_counter() - start) / len(self.alive)
        for lane, index in enumerate(self.alive):
            self.known[index]["seconds"] += seconds
            self._take(self.known[index], {name: curve[lane] for name, curve in curves.items()})

    def _take(self, known: dict[str, Any], curves: dict[str, np.ndarray]) -> None:
        names = [n for n in ("loss", "val_loss", self.training.objective.name) if n in curves]
        bad = np.flatnonzero(~np.isfinite([curves[name] for name in names]).all(0))
        end = bad[0] + 1 if len(bad) else None
        for name, curve in curves.items():
            known["curves"].setdefault(name, []).extend(map(short, curve[:end]))
        if len(bad):
            known["status"] = DIVERGED
            lost = [name for name in dict.fromkeys(names) if known["curves"][name][-1] is None]
            known["cause"] = f"{', '.join(lost)} not finite"

    def objectives(self) -> dict[int, list[float]]:
        """The objective by epoch of the lanes that are still there and have not diverged."""
        name = self.training.objective.name
        curves = {index: self.known[index]["curves"][name] for index in self.alive}
        return {i: curve for i, curve in curves.items() if self.known[i]["status"] == OK}

    def keep(self, kept: Container[int], status: str) -> None:
        """Goes on with some lanes; the others end, with this status unless they have diverged."""
        lanes = [lane for lane, index in enumerate(self.alive) if index in kept]
        for lane, index in enumerate(self.alive):
            if lane in lanes:
                continue
            if self.known[index]["status"] == OK:
                self.known[index]["status"] = status
            if self.finds:
                self.known[index]["facts"] = facts_of(self.population.model(lane).optimizer)
        self.alive = [self.alive[lane] for lane in lanes]
        if lanes:
            self.population.keep(lanes)

    def results(self) -> dict[int, TrialResult]:
        results = {}
        for index, known in self.known.items():
            objective = known["curves"][self.training.objective.name]
            results[index] = self.asked[index].result(
                **{**known, "seconds": round(known["seconds"], 3)},
                score=None if known["status"] == DIVERGED else objective[-1],
                epoch=len(objective),
                strategy=self.strategy,
            )
        return results


def _values(ranges: dict[str, Any], asked: Iterable[Asked]) -> dict[str, list[float]]:
    """The values of the lanes by the names that the optimizer has for them."""
    values = {}
    for name in ranges:
        of_lanes = [trial.hyperparameters[f"{trial.optimizer}/{name}"] for trial in asked]
        if name.startswith("one_minus_"):
            name, of_lanes = name.removeprefix("one_minus_"), [1.0 - v for v in of_lanes]
        values[name] = of_lanes
    return values
