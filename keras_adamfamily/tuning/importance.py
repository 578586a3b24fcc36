"""Which hyperparameters the score depends on: Optuna's fANOVA, on the ranks of the trials."""

from __future__ import annotations

import optuna

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
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        for optimizer in study.space.optimizers:
            shares = _shares(study, study.scoring.of(SEARCH, optimizer))
            if shares:
                found[optimizer] = shares
    finally:
        optuna.logging.set_verbosity(verbosity)
    return found


def _shares(study: Study, trials: list[TrialResult]) -> dict[str, float]:
    values = [trial.short_hyperparameters for trial in trials]
    names = [name for name in (values[0] if values else ()) if all(name in own for own in values)]
    spaces = {name: _distribution([own[name] for own in values]) for name in names}
    spaces = {name: space for name, space in spaces.items() if not space.single()}
    costs = [study.scoring.cost(trial.score) for trial in trials]
    if len(trials) < FEWEST_TRIALS or len(spaces) < 2 or len(set(costs)) < 2:
        return {}
    rebuilt = optuna.create_study()
    for own, cost in zip(values, costs, strict=True):
        rank = sum(other < cost for other in costs) + sum(other == cost for other in costs) / 2
        params = {name: own[name] for name in spaces}
        rebuilt.add_trial(optuna.create_trial(params=params, distributions=spaces, value=rank))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(rebuilt, evaluator=evaluator)


def _distribution(values: list) -> optuna.distributions.BaseDistribution:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if not numbers:
        return optuna.distributions.CategoricalDistribution(list(dict.fromkeys(values)))
    low, high = min(values), max(values)
    return optuna.distributions.FloatDistribution(low, high, log=low > 0)
