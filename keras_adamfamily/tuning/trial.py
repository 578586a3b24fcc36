"""One trial: train one model once, and keep what happened, whatever happened."""

from __future__ import annotations

import dataclasses
import gc
import math
import time
from typing import Any

import keras
import keras_tuner
import numpy as np

from keras_adamfamily.base import FamilyOptimizer, without_loss_scaling

OK, PRUNED, DIVERGED, FAILED = "ok", "pruned", "diverged", "failed"
SEARCH, FINAL = "search", "final"


@dataclasses.dataclass(frozen=True)
class TrialResult:
    """What is known of a finished trial; one line of `trials.jsonl`.

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
    def short_hyperparameters(self) -> dict[str, Any]:
        """All hyperparameters, the optimizer's without its name: `{"learning_rate": 0.001}`."""
        prefix = f"{self.optimizer}/"
        return {name.removeprefix(prefix): value for name, value in self.hyperparameters.items()}

    @property
    def optimizer_values(self) -> dict[str, Any]:
        """The optimizer's own hyperparameters: what `SearchSpace.optimizer` takes."""
        prefix = f"{self.optimizer}/"
        return {
            name.removeprefix(prefix): value
            for name, value in self.hyperparameters.items()
            if name.startswith(prefix)
        }


@dataclasses.dataclass(frozen=True)
class Training:
    """The data and the settings that all trials of a study share."""

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    epochs: int
    batch_size: int
    objective: keras_tuner.Objective

    def run(
        self,
        hypermodel: keras_tuner.HyperModel,
        *,
        optimizer: str,
        role: str,
        number: int,
        seed: int,
        hyperparameters: dict[str, Any],
    ) -> TrialResult:
        """Trains from scratch. An exception is not raised but becomes a result: `"failed"`.

        The arguments other than `hypermodel` are those of `TrialResult`.
        """
        start = time.perf_counter()
        recorder = _Recorder(self.objective.name)
        status, score, cause, facts = OK, None, None, {}
        try:
            keras.backend.clear_session()
            gc.collect()
            keras.utils.set_random_seed(seed)
            hp = keras_tuner.HyperParameters()
            hp.values = {"optimizer": optimizer, **hyperparameters}
            model = hypermodel.build(hp)
            self.fit(model, recorder)
            facts = facts_of(model.optimizer)
        except Exception as error:
            status, cause = FAILED, one_line(error)
        else:
            if recorder.diverged:
                status, cause = DIVERGED, f"{', '.join(recorder.diverged)} not finite"
            else:
                score = recorder.curves[self.objective.name][-1]
        return TrialResult(
            optimizer=optimizer,
            role=role,
            number=number,
            seed=seed,
            hyperparameters=hyperparameters,
            status=status,
            score=score,
            epoch=recorder.epoch,
            cause=cause,
            seconds=round(time.perf_counter() - start, 3),
            curves=recorder.curves,
            facts=facts,
        )

    def fit(self, model: keras.Model, *callbacks: keras.callbacks.Callback) -> None:
        model.fit(
            *self.train,
            validation_data=self.validation,
            epochs=self.epochs,
            batch_size=self.batch_size,
            callbacks=list(callbacks),
            verbose=0,
        )


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
    """An exception as one line: its type and the first line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


class _Recorder(keras.callbacks.Callback):
    """Keeps the learning curves and stops a training that has diverged."""

    def __init__(self, objective: str):
        super().__init__()
        self.watched = ("loss", "val_loss", objective)
        self.curves: dict[str, list[float | None]] = {}
        self.epoch: int | None = None
        self.diverged: list[str] = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1

    def on_epoch_end(self, epoch, logs=None):
        for name, value in (logs or {}).items():
            value = float(value)
            finite = math.isfinite(value)
            self.curves.setdefault(name, []).append(value if finite else None)
            if not finite and name in self.watched:
                self.diverged.append(name)
        if self.diverged:
            self.model.stop_training = True
