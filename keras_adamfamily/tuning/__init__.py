"""Search for the learning rate and the weight decay of several optimizers, and compare them."""

try:
    from keras_adamfamily.tuning.comparison import StudyComparison, compare
    from keras_adamfamily.tuning.hypermodel import OptimizerHyperModel
    from keras_adamfamily.tuning.leaderboard import LeaderboardRow
    from keras_adamfamily.tuning.oracle import Halving, OptunaOracle
    from keras_adamfamily.tuning.population import Population
    from keras_adamfamily.tuning.search import SearchPlan, plan, resume, tune
    from keras_adamfamily.tuning.space import SearchSpace
    from keras_adamfamily.tuning.study import Study
    from keras_adamfamily.tuning.tasks import TASKS
    from keras_adamfamily.tuning.trial import TrialResult
    from keras_adamfamily.tuning.tuner import OptimizerTuner
    from keras_adamfamily.tuning.xla import use_all_cores
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"keras_adamfamily.tuning needs the package {error.name!r}: "
        "pip install 'keras-adamfamily[tuning]'",
        name=error.name,
    ) from error

__all__ = [
    "TASKS",
    "Halving",
    "LeaderboardRow",
    "OptimizerHyperModel",
    "OptimizerTuner",
    "OptunaOracle",
    "Population",
    "SearchPlan",
    "SearchSpace",
    "Study",
    "StudyComparison",
    "TrialResult",
    "compare",
    "plan",
    "resume",
    "tune",
    "use_all_cores",
]
