"""One trial: train one model once, and keep what happened, whatever happened."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
import math
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import keras
import keras_tuner
import numpy as np
from keras.src.backend.common import global_state
from keras_tuner.src.engine import tuner_utils
from keras_tuner.src.engine.objective import MultiObjective

from keras_adamfamily.base import FamilyOptimizer, without_loss_scaling
from keras_adamfamily.callbacks import EvaluateEMAWeights
from keras_adamfamily.tuning.data import Data
from keras_adamfamily.tuning.hypermodel import OptimizerHyperModel
from keras_adamfamily.tuning.space import SHARED
from keras_adamfamily.tuning.variables import share_program
from keras_adamfamily.validation import check_integer

if TYPE_CHECKING:
    from keras_adamfamily.tuning.weights import Weights

OK, PRUNED, DIVERGED, FAILED = "ok", "pruned", "diverged", "failed"
SEARCH, FINAL = "search", "final"

#: What a user sets for all models, as Keras names it.
OF_THE_USER = (
    "dtype_policy",
    "distribution",
    "custom_objects_scope_dict",
    "interactive_logging",
    "traceback_filtering",
    "flash_attention",
    "safe_mode_saving",
)
#: How lines of TensorFlow's errors begin that tell a place.
PLACES = ("Detected at node", 'File "', "<stack traces", "[[{{")


@dataclasses.dataclass(frozen=True)
class TrialResult:
    """What is known of a finished trial; the study's database has it as JSON.

    Attributes:
        optimizer: Name of the optimizer.
        role: `"search"`, or `"final"` for a re-run of the best configuration on a fresh seed.
        number: Counts the trials of this optimizer and role from 0.
        seed: What `keras.utils.set_random_seed` got before the model was built.
        hyperparameters: `{"AdamW/learning_rate": 0.001, ...}`.
        status: `"ok"`; `"pruned"` if it was stopped early as one of the worse; `"diverged"` if the
            loss or the objective was not finite; `"failed"` if an exception was raised.
        score: The objective after the *last* epoch; `None` if it diverged or failed.
        epoch: The epoch, counted from 1, in which training ended; `None` if it did not start.
        cause: Why it diverged or failed, in one line.
        seconds: Wall time, compilation included.
        curves: `{"loss": [...], "val_loss": [...], ...}` by epoch, `None` for what is not finite.
        facts: What the optimizer has found out, see `FamilyOptimizer.facts`.
        strategy: `"fit"`, `"map"` or `"vmap"`: how it was trained.
        memory: Peak memory of the process until then, in bytes; `None` if unknown.
        finished: When it ended, in seconds since 1970.
        worker: Which process trained it.
    """

    optimizer: str
    role: str
    number: int
    seed: int
    hyperparameters: dict[str, Any]
    status: str
    score: float | None
    epoch: int | None
    cause: str | None
    seconds: float
    curves: dict[str, list[float | None]]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    strategy: str = "fit"
    memory: int | None = None
    finished: float | None = None
    worker: str | None = None

    @property
    def asked(self) -> Asked:
        """What was to be trained."""
        return Asked(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(Asked)}
        )

    @property
    def short_hyperparameters(self) -> dict[str, Any]:
        """All hyperparameters, the optimizer's without its name: `{"learning_rate": 0.001}`."""
        prefix = f"{self.optimizer}/"
        return {name.removeprefix(prefix): value for name, value in self.hyperparameters.items()}

    @property
    def optimizer_values(self) -> dict[str, Any]:
        """The hyperparameters that `SearchSpace.optimizer` takes: not those of the model."""
        prefix = f"{self.optimizer}/"
        return {
            name.removeprefix(prefix): value
            for name, value in self.hyperparameters.items()
            if name.startswith(prefix) or name in SHARED
        }


@dataclasses.dataclass(frozen=True)
class Asked:
    """What to train: the first fields of `TrialResult`."""

    optimizer: str
    role: str
    number: int
    seed: int
    hyperparameters: dict[str, Any]

    def hp(self) -> keras_tuner.HyperParameters:
        """Its hyperparameters as KerasTuner's."""
        hp = keras_tuner.HyperParameters()
        hp.values = dict(self.hyperparameters)
        if self.optimizer:
            hp.values["optimizer"] = self.optimizer
        return hp

    def epochs(self, otherwise: int) -> int:
        """How many epochs KerasTuner's Hyperband gives it, or what other oracles leave it with."""
        return self.hyperparameters.get("tuner/epochs", otherwise)

    def result(self, **known: Any) -> TrialResult:
        """What became of it; `known` are the other fields of `TrialResult`."""
        return TrialResult(
            **vars(self),
            memory=peak_memory(),
            finished=round(time.time(), 3),
            worker=f"{platform.node()}:{os.getpid()}",
            **known,
        )


@dataclasses.dataclass(frozen=True)
class Training:
    """The data and the settings that all trials of a study share.

    Attributes:
        train: The training data.
        validation: The validation data.
        epochs: Of each trial, unless it ends early or Hyperband says how many it gets.
        objective: What is optimized.
        callbacks: Keras callbacks; each trial gets a copy.
        class_weight: As in `fit`.
        evaluate_average: Whether the evaluation uses the averaged weights of optimizers that keep
            an average.
        weights: Where the weights of the best trials are kept, if at all.
    """

    train: Data
    validation: Data
    epochs: int
    objective: keras_tuner.Objective
    callbacks: tuple[keras.callbacks.Callback, ...] = ()
    class_weight: dict[int, float] | None = None
    evaluate_average: bool = False
    weights: Weights | None = None

    @property
    def all_callbacks(self) -> list[keras.callbacks.Callback]:
        """The callbacks of a trial, of its own."""
        averages = [EvaluateEMAWeights()] if self.evaluate_average else []
        return [*averages, *copy.deepcopy(self.callbacks)]

    @classmethod
    def from_fit(
        cls,
        objective: keras_tuner.Objective,
        x: Any,
        y: Any = None,
        *,
        validation_data: Any = None,
        epochs: int = 1,
        batch_size: int | None = None,
        sample_weight: Any = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        class_weight: dict[int, float] | None = None,
        **others: Any,
    ) -> Training:
        """From the arguments of `model.fit`."""
        if others or validation_data is None:
            raise ValueError(
                "`search` takes `validation_data`, which it needs, `epochs`, `batch_size`, "
                "`sample_weight`, `callbacks`, `class_weight` and `verbose`. Received: "
                f"{', '.join(others) or 'no validation_data'}"
            )
        given = (x, y, sample_weight) if y is not None else x
        train = Data.of(given, batch_size, name="x")
        return cls(
            train=train,
            validation=Data.of_validation(validation_data, batch_size, name="validation_data"),
            epochs=check_integer("epochs", epochs, 1),
            objective=objective,
            callbacks=tuple(callbacks),
            class_weight=class_weight,
        )

    def run(
        self,
        hypermodel: keras_tuner.HyperModel,
        asked: Asked,
        is_hopeless: Callable[[int, dict[str, float]], bool] | None = None,
        hp: keras_tuner.HyperParameters | None = None,
    ) -> TrialResult:
        """Trains from scratch by `fit`. An exception in it is not raised but becomes a result.

        Args:
            hypermodel: Builds and fits the model.
            asked: What to train.
            is_hopeless: Called as `is_hopeless(epoch, logs)` with each epoch, counted from 0;
                where it returns true the trial is pruned.
            hp: KerasTuner's hyperparameters of the trial, which those join that `build` and `fit`
                ask for in addition.

        Raises:
            ValueError: If there is no such objective: the same holds for every other trial.
        """
        start = time.perf_counter()
        hps = asked.hp() if hp is None else hp
        recorder = _Recorder(self, asked, is_hopeless)
        status, score, cause, facts = OK, None, None, {}
        try:
            clear_session()
            keras.utils.set_random_seed(asked.seed)
            model = hypermodel.build(hps)
            if isinstance(hypermodel, OptimizerHyperModel):
                share_program(model, hypermodel.space.traced(asked.optimizer).values())
            training = dataclasses.replace(self, epochs=asked.epochs(self.epochs))
            told = recorder.hear(training.fit(hypermodel, hps, model, recorder))
            facts = facts_of(getattr(model, "optimizer", None))
        except keras_tuner.errors.FatalError:
            raise
        except Exception as error:
            status, cause = FAILED, one_line(error)
        else:
            if recorder.diverged:
                status, cause = DIVERGED, f"{', '.join(recorder.diverged)} not finite"
            else:
                check_objective(self.objective.name, recorder.curves)
                status = PRUNED if recorder.pruned else OK
                score = told.get(self.objective.name, recorder.curves[self.objective.name][-1])
            if hp is not None:
                values = {name: x for name, x in hp.values.items() if name != "optimizer"}
                asked = dataclasses.replace(asked, hyperparameters=values)
            if recorder.weights is not None and status == OK:
                model.set_weights(recorder.weights)
                self.weights.keep(asked, score, lambda: model)
        return asked.result(
            status=status,
            score=score,
            epoch=recorder.epoch,
            cause=cause,
            seconds=round(time.perf_counter() - start, 3),
            curves=recorder.curves,
            facts=facts,
        )

    def seconds(
        self, hypermodel: keras_tuner.HyperModel, asked: Asked, limit: float = 3.0
    ) -> float:
        """What a trial takes by `fit`, roughly: from two epochs, or what `limit` seconds let begin.

        Args:
            hypermodel: Builds and fits the model.
            asked: Some trial.
            limit: Of the training of this one, in seconds, without what comes before its second
                step. The validation data are gone through in any case.
        """
        watch = _Stopwatch(limit)
        keras.utils.set_random_seed(asked.seed)
        model = hypermodel.build(asked.hp())
        # Without the user's callbacks, which may write files.
        probe = dataclasses.replace(self, epochs=2, callbacks=())
        probe.fit(hypermodel, asked.hp(), model, watch)
        if len(watch.epochs) == 2:
            first, other = watch.epochs
            return first + (asked.epochs(self.epochs) - 1) * other
        batch_size = self.train.batch_size
        if isinstance(hypermodel, OptimizerHyperModel):
            batch_size = hypermodel.space.batch_size(asked.hyperparameters, batch_size)
        steps = -(-self.train.examples // batch_size)
        first, *others = watch.steps
        step = float(np.mean(others or [first]))  # batches from workers come several at a time
        epoch = steps * step + min(watch.evaluations, default=0.0)
        return max(0.0, first - step) + asked.epochs(self.epochs) * epoch

    def fit(self, hypermodel, hp, model: keras.Model, *callbacks: keras.callbacks.Callback) -> Any:
        """Trains a model as all trials of the study are trained; returns what `fit` does.

        A hypermodel with a `fit` of its own may choose batch sizes that were not given.
        """
        data = {**self.train.fit_arguments(), **self.validation.validation_arguments()}
        if type(hypermodel).fit is not OptimizerHyperModel.fit:
            sizes = {"batch_size": self.train, "validation_batch_size": self.validation}
            for name in [name for name, arrays in sizes.items() if not arrays.has_size]:
                del data[name]
        return hypermodel.fit(
            hp,
            model,
            **data,
            epochs=self.epochs,
            callbacks=[*self.all_callbacks, *callbacks],
            verbose=0,
            class_weight=self.class_weight,
        )


class _Stopwatch(keras.callbacks.Callback):
    """Times steps, the first one from when this was made, evaluations, and whole epochs.

    It ends the training in time.
    """

    def __init__(self, limit: float):
        super().__init__()
        self.limit, self.steps, self.evaluations, self.epochs = limit, [], [], []
        self.last = self.begun = time.perf_counter()
        self.batches = 0

    def _lap(self) -> float:
        self.last, before = time.perf_counter(), self.last
        return self.last - before

    def on_epoch_begin(self, epoch, logs=None):
        self.batches = 0

    def on_train_batch_end(self, batch, logs=None):
        count, self.batches = batch + 1 - self.batches, batch + 1  # of `steps_per_execution`
        self.steps += [self._lap() / count] * count
        self.model.stop_training = sum(self.steps[1:]) > self.limit

    def on_test_begin(self, logs=None):
        self._lap()

    def on_test_end(self, logs=None):
        self.evaluations.append(self._lap())

    def on_epoch_end(self, epoch, logs=None):
        if not self.model.stop_training:
            now = time.perf_counter()
            self.epochs.append(now - self.begun)
            self.begun = now


def with_sum(objective: keras_tuner.Objective, logs: dict[str, Any]) -> dict[str, Any]:
    """The logs, and of several objectives the sum that KerasTuner makes of them."""
    if isinstance(objective, MultiObjective) and objective.has_value(logs):
        return {**logs, objective.name: objective.get_value(logs)}
    return logs


def check_objective(name: str, logs: Iterable[str]) -> None:
    """Raises a `ValueError`, of the kind that KerasTuner too lets out of a search."""
    if name not in logs:
        told = ", ".join(logs) or "what `fit` tells its callbacks or returns, which was nothing"
        raise keras_tuner.errors.FatalValueError(
            f"`objective` must be one of {told}. Received: objective={name!r}"
        )


def clear_session() -> None:
    """Keras's own, after which what the user has set for all models still holds."""
    kept = {name: global_state.get_global_attribute(name) for name in OF_THE_USER}
    keras.backend.clear_session()
    for name, value in kept.items():
        global_state.set_global_attribute(name, value)


@contextlib.contextmanager
def without_old_objects() -> Iterator[None]:
    """Garbage is looked for among what is made from here on alone.

    Each trial by `fit` needs a collection, so that there are never two models. With Keras and a
    backend loaded one takes 0.1 to 0.4 s, nearly all of it for the libraries' own objects.
    """
    if gc.get_freeze_count() > 10_000:  # as the program around has it; Python has a few hundred
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def peak_memory() -> int | None:
    """The most memory that the process has had, in bytes; `None` where it cannot be told."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def facts_of(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """The facts of an optimizer of the family, also inside loss scaling; `None` if not finite."""
    optimizer = without_loss_scaling(optimizer)
    if not isinstance(optimizer, FamilyOptimizer):
        return {}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in optimizer.facts().items()
    }


def one_line(error: BaseException, limit: int = 300) -> str:
    """An exception as one line: its type and the first line that says something.

    In Keras's errors of layers and in TensorFlow's of graphs the first ones say where, and a
    terminal is to print Keras's next one bold.
    """
    text = re.sub(r"\x1b\[[\d;]*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("Exception encountered when calling"):
        del lines[0]
    if lines[:1] == ["Graph execution error:"]:  # where is told before what
        lines = [line for line in lines[1:] if not line.startswith(PLACES)] or lines
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


class _Recorder(keras.callbacks.Callback):
    """Keeps the learning curves and stops a training that has diverged or is not worth it."""

    def __init__(self, training: Training, asked: Asked, is_hopeless=None):
        super().__init__()
        self.training, self.asked, self.is_hopeless = training, asked, is_hopeless
        self.watched = tuple(dict.fromkeys(("loss", "val_loss", training.objective.name)))
        self.weights: list[np.ndarray] | None = None
        self.curves: dict[str, list[float | None]] = {}
        self.epoch: int | None = None
        self.diverged: list[str] = []
        self.pruned = False

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1

    def on_epoch_end(self, epoch, logs=None):
        self.epoch, self.weights = epoch + 1, None
        logs = with_sum(self.training.objective, logs or {})
        scalars = {name: x for name, x in logs.items() if not np.ndim(x)}  # F1Score's are none
        logs = {name: short(value) for name, value in scalars.items()}
        objective = self.training.objective.name
        for name, value in logs.items():
            self.curves.setdefault(name, []).append(value)
            if value is None and name in self.watched:
                self.diverged.append(name)
        if not self.diverged and self.is_hopeless is not None and objective in logs:
            self.pruned = self.is_hopeless(epoch, logs)
        if self.diverged or self.pruned:
            self.model.stop_training = True
        elif objective in logs and self._may_be_last(epoch):
            self._keep_weights(logs[objective])

    def hear(self, returned: Any) -> dict[str, float | None]:
        """The results that a hypermodel's `fit` returned, beside what its callbacks have been told.

        Of a history they are the curves, where nothing has been told.
        """
        is_history = isinstance(returned, keras.callbacks.History)
        if self.curves and (is_history or returned is None):
            return {}
        results = _results(returned, self.training.objective)
        told = {name: short(value) for name, value in results.items()}
        self.diverged += [name for name in self.watched if told.get(name, 0.0) is None]
        if not is_history:
            self.curves = {name: [value] for name, value in told.items()} | self.curves
            self.epoch = self.epoch or 1
            return told
        self.curves = {k: [*map(short, x)] for k, x in returned.history.items() if k in told}
        self.epoch = len(returned.epoch)
        score = told.get(self.training.objective.name)
        if score is not None:
            self.set_model(returned.model)
            self._keep_weights(score)
        return told

    def _may_be_last(self, epoch: int) -> bool:
        """Of a training loop of one's own, which may set no `params`, any epoch may be it."""
        last = (self.params or {}).get("epochs")
        return getattr(self.model, "stop_training", False) or last in (None, epoch + 1)

    def _keep_weights(self, score: float) -> None:
        """Those that gave the score; when `fit` has ended they may be averages, or restored."""
        if self.training.weights is None or not self.training.weights.wants(self.asked, score):
            return
        averages = EvaluateEMAWeights() if self._averages_are_elsewhere else None
        if averages is not None:
            averages.set_model(self.model)
            averages.on_test_begin()
        self.weights = self.model.get_weights()
        if averages is not None:
            averages.on_test_end()

    @property
    def _averages_are_elsewhere(self) -> bool:
        """Whether the score was measured at averages that are not in the model after the epoch."""
        swaps = keras.callbacks.SwapEMAWeights
        if any(isinstance(c, swaps) and c.swap_on_epoch for c in self.training.callbacks):
            return False
        averaging = (EvaluateEMAWeights, swaps)
        return self.training.evaluate_average or any(
            isinstance(c, averaging) for c in self.training.callbacks
        )


def _results(returned: Any, objective: keras_tuner.Objective) -> dict[str, float]:
    """What `fit` returned by name: of a history the last epoch, of a list the means."""
    if isinstance(returned, keras.callbacks.History):
        results = {name: values[-1] for name, values in returned.history.items()}
    elif isinstance(returned, list):
        each = [_results(one, objective) for one in returned]
        results = tuner_utils.average_metrics_dicts(each)
    else:
        tuner_utils.validate_trial_results(returned, objective, "`fit` of the hypermodel")
        results = tuner_utils.convert_to_metrics_dict(returned, objective)
    results = with_sum(objective, results)
    return {k: x for k, x in results.items() if not np.ndim(x) and not isinstance(x, str)}


def short(value: Any) -> float | None:
    """A float32 by its shortest decimal, 0.1 rather than 0.10000000149; `None` if not finite."""
    value = float(value) if keras.config.floatx() == "float64" else float(str(np.float32(value)))
    return value if math.isfinite(value) else None
