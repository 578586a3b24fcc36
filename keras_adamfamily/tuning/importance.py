"""Which hyperparameters the score depends on: Optuna's fANOVA, on the ranks of the trials."""

from __future__ import annotations

import optuna

from keras_adamfamily.tuning.exports import as_optuna
from keras_adamfamily.tuning.study import Study
from keras_adamfamily.tuning.trial import SEARCH, TrialResult

FEWEST_TRIALS = 8


def importance(study: Study) -> dict[str, dict[str, float]]:
    """Per optimizer, the share of the variance of the ranks that each hyperparameter explains.

    Ranks, because one loss that explodes would explain everything; a lost trial has the last one.
    An optimizer is left out if it has fewer than 8 trials or fewer than two hyperparameters that
    vary.
    """
    found = {}
    for optimizer in study.space.optimizers:
        trials = study.scoring.of(SEARCH, optimizer)
        costs = [study.scoring.cost(trial.score) for trial in trials]
        if len(trials) < FEWEST_TRIALS or len(set(costs)) < 2:
            continue
        rebuilt = as_optuna(study, optimizer, value=_Rank(study, costs))
        shared = set.intersection(*(set(trial.params) for trial in rebuilt.trials))
        if len(shared) > 1:
            # Its time grows with the square of the leaves; these are enough for a share.
            evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=32, max_depth=7, seed=0)
            shares = optuna.importance.get_param_importances(
                rebuilt, evaluator=evaluator, params=sorted(shared)
            )
            found[optimizer] = {name: float(share) for name, share in shares.items()}
    return found


class _Rank:
    """The place of a trial among others, those that are equal in the middle of theirs."""

    def __init__(self, study: Study, costs: list[float]):
        self.scoring = study.scoring
        self.costs = costs

    def __call__(self, trial: TrialResult) -> float:
        cost = self.scoring.cost(trial.score)
        return sum(c < cost for c in self.costs) + sum(c == cost for c in self.costs) / 2
