"""KerasTuner's tuner, which trains many trials at a time where that is faster."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus
from keras_tuner.src.distribute.utils import is_chief_oracle

from keras_adamfamily.tuning.exploring import explore
from keras_adamfamily.tuning.hypermodel import OptimizerHyperModel
from keras_adamfamily.tuning.oracle import Halving, OptunaOracle
from keras_adamfamily.tuning.strategy import Choice
from keras_adamfamily.tuning.together import Together
from keras_adamfamily.tuning.trial import (
    OK,
    SEARCH,
    Asked,
    Training,
    TrialResult,
    one_line,
    without_old_objects,
)
from keras_adamfamily.tuning.weights import Weights
from keras_adamfamily.tuning.xla import use_compilation_cache
from keras_adamfamily.validation import check_choice, check_integer

STRATEGIES = ("auto", "fit", "map", "vmap")
FEW = 16  # trials that an oracle of KerasTuner's is asked for before it is told of any
EVERY = 10**6  # trials, when all are asked for
PATIENCE = 1.0  # seconds until what has nothing to do now is asked again


class OptimizerTuner(keras_tuner.Tuner):
    """Runs the trials of any oracle of KerasTuner, many in one program where that is faster.

    A trial that diverges, raises an exception or runs out of memory is recorded with its cause, and
    the search goes on (KerasTuner's own oracles end it after `max_consecutive_failed_trials` of
    them, 3 by default). The score of a trial is the objective after its last epoch, not the best
    epoch of a noisy curve.

    Args:
        oracle: An `OptunaOracle`, or any oracle of KerasTuner.
        hypermodel: An `OptimizerHyperModel`; any other hypermodel is trained by `fit`, its own if
            it has one. What that returns counts, as in KerasTuner: a number is the objective, a
            dictionary has it; of a history it is the value after the last epoch.
        strategy: `"fit"`, one trial after another, on every backend and for every model; `"map"`
            or `"vmap"`, many in one XLA program on JAX, see `Population`; `"auto"`, by default,
            tries what is possible for a moment and takes the fastest.
        lanes: How many trials are trained together at most, an integer >= 1, 128 by default.
        keep_weights: How many of the best trials keep their weights for `get_best_models`, an
            integer >= 0, 1 by default.
        seed: The random seed of every trial, 0 by default: the same for all, so that they differ
            by their hyperparameters alone.
        note: Called with lines of text that a user may want to see, such as why a strategy was
            chosen or a trial was lost; `print` by default.
        say: Called with what is going on now; by default nothing is said.
        **kwargs: Of `keras_tuner.Tuner`: `directory`, `project_name`, `overwrite`.

    Raises:
        ValueError: If an argument is out of range, or the strategy cannot be had.
        TypeError: If a subclass overrides `run_trial`.

    Example:

    >>> from keras_adamfamily import tuning
    >>> oracle = tuning.OptunaOracle("val_accuracy", max_trials=64)
    >>> tuner = tuning.OptimizerTuner(
    ...     oracle, tuning.OptimizerHyperModel(build_model, dataset_size=len(x), epochs=20)
    ... )  # doctest: +SKIP
    >>> tuner.search(x, y, validation_data=validation, epochs=20)  # doctest: +SKIP
    >>> tuner.get_best_hyperparameters()[0].values  # doctest: +SKIP
    """

    def __init__(
        self,
        oracle: keras_tuner.Oracle,
        hypermodel: Any,
        *,
        strategy: str = "auto",
        lanes: int = 128,
        keep_weights: int = 1,
        seed: int = 0,
        note: Callable[[str], None] = print,
        say: Callable[[str], None] = lambda text: None,
        **kwargs: Any,
    ):
        self.strategy = check_choice("strategy", strategy, STRATEGIES)
        self.lanes = check_integer("lanes", lanes, 1)
        self.keep_weights = check_integer("keep_weights", keep_weights, 0)
        self.seed = check_integer("seed", seed, 0)
        self.note, self.say = note, say
        self._choice: Choice | None = None
        self._together: Together | None = None
        self._names: set[str] = set()
        self._causes: set[str] = set()  # why trials were not trained together, as told
        self._group_by = getattr(oracle, "group_by", None)
        if unknown := kwargs.keys() - {"directory", "project_name", "overwrite"}:
            raise ValueError(
                f"An OptimizerTuner has no use for {', '.join(sorted(unknown))}: `build_model` "
                "compiles the model, in the scope of a `tf.distribute` strategy if need be, and "
                "`tuning.tune` trains the best settings on further random seeds"
            )
        if type(self).run_trial is not OptimizerTuner.run_trial:
            raise TypeError(
                f"{type(self).__name__} has a `run_trial` of its own, which an OptimizerTuner does "
                "not call: derive it from `keras_tuner.Tuner`, which takes the same oracle and "
                "hypermodel, or give the hypermodel a `fit` of its own"
            )
        super().__init__(oracle, hypermodel, **kwargs)
        self._remembers = isinstance(oracle, OptunaOracle) and self.oracle is oracle
        self.weights = Weights(
            Path(self.project_dir, "weights"),
            oracle.objective.direction,
            self._file_of,
            most=self.keep_weights,
            note=lambda text: self.note(text),
        )

    # The protocol of KerasTuner.

    def _populate_initial_space(self) -> None:
        super()._populate_initial_space()
        explore(self.hypermodel, self.oracle)

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """Trains the trials that the oracle asks for; KerasTuner's chief hands them to its workers.

        Args:
            *fit_args: As in `model.fit`: the training data.
            **fit_kwargs: Likewise: `validation_data`, which is needed, `epochs`, `batch_size`,
                `callbacks`, `class_weight`; and `verbose` for the oracle.

        Raises:
            ValueError: If an argument is not one of these.
        """
        if is_chief_oracle():
            super().search(*fit_args, **fit_kwargs)
            return
        self.oracle.verbose = fit_kwargs.pop("verbose", getattr(self.oracle, "verbose", 1))
        training = self._training(*fit_args, **fit_kwargs)
        self.save()  # the oracle keeps the trials as they end; with this a new tuner goes on
        try:
            with without_old_objects():
                for result in self.results(training):
                    if result.cause:  # KerasTuner's chief is not told it
                        name = f"{result.optimizer} trial {result.number}".strip()
                        self.note(f"{name} {result.status}: {result.cause}")
        finally:
            if isinstance(self.hypermodel, OptimizerHyperModel):
                self.hypermodel.restore()
            if self._remembers:
                self.oracle.close()  # of what was begun and not ended, the next search begins again

    def run_trial(self, trial: Trial, *fit_args: Any, **fit_kwargs: Any) -> float:
        """Trains one trial by `fit`; returns the objective after its last epoch."""
        training = self._training(*fit_args, **fit_kwargs)
        result = training.run(self.hypermodel, self._asked(trial), hp=trial.hyperparameters)
        if result.score is None:
            raise keras_tuner.errors.FailedTrialError(result.cause)
        return result.score

    def _training(self, *fit_args: Any, **fit_kwargs: Any) -> Training:
        training = Training.from_fit(self.oracle.objective, *fit_args, **fit_kwargs)
        return dataclasses.replace(training, weights=self.weights)

    def get_best_models(self, num_models: int = 1) -> list[keras.Model]:
        """The models of the best trials, with the weights at which their scores were measured.

        Where a hypermodel's `fit` returns a score, they are those after its last epoch.

        Args:
            num_models: How many, not more than `keep_weights`.

        Raises:
            ValueError: If weights of one of them are not kept.
        """
        trials = self.oracle.get_best_trials(EVERY)  # then those that have not ended well
        good = [trial for trial in trials if trial.status == TrialStatus.COMPLETED]
        sign = -1.0 if self.oracle.objective.direction == "max" else 1.0
        # Of equal ones those whose weights are kept.
        order = {t.trial_id: (sign * t.score, not self.weights.has(self._asked(t))) for t in good}
        good.sort(key=lambda trial: order[trial.trial_id])
        return [self.load_model(trial) for trial in good[:num_models]]

    def load_model(self, trial: Trial) -> keras.Model:
        """The model of a trial, with its weights.

        Raises:
            ValueError: If they are not kept, or do not fit the model.
        """
        asked = self._asked(trial)
        if not self.weights.has(asked):
            if is_chief_oracle():
                raise ValueError(
                    f"the weights of trial {trial.trial_id!r} are not in "
                    f"{str(self.weights.folder)!r}: the worker that trained it has them in its own"
                )
            raise ValueError(
                f"the weights of trial {trial.trial_id!r} are not kept, only those of the best "
                f"`keep_weights={self.keep_weights}` trials are. Make the tuner with more, or "
                "train the configuration again: tuner.hypermodel.build(trial.hyperparameters)"
            )
        return self.weights.load(asked, lambda: self.hypermodel.build(asked.hp()))

    # The search.

    def results(
        self, training: Training, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[TrialResult]:
        """Trains until the oracle has no more trials, and yields the results as they come.

        Args:
            training: The data and the settings.
            stop: Asked before trials are begun; true ends the search.
        """
        while not stop():
            trials = self._ask()
            if not trials:
                return
            asked = [self._asked(trial) for trial in trials]
            self._choose(training, asked)
            yield from self._run(trials, asked, training)

    def train(
        self,
        training: Training,
        asked: Sequence[Asked],
        hopeless: Iterable[Callable[[int, dict[str, float]], bool] | None] = itertools.repeat(None),
        hps: Iterable[keras_tuner.HyperParameters | None] = itertools.repeat(None),
        **halving: Any,
    ) -> Iterator[TrialResult]:
        """Trains given trials, together where that is the strategy, and yields their results.

        Args:
            training: The data and the settings.
            asked: What to train.
            hopeless: For each trial `is_hopeless` of `Training.run`, for those trained by `fit`.
            hps: Likewise `hp`.
            **halving: `rungs` and `survivors` of `Together.train`.
        """
        if not asked:
            return
        self._choose(training, asked)
        found = self._train_together(asked, **halving)
        for trial, result, is_hopeless, hp in zip(asked, found, hopeless, hps, strict=False):
            if result is None:
                self.say(f"{trial.optimizer}, one trial")
                result = training.run(self.hypermodel, trial, is_hopeless, hp)
            yield result

    def _train_together(self, asked: Sequence[Asked], **halving) -> list[TrialResult | None]:
        """The results; `None` for those that have to be trained one by one."""
        if self._together is None:
            return [None] * len(asked)
        try:
            found = self._together.train(asked, **halving)
        except Exception as error:
            found = [error] * len(asked)
        causes = dict.fromkeys(one_line(error) for error in found if isinstance(error, Exception))
        for cause in causes.keys() - self._causes:
            self.note(f"One by one, because together they failed: {cause}")
        self._causes |= causes.keys()
        return [None if isinstance(result, Exception) else result for result in found]

    def _run(self, trials: list[Trial], asked: list[Asked], training: Training):
        options: dict[str, Any] = {
            "hopeless": [self._is_hopeless(t, training.epochs) for t in trials],
            "hps": [trial.hyperparameters for trial in trials],
        }
        if self._remembers and not self._is_fit:
            ids = [trial.trial_id for trial in trials]

            def survivors(curves: Mapping[int, Sequence[float]]) -> list[int]:
                kept = self.oracle.survivors({ids[i]: curve for i, curve in curves.items()})
                return [ids.index(trial_id) for trial_id in kept]

            options |= {"rungs": self.oracle.rungs(training.epochs), "survivors": survivors}
        results = self.train(training, asked, **options)
        for trial, result in zip(trials, results, strict=True):
            self._tell(trial, result)
            yield result

    def _ask(self) -> list[Trial]:
        if self._remembers:
            whole = not self._is_fit and isinstance(self.oracle.pruner, Halving)
            lanes = 1 if self._is_fit else self.lanes
            return self.oracle.create_trials(
                self.tuner_id, max(lanes, self.oracle.block) if whole else lanes
            )
        names = {self.tuner_id}
        if not self._is_fit and self._is_ours:
            names = {f"{self.tuner_id}-{lane:02d}" for lane in range(min(self.lanes, FEW))}
        while True:
            trials = {name: self.oracle.create_trial(name) for name in sorted(names)}
            stopped = {name for name, t in trials.items() if t.status == TrialStatus.STOPPED}
            # An oracle waits for each name that has asked until it has told it to stop.
            self._names = (self._names | names) - stopped
            begun = [trial for trial in trials.values() if trial.status == TrialStatus.RUNNING]
            if begun or not self._names:
                return begun
            if stopped < names:
                time.sleep(PATIENCE)
            names = self._names

    @property
    def _is_fit(self) -> bool:
        """Whether it is known that trials are trained one by one."""
        known = self.strategy, self._choice and self._choice.strategy
        return keras.config.backend() != "jax" or "fit" in known

    @property
    def _is_ours(self) -> bool:
        """Whether trials are trained by `model.fit`, or in whatever way gives the same."""
        kind = type(self.hypermodel)
        return issubclass(kind, OptimizerHyperModel) and kind.fit is OptimizerHyperModel.fit

    def _asked(self, trial: Trial) -> Asked:
        values = dict(trial.hyperparameters.values)
        number = trial.trial_id.rpartition("-")[2]
        return Asked(
            optimizer=values.pop("optimizer", ""),
            role=SEARCH,
            number=int(number),
            seed=self.seed,
            hyperparameters=values,
        )

    def _file_of(self, asked: Asked) -> str:
        """Named like the trial: an `OptunaOracle` counts those of each group."""
        values = {**asked.hyperparameters, "optimizer": asked.optimizer}
        group = values.get(self._group_by, asked.optimizer)
        return f"{group}-{asked.number:04d}".strip("-")

    def _is_hopeless(
        self, trial: Trial, epochs: int
    ) -> Callable[[int, dict[str, float]], bool] | None:
        """A function for `Training.run`."""
        if not self._remembers or self.oracle.pruner is None:
            return None
        halves, rungs = isinstance(self.oracle.pruner, Halving), self.oracle.rungs(epochs)
        curve: list[float] = []

        def ask(epoch: int, logs: dict[str, float]) -> bool:
            curve.append(logs[self.oracle.objective.name])
            if halves:
                return epoch + 1 in rungs and not self.oracle.survivors({trial.trial_id: curve})
            told = self.oracle.update_trial(trial.trial_id, logs, step=epoch)
            return told.status == TrialStatus.STOPPED

        return ask

    def _tell(self, trial: Trial, result: TrialResult) -> None:
        if self._remembers:
            self.oracle.describe(trial.trial_id, dataclasses.asdict(result))
        elif result.status == OK:
            last = {n: curve[-1] for n, curve in result.curves.items() if curve[-1] is not None}
            last[self.oracle.objective.name] = result.score
            self.oracle.update_trial(trial.trial_id, last, step=result.epoch - 1)
        good = result.status == OK
        trial.status = TrialStatus.COMPLETED if good else TrialStatus.FAILED
        trial.message = result.cause
        self.oracle.end_trial(trial)

    def look(self, training: Training) -> Choice:
        """How the trials of this training would be trained; the first ones are begun for that."""
        asked = [self._asked(trial) for trial in self._ask()]
        return self._choose(training, asked)

    def seconds(self, training: Training, strategy: str) -> float | None:
        """What one of the trials that were begun takes, measured; `None` if it cannot be."""
        asked = [self._asked(trial) for trial in self.oracle.ongoing_trials.values()]
        with contextlib.suppress(Exception):  # it is an estimate
            if strategy == "fit":
                return training.seconds(self.hypermodel, asked[0])
            together = Together(training, self.hypermodel, "auto", self.lanes, self.say)
            return together.choose(asked, self.oracle.max_trials).seconds.get(strategy)
        return None

    def _choose(self, training: Training, asked: Sequence[Asked]) -> Choice:
        """Decides how to train, at the first trials."""
        if self._choice is not None:
            return self._choice
        if keras.config.backend() == "jax":
            use_compilation_cache()
        together = Together(training, self.hypermodel, self.strategy, self.lanes, self.say)
        choice = Choice(self.strategy, f"{self.strategy}: as asked")
        if self.strategy == "auto":
            what = "is no OptimizerHyperModel"
            if isinstance(self.hypermodel, OptimizerHyperModel):
                what = "has a `fit` of its own"
            choice = Choice("fit", f"fit: the hypermodel {what}")
            if self._is_ours:
                self.say("measuring how to train the trials")
                choice = together.choose(asked, self.oracle.max_trials or len(asked))
            self.note(choice.reason)
        elif self.strategy != "fit":
            if not self._is_ours:
                raise ValueError(
                    f"`strategy={self.strategy!r}` needs an OptimizerHyperModel, and one that "
                    f"does not override `fit`. Received: hypermodel={self.hypermodel!r}"
                )
            together.check()
        if choice.strategy != "fit":
            self._together = together
        self._choice = choice
        return choice
