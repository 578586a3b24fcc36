"""What needs the training loop: snapshots at warm restarts, evaluation at averaged weights.

Both work with any Keras optimizer, and reach the weights through `Callback.model`: on JAX these
are elsewhere during an epoch, and that property fetches them.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_adamfamily.base import without_loss_scaling
from keras_adamfamily.schedules import CosineWarmRestarts, TunablePeak
from keras_adamfamily.validation import check_integer, optional


class SnapshotEnsemble(keras.callbacks.Callback):
    """Keeps the weights at the end of each cycle of `CosineWarmRestarts`, and averages predictions.

    The iterate just before a restart, where the learning rate is lowest, is the one that SGDR and
    AdamWR recommend as the solution (Loshchilov and Hutter, arXiv:1608.03983 and 1711.05101), and
    the iterates of several cycles form an ensemble at no cost in training (Huang et al., "Snapshot
    Ensembles: Train 1, get M for free", arXiv:1704.00109).

    Cycles are told by the optimizer's own count of steps, so they are right after a resume, with
    gradient accumulation, and when float16 loss scaling skips a step. The count is read when a
    cycle may end and at the start of epochs, not at every step.

    Attributes:
        snapshots: By cycle, counted from 1, in order: its weights as `model.get_weights()` gives
            them, or the path of its file, for `model.set_weights` or `model.load_weights`.

    Args:
        folder: `None` keeps the snapshots in memory. A path keeps them there alone, as
            `cycle-1.weights.h5`, `cycle-2.weights.h5`, ..., without the optimizer's state. Files
            that the folder holds already are used: those of the cycles that a resumed training has
            finished, or all of them when there is no training (call `set_model(model)` then).

    Raises:
        ValueError: If `folder` is no path; when training begins, if the optimizer's learning rate
            is not a `CosineWarmRestarts`; and during it, if a restart falls between the steps of
            one execution (`steps_per_execution`).

    Example:

    >>> import keras, numpy as np, keras_adamfamily as kaf
    >>> x, y = np.random.randn(40, 3), np.random.randn(40, 1)
    >>> model = keras.Sequential([keras.layers.Dense(1)])
    >>> restarts = kaf.CosineWarmRestarts(0.1, first_cycle_steps=10)
    >>> model.compile(kaf.AdamW(restarts), "mse")
    >>> ensemble = kaf.callbacks.SnapshotEnsemble()
    >>> history = model.fit(x, y, batch_size=4, epochs=3, verbose=0, callbacks=[ensemble])
    >>> list(ensemble.snapshots), ensemble.predict(x, verbose=0).shape
    ([1, 2], (40, 1))
    """

    def __init__(self, folder: str | os.PathLike | None = None):
        super().__init__()
        if not isinstance(folder, str | os.PathLike | None) or folder == "":
            raise ValueError(f"`folder` must be a path or None. Received: folder={folder!r}")
        self.folder = None if folder is None else Path(folder)
        self.snapshots: dict[int, list[np.ndarray] | Path] = {}
        if self.folder is not None:
            paths = self.folder.glob("*.weights.h5")
            named = ((re.fullmatch(r"cycle-(\d+)\.weights\.h5", path.name), path) for path in paths)
            self.snapshots = dict(sorted((int(match[1]), path) for match, path in named if match))

    def predict(
        self, x: Any, last: int | None = None, activation: Any = None, **arguments: Any
    ) -> Any:
        """The mean of the snapshots' predictions; model and optimizer stay as they are.

        Args:
            x: What `model.predict` takes.
            last: How many of the last snapshots to average, an integer >= 1; all by default.
            activation: Applied to each prediction before the mean: `"softmax"` for a model that
                ends in logits, since the mean is to be one of probabilities.
            **arguments: Passed to `model.predict`, such as `batch_size` and `verbose`.

        Returns:
            An array like that of `model.predict`, or arrays in its structure.

        Raises:
            ValueError: If there is no snapshot, or `last` is not an integer >= 1.
        """
        last = optional(check_integer, "last", last, 1)
        if not self.snapshots:
            raise ValueError("There is no snapshot yet: training has not reached a restart.")
        model, activation = self.model, keras.activations.get(activation)
        before = [ops.copy(ops.convert_to_tensor(v)) for v in model.variables]

        def prediction(snapshot):
            self._load(model, snapshot)
            return keras.tree.map_structure(
                lambda y: ops.convert_to_numpy(activation(ops.cast(y, "float32"))),
                model.predict(x, **arguments),
            )

        try:
            chosen = list(self.snapshots.values())[-(last or 0) :]
            predictions = [prediction(snapshot) for snapshot in chosen]
        finally:
            for variable, value in zip(model.variables, before, strict=True):
                variable.assign(value)
        return keras.tree.map_structure(lambda *ys: np.mean(ys, axis=0), *predictions)

    def on_train_begin(self, logs=None):
        self._schedule_and_step(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        index, since = self._look()
        kept = {cycle: kept for cycle, kept in self.snapshots.items() if cycle <= index}
        self.snapshots = kept  # the others are of an earlier training
        if index and since == 0 and index not in kept:  # resumed at a restart
            self._take(index)
        self._batches = 0

    def on_train_batch_end(self, batch, logs=None):
        self._remaining -= batch + 1 - self._batches
        self._batches = batch + 1
        if self._remaining > 0:
            return
        before = self._index
        index, since = self._look()
        if (index, since) == (before + 1, 0):
            self._take(index)
        elif index != before:  # it is the same when steps were skipped
            raise ValueError(
                f"The restart after cycle {before + 1} came {since} steps before the end of an "
                "execution, and the weights of that moment are not to be had. Choose cycles whose "
                "lengths are multiples of `steps_per_execution`="
                f"{self.model.steps_per_execution}, and so the steps of an epoch."
            )

    def _look(self) -> tuple[int, int]:
        """How many cycles are finished, and the steps since; sets how many remain in this one."""
        schedule, step = self._schedule_and_step(self.model)
        self._index, length, since = (int(number) for number in schedule.locate(step))
        self._remaining = length - since
        return self._index, since

    def _take(self, cycle: int) -> None:
        model = self.model
        if self.folder is None:
            self.snapshots[cycle] = model.get_weights()
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"cycle-{cycle}.weights.h5"
        with without_optimizer(model):
            model.save_weights(path, overwrite=True)
        self.snapshots[cycle] = path

    def _load(self, model, snapshot) -> None:
        if isinstance(snapshot, list):
            model.set_weights(snapshot)
        else:
            with without_optimizer(model):
                model.load_weights(snapshot)

    @staticmethod
    def _schedule_and_step(model) -> tuple[CosineWarmRestarts, int]:
        optimizer = without_loss_scaling(model.optimizer)
        schedule = getattr(optimizer, "_learning_rate", None)
        if isinstance(schedule, TunablePeak):
            schedule = schedule.schedule
        if not isinstance(schedule, CosineWarmRestarts):
            raise ValueError(
                "`SnapshotEnsemble` needs an optimizer whose `learning_rate` is a "
                f"`CosineWarmRestarts`. Received: {type(optimizer).__name__} with "
                f"learning_rate={schedule!r}"
            )
        # Schedules count batches, where `iterations` counts updates.
        return schedule, int(ops.convert_to_numpy(optimizer._iterations))


class EvaluateEMAWeights(keras.callbacks.Callback):
    """Evaluates and predicts at the averaged weights of an optimizer with `use_ema=True`.

    Give it to `fit`, whose validation then is of the average, or to `evaluate` or `predict`. The
    weights that are trained come back afterwards, and the averages are never written to: in
    bfloat16 too, training goes on bit for bit as without the callback.
    (`keras.callbacks.SwapEMAWeights` rounds the averages to the weights' dtype, and leaves them in
    the model after `predict`.) Before the first update there is no average, and the weights are
    used. Keras itself puts the averages in the model at the end of `fit`.

    Raises:
        ValueError: When it comes to evaluation, if the optimizer keeps no average.

    Example:

    >>> import keras, numpy as np, keras_adamfamily as kaf
    >>> x, y = np.random.randn(40, 3), np.random.randn(40, 1)
    >>> model = keras.Sequential([keras.layers.Dense(1)])
    >>> model.compile(kaf.Adam(use_ema=True), "mse")
    >>> averaged = kaf.callbacks.EvaluateEMAWeights()
    >>> history = model.fit(x, y, validation_split=0.2, verbose=0, callbacks=[averaged])
    """

    def __init__(self):
        super().__init__()
        self._trained = None

    def on_test_begin(self, logs=None):
        self._enter()

    def on_test_end(self, logs=None):
        self._leave()

    def on_predict_begin(self, logs=None):
        self._enter()

    def on_predict_end(self, logs=None):
        self._leave()

    def on_train_begin(self, logs=None):
        self._leave()  # after an evaluation that was interrupted

    def _enter(self) -> None:
        model = self.model
        optimizer = without_loss_scaling(model.optimizer)
        several = getattr(optimizer, "optimizers", [optimizer])  # `MultiOptimizer`
        averaging = [one for one in several if getattr(one, "use_ema", False)]
        if not averaging:
            raise ValueError(
                "`EvaluateEMAWeights` needs an optimizer with `use_ema=True`. "
                f"Received: {optimizer!r}"
            )
        if self._trained is None and all(one.built and int(one.iterations) for one in averaging):
            variables = model.trainable_variables
            self._trained = [ops.copy(ops.convert_to_tensor(v)) for v in variables]
            optimizer.finalize_variable_values(variables)
            for variable in variables:  # on JAX, Keras's own share a buffer with their averages
                variable.assign(ops.copy(ops.convert_to_tensor(variable)))

    def _leave(self) -> None:
        if self._trained is not None:
            for variable, value in zip(self.model.trainable_variables, self._trained, strict=True):
                variable.assign(value)
            self._trained = None


@contextlib.contextmanager
def without_optimizer(model):
    """Keras writes the optimizer's state into weight files, and reads it from them."""
    optimizer = vars(model).get("optimizer")
    vars(model)["optimizer"] = None
    try:
        yield
    finally:
        vars(model)["optimizer"] = optimizer
