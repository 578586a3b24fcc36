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
from keras_adamfamily.validation import check_choice, check_integer, optional


class SnapshotEnsemble(keras.callbacks.Callback):
    """Keeps the weights at the end of each cycle of `CosineWarmRestarts`, and averages predictions.

    The iterate just before a restart, where the learning rate is lowest, is the one that SGDR and
    AdamWR recommend as the solution (Loshchilov and Hutter, arXiv:1608.03983 and 1711.05101), and
    the iterates of several cycles form an ensemble at no cost in training (Huang et al., "Snapshot
    Ensembles: Train 1, get M for free", arXiv:1704.00109).

    Cycles are told by the optimizer's own count of steps, so they are right after a resume, with
    gradient accumulation, and when float16 loss scaling skips a step. The count is read when a
    cycle may end and at the start of epochs, not at every step. A cycle that had ended when a `fit`
    begins is taken then: with `use_ema` its weights are the averages that the last `fit` left.

    Attributes:
        snapshots: By cycle, counted from 1, in order: its weights as `model.get_weights()` gives
            them, or the path of its file, for `model.set_weights` or `model.load_weights`.

    Args:
        folder: `None` keeps the snapshots in memory. A path keeps them there alone, as
            `cycle-1.weights.h5`, `cycle-2.weights.h5`, ..., without the optimizer's state. Files
            that the folder holds already are used: those of the cycles that a resumed training has
            finished, or all of them when there is no training (call `set_model(model)` then). A
            training that begins deletes those of cycles that it has not finished.

    Raises:
        ValueError: If `folder` is no path of a folder; when training begins, if the learning rate
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
        if self.folder is not None and self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"`folder` must be a folder, not a file. Received: folder={folder!r}")
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
            x: What `model.predict` takes and can be read once for each snapshot, in the same order:
                no generator, nor data that are shuffled at each reading.
            last: How many of the last snapshots to average, an integer >= 1; all by default.
            activation: Applied to each prediction before the mean: `"softmax"` for a model that
                ends in logits, since the mean is to be one of probabilities.
            **arguments: Passed to `model.predict`, such as `batch_size` and `verbose`.

        Returns:
            An array like that of `model.predict`, or arrays in its structure.

        Raises:
            ValueError: If there is no snapshot or no model, if `last` is not an integer >= 1, or if
                `x` can be read but once.
        """
        last = optional(check_integer, "last", last, 1, "takes all")
        if hasattr(x, "__next__"):
            raise ValueError(
                "`x` is read once for each snapshot, which a generator cannot be. Pass arrays, a "
                f"`keras.utils.PyDataset` or a `tf.data.Dataset`. Received: x={x!r}"
            )
        if not self.snapshots:
            raise ValueError("There is no snapshot yet: training has not reached a restart.")
        model, activation = self.model, keras.activations.get(activation)
        if model is None:
            raise ValueError("Call `set_model(model)` first: no training has named the model.")
        before = [*map(_copy, model.variables)]

        def prediction(snapshot):
            self._load(model, snapshot)
            return keras.tree.map_structure(activated, model.predict(x, **arguments))

        def activated(y):
            y = y if y.dtype == "float64" else y.astype("float32")
            return ops.convert_to_numpy(activation(ops.convert_to_tensor(y)))

        try:
            chosen = list(self.snapshots.values())[-(last or 0) :]
            predictions = [prediction(snapshot) for snapshot in chosen]
        finally:
            _assign(model.variables, before)
        return keras.tree.map_structure(lambda *ys: np.mean(ys, axis=0), *predictions)

    def on_train_begin(self, logs=None):
        self._schedule_and_step(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        index, since = self._look()
        for cycle in [cycle for cycle in self.snapshots if cycle > index]:  # of an earlier training
            snapshot = self.snapshots.pop(cycle)
            if isinstance(snapshot, Path):
                snapshot.unlink(missing_ok=True)
        if index and since == 0 and index not in self.snapshots:  # resumed at a restart
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
        return schedule, _count(optimizer._iterations)


class EvaluateEMAWeights(keras.callbacks.Callback):
    """Evaluates and predicts at the averaged weights of an optimizer with `use_ema=True`.

    Give it to `fit`, whose validation then is of the average, or to `evaluate` or `predict`. The
    weights that are trained come back afterwards, and the averages are never written to: in
    bfloat16 too, training goes on bit for bit as without the callback.
    (`keras.callbacks.SwapEMAWeights` rounds the averages to the weights' dtype, and leaves them in
    the model after `predict`.) Before the first update there is no average, and the weights are
    used. Keras itself puts the averages in the model at the end of `fit`.

    After an evaluation that was interrupted the averages are in the model until this callback is
    used again with it; then the weights come back, unless the model has other weights by then.

    Args:
        until_epoch_end: Whether in `fit` the averages stay until every callback has seen the end of
            the epoch. `EarlyStopping(restore_best_weights=True)` and `ModelCheckpoint` then keep
            the weights that were evaluated. By default they keep those that are trained, from which
            `BackupAndRestore` can go on; from the averages it would not go on as training did.

    Raises:
        ValueError: If `until_epoch_end` is neither True nor False; when it comes to evaluation, if
            the optimizer keeps no average.

    Example:

    >>> import keras, numpy as np, keras_adamfamily as kaf
    >>> x, y = np.random.randn(40, 3), np.random.randn(40, 1)
    >>> model = keras.Sequential([keras.layers.Dense(1)])
    >>> model.compile(kaf.Adam(use_ema=True), "mse")
    >>> averaged = kaf.callbacks.EvaluateEMAWeights()
    >>> history = model.fit(x, y, validation_split=0.2, verbose=0, callbacks=[averaged])
    """

    def __init__(self, until_epoch_end: bool = False):
        super().__init__()
        self.until_epoch_end = check_choice("until_epoch_end", until_epoch_end, (False, True))
        self._replaced = None  # while the averages are in a model: it, its optimizer and weights
        self._stays = False

    def set_params(self, params):
        super().set_params(params)
        self._stays = False  # not in what is no `fit`, whatever was interrupted before

    def on_train_begin(self, logs=None):
        self._check_replaced()
        self._leave()

    def on_epoch_begin(self, epoch, logs=None):
        self._leave()
        self._stays = self.until_epoch_end

    def on_train_batch_begin(self, batch, logs=None):
        self.on_epoch_begin(None)  # after an evaluation in the middle of an epoch

    def on_train_end(self, logs=None):
        self._replaced = None  # Keras has put the averages in the model, for good

    def on_test_begin(self, logs=None):
        self._enter()

    def on_test_end(self, logs=None):
        if not self._stays:
            self._leave()

    on_predict_begin, on_predict_end = on_test_begin, on_test_end

    def _enter(self) -> None:
        model = self.model
        averaging = _averaging(model)
        if not averaging:
            raise ValueError(
                "`EvaluateEMAWeights` needs an optimizer with `use_ema=True`. "
                f"Received: {getattr(model, 'optimizer', None)!r}"
            )
        self._check_replaced()
        if self._replaced is None and all(
            one.built and _count(one.iterations) for one in averaging
        ):
            self._replaced = model, model.optimizer, [*map(_copy, model.trainable_variables)]
            _put_averages(model)

    def _leave(self) -> None:
        if self._replaced is not None:
            model, _, weights = self._replaced
            _assign(model.trainable_variables, weights)
            self._replaced = None

    def _check_replaced(self) -> None:
        """Forgets weights that an interrupted evaluation left, if the averages are gone by now."""
        if self._replaced is None:
            return
        model, variables = self.model, self.model.trainable_variables
        current = [*map(_copy, variables)]
        optimizer, (its_model, its_optimizer, weights) = model.optimizer, self._replaced
        same = model is its_model and optimizer is its_optimizer and len(current) == len(weights)
        if same:
            _put_averages(model)
            pairs = zip(current, map(_copy, variables), strict=True)
            same = all(bool(ops.all(one == other)) for one, other in pairs)
            _assign(variables, current)
        if not same:
            self._replaced = None


def _count(variable) -> int:
    """The number that a variable holds, one that `tf.distribute` mirrors too."""
    return int(ops.convert_to_numpy(variable))


def _averaging(model) -> list[keras.optimizers.Optimizer]:
    """The optimizers of a model that average its weights."""
    optimizer = without_loss_scaling(getattr(model, "optimizer", None))
    several = getattr(optimizer, "optimizers", [optimizer])  # `MultiOptimizer`
    return [one for one in several if getattr(one, "use_ema", False)]


def _copy(variable):
    """A copy of the value, which shares no memory with it."""
    return ops.copy(ops.convert_to_tensor(variable))


def _assign(variables, values) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _put_averages(model) -> None:
    variables = model.trainable_variables
    without_loss_scaling(model.optimizer).finalize_variable_values(variables)
    _assign(
        variables, map(_copy, variables)
    )  # on JAX, Keras's own share a buffer with their averages


@contextlib.contextmanager
def without_optimizer(model):
    """Keras writes the optimizer's state into weight files, and reads it from them."""
    optimizer = vars(model).get("optimizer")
    vars(model)["optimizer"] = None
    try:
        yield
    finally:
        vars(model)["optimizer"] = optimizer
