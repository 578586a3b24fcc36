"""Which optimizer came out best, by how much, and whether the runs tell at all."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

from scipy.stats import ttest_ind_from_stats

from keras_adamfamily.tuning.trial import DIVERGED, FAILED, FINAL, OK, SEARCH, TrialResult

SIGNIFICANCE = 0.05


@dataclasses.dataclass(frozen=True)
class LeaderboardRow:
    """One optimizer, with its best configuration.

    Attributes:
        rank: 1 is the best.
        optimizer: Its name.
        mean: Mean objective of the best configuration on fresh seeds; `None` if there is none or
            if one of these runs diverged or failed.
        std: Standard deviation over the fresh seeds, with n - 1; `None` for fewer than two.
        n: Number of fresh seeds.
        search_score: Objective of the best trial of the search. It was picked for being the
            best, so it flatters; `mean` is not picked.
        hyperparameters: Of the best trial, `{"learning_rate": 0.001, ...}`.
        trials: Finished trials of the search.
        diverged: How many of them diverged.
        failed: How many of them raised an exception.
        finals_lost: How many of the runs on fresh seeds diverged or failed.
        seconds: Median time of a trial.
    """

    rank: int
    optimizer: str
    mean: float | None
    std: float | None
    n: int
    search_score: float | None
    hyperparameters: dict[str, Any]
    trials: int
    diverged: int
    failed: int
    finals_lost: int
    seconds: float | None


class Scoring:
    """Orders the trials of a study.

    Args:
        trials: All finished trials.
        direction: `"max"` or `"min"`.
    """

    def __init__(self, trials: Sequence[TrialResult], direction: str):
        self.trials = trials
        self.sign = -1.0 if direction == "max" else 1.0

    def cost(self, score: float | None) -> float:
        """What to sort by: the smaller the better, nothing is worse than no score."""
        return math.inf if score is None else self.sign * score

    def of(self, role: str, optimizer: str) -> list[TrialResult]:
        """The trials of an optimizer; `"final"` means those of its current best configuration."""
        trials = [t for t in self.trials if t.role == role and t.optimizer == optimizer]
        if role == FINAL:
            best = self.best_trial(optimizer)
            trials = [t for t in trials if best and t.hyperparameters == best.hyperparameters]
        return trials

    def best_trial(self, optimizer: str) -> TrialResult | None:
        """The best trial of the search, the first of equals; `None` if none ended well."""
        trials = [t for t in self.of(SEARCH, optimizer) if t.status == OK]
        return min(trials, key=lambda t: (self.cost(t.score), t.number), default=None)

    def leaderboard(self, optimizers: Sequence[str]) -> list[LeaderboardRow]:
        """One row per optimizer, ordered by `mean` where there is one, then `search_score`."""
        rows = [self._row(optimizer) for optimizer in optimizers]
        rows.sort(key=lambda row: (self.cost(row.mean), self.cost(row.search_score)))
        return [dataclasses.replace(row, rank=rank) for rank, row in enumerate(rows, 1)]

    def _row(self, optimizer: str) -> LeaderboardRow:
        trials, finals = self.of(SEARCH, optimizer), self.of(FINAL, optimizer)
        best = self.best_trial(optimizer)
        scores = [trial.score for trial in finals if trial.status == OK]
        lost = len(finals) - len(scores)
        return LeaderboardRow(
            rank=0,
            optimizer=optimizer,
            mean=statistics.fmean(scores) if scores and not lost else None,
            std=statistics.stdev(scores) if len(scores) > 1 and not lost else None,
            n=len(finals),
            search_score=best.score if best else None,
            hyperparameters=best.short_hyperparameters if best else {},
            trials=len(trials),
            diverged=sum(trial.status == DIVERGED for trial in trials),
            failed=sum(trial.status == FAILED for trial in trials),
            finals_lost=lost,
            seconds=statistics.median(t.seconds for t in trials) if trials else None,
        )


def verdict(rows: Sequence[LeaderboardRow]) -> str:
    """In plain words: which optimizer won, or that the runs do not tell.

    The first two are told apart by Welch's t-test on their runs with fresh seeds.
    """
    first, *others = rows
    if first.search_score is None:
        return "No winner: no trial ended well."
    if not others or others[0].search_score is None:
        return f"No comparison: only {first.optimizer} has a result."
    second = others[0]
    pair = f"{first.optimizer} and {second.optimizer}"
    if first.mean is None:
        return f"No clear winner: {pair} were not trained well on fresh seeds."
    if second.mean is None:
        return f"{first.optimizer} wins: no other optimizer trained well on every fresh seed."
    if first.std is None or second.std is None:
        return f"No clear winner: {pair} were trained on one fresh seed, which cannot tell."
    p = _welch(first, second)
    figures = (
        f"their means differ by {abs(first.mean - second.mean):.2g} (p = {p:.2g}, Welch's t-test, "
        f"{first.n} and {second.n} runs)"
    )
    if p >= SIGNIFICANCE:
        return f"No clear winner: {pair} cannot be told apart; {figures}."
    return f"{first.optimizer} wins, ahead of {second.optimizer}: {figures}."


def _welch(a: LeaderboardRow, b: LeaderboardRow) -> float:
    """The p-value of the difference of two means; 1 for equal means, whatever the spread."""
    if a.mean == b.mean:
        return 1.0
    if a.std == b.std == 0.0:
        return 0.0
    test = ttest_ind_from_stats(a.mean, a.std, a.n, b.mean, b.std, b.n, equal_var=False)
    return float(test.pvalue)
