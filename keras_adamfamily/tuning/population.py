"""Many trials of one Keras model in one XLA program, on Keras's JAX backend.

A *lane* is one trial's place in the program: a seed, and a value for each hyperparameter that
differs between the trials. On JAX a compiled model's `train_step(state, data)` is pure, so that an
epoch of `fit` becomes a `scan` over batches, and one of a population a loop or `vmap` of it over
the lanes' states, spread over the devices there are. It is Keras's own step: losses, metrics,
Dropout, BatchNormalization, regularizers and a `train_step` of one's own work as in `fit`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_adamfamily.base import FamilyOptimizer
from keras_adamfamily.schedules import TunablePeak
from keras_adamfamily.tuning.program import Program, variables_of
from keras_adamfamily.tuning.stopping import Stopping, check_early_stopping
from keras_adamfamily.tuning.variables import counting_names_anew, give, with_variables
from keras_adamfamily.tuning.xla import need_jax, without_collector
from keras_adamfamily.validation import NON_NEGATIVE, check_choice, check_float, check_integer

if keras.backend.backend() == "jax":
    import jax
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as Spec


class Population:
    """Many trials ("lanes") of one model, trained together; `train` goes on where it stopped.

    Lane k is what this gives, up to rounding, with the optimizer's hyperparameters at the lane's
    values:

    ```python
    keras.utils.set_random_seed(seeds[k])
    model = build_model()
    model.fit(*train, batch_size=batch_size, epochs=epochs, validation_data=validation)
    ```

    The initial weights, Dropout's masks and the order of the examples follow from the lane's seed
    alone. A lane does not feel its neighbours: with `strategy="map"` its numbers are bit for bit
    those that it has alone, and a lane that becomes NaN stays the only one.

    Where the optimizer's learning rate is a schedule, a lane's `learning_rate` takes the place of
    the schedule's peak: `lr_t = learning_rate * eta_t`, `eta_t = schedule(t) / peak`. Decoupled
    decay scales with the same `eta_t`.

    Args:
        build_model: A function without arguments that returns a new `keras.Model`, compiled with an
            optimizer of this family. It is called once for each distinct seed, after
            `keras.utils.set_random_seed`. Only the variables are each seed's own: what else it
            draws, such as a constant array from NumPy, is the first seed's for all. Make it a
            weight that is not trainable.
        train: The training data as arrays, `(x, y)` or `(x, y, sample_weight)`; each may be nested.
        validation: Likewise; `None` for none.
        hyperparameters: `{name: values}`, one value per lane: the floats of the optimizer that
            differ between lanes. `"learning_rate"`, and what `make_tunable` accepts, such as
            `"beta_1"` or `"weight_decay"` (the rate of whichever form the optimizer has).
        seeds: One integer in [0, 2**32) per lane. Equal ones are welcome.
        batch_size: Examples per step, an integer >= 1, 32 by default. As in `fit`, the last batch
            of an epoch is smaller where it must be.
        validation_batch_size: Examples per step of the evaluation, `batch_size` by default.
        shuffle: Whether each epoch has a new order of the examples, the one of `fit`.
        class_weight: As in `fit`: class to weight in the loss, 1 for the classes left out.
        early_stopping: A `keras.callbacks.EarlyStopping`, applied to each lane as `fit` does, with
            `restore_best_weights=False`. A lane whose loss, validation loss or monitored value is
            not finite stops in any case. With `"map"` stopped lanes take no time.
        evaluate_average: Whether to evaluate at the optimizer's moving average of the weights, as
            `kaf.callbacks.EvaluateEMAWeights` does; the optimizer must have `use_ema=True`.
        strategy: `"map"` runs the lanes of a device one after the other, `"vmap"` all at once,
            which pays where a lane alone leaves the device idle.
        chunk_size: How many lanes are on the devices at a time at most, an integer >= 1, 128 by
            default. It bounds the memory.
        room: How many lanes a mapped program is to have room for at least, an integer >= 0, so that
            `restart` with so many does not compile it again. It costs memory alone.
        devices: The JAX devices to spread the lanes over; all by default. See `use_all_cores`.

    Raises:
        RuntimeError: If Keras's backend is not JAX.
        ValueError: If an argument is not valid, if the model is not compiled or not for XLA, or if
            the optimizer has no such hyperparameter or does not accept a value of it.

    Example:

    >>> import keras, numpy as np
    >>> import keras_adamfamily as kaf
    >>> from keras_adamfamily.tuning import Population
    >>> def build_model():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    ...     model.compile(kaf.AdamW(weight_decay=kaf.Decoupled(1e-4)), loss="mse")
    ...     return model
    >>> data = np.random.randn(64, 4), np.random.randn(64, 1)
    >>> values = {"learning_rate": [1e-3, 1e-2, 1e-1], "weight_decay": [0.0, 1e-3, 1e-2]}
    >>> lanes = Population(build_model, data, data, hyperparameters=values, seeds=[0, 0, 0])
    >>> lanes.train(epochs=5)["val_loss"].shape
    (3, 5)
    """

    def __init__(
        self,
        build_model: Callable[[], keras.Model],
        train: tuple,
        validation: tuple | None = None,
        *,
        hyperparameters: Mapping[str, Sequence[float]],
        seeds: Sequence[int],
        batch_size: int = 32,
        validation_batch_size: int | None = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        early_stopping: keras.callbacks.EarlyStopping | None = None,
        evaluate_average: bool = False,
        strategy: str = "map",
        chunk_size: int = 128,
        room: int = 0,
        devices: Sequence[Any] | None = None,
    ):
        need_jax()
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.validation_batch_size = self.batch_size
        if validation_batch_size is not None:
            self.validation_batch_size = check_integer(
                "validation_batch_size", validation_batch_size, 1
            )
        self.shuffle = check_choice("shuffle", shuffle, (True, False))
        self.early_stopping = check_early_stopping(early_stopping)
        self.evaluate_average = check_choice("evaluate_average", evaluate_average, (True, False))
        self.strategy = check_choice("strategy", strategy, ("map", "vmap"))
        self.chunk_size = check_integer("chunk_size", chunk_size, 1)
        self._mesh = Mesh(np.array(devices or jax.devices()), ("lanes",))
        train, self._examples = _arrays("train", train)
        if class_weight is not None:
            train = _with_class_weight(train, class_weight)
        validation = validation and _arrays("validation", validation)[0]
        self._data = jax.device_put((train, validation), NamedSharding(self._mesh, Spec()))
        self._batch = jax.tree.map(lambda array: array[: self.batch_size], train)
        self._build_model, self._names = build_model, set(hyperparameters)
        self._program, self._initial, self._places = None, {}, 0
        self.room = check_integer("room", room, 0)
        self.restart(hyperparameters, seeds)

    def __len__(self) -> int:
        """The number of lanes."""
        return len(self.seeds)

    @property
    def epochs(self) -> np.ndarray:
        """How many epochs each lane has trained: those before it stopped, and the one it did in."""
        return self._stopping.epochs.copy()

    @property
    def stopped(self) -> np.ndarray:
        """`None` for each lane that goes on, or why it stopped.

        `"early stopping"`, or what was not finite: `"loss not finite"`.
        """
        return self._stopping.reasons.copy()

    def restart(self, hyperparameters: Mapping[str, Sequence[float]], seeds: Sequence[int]) -> None:
        """Begins again with new lanes in the same program, which need not be compiled again.

        Args:
            hyperparameters: As in the constructor, of the same names.
            seeds: As in the constructor. With `"map"`, fewer lanes than before never need another
                program; with `"vmap"`, as many do not.

        Raises:
            ValueError: If an argument is not valid.
        """
        seeds = _checked_seeds(seeds)
        values = _checked_values(hyperparameters, len(seeds))
        if set(values) != self._names:
            raise ValueError(
                "`hyperparameters` must be those that the population was made with: "
                f"{', '.join(sorted(self._names))}. Received: {', '.join(sorted(values))}"
            )
        initial = {
            seed: self._initial.get(seed) or self._initial_state(seed)
            for seed in dict.fromkeys(seeds)
        }
        self._check_hyperparameters(values)
        self._initial = initial
        self._draws = {
            seed: _Orders(random, self._examples, self.shuffle)
            for seed, (_, random) in initial.items()
        }
        self.seeds, self.hyperparameters, self._states = seeds, values, None
        self._stopping = Stopping(len(seeds), self.early_stopping, self._program.model)

    def keep(self, lanes: Sequence[int]) -> None:
        """Goes on with some of the lanes, exactly as if the others were still there.

        Args:
            lanes: Their numbers, integers from 0, each once. In this order they are the lanes
                0, 1, ... from now on.

        Raises:
            ValueError: If there is no such lane, or a number comes twice, or there is none.
        """
        chosen = np.asarray(lanes)
        if (
            chosen.ndim != 1
            or not len(chosen)
            or chosen.dtype.kind not in "iu"
            or len(set(chosen.tolist()) & set(range(len(self)))) < len(chosen)
        ):
            raise ValueError(
                f"`lanes` must be different integers in [0, {len(self)}). Received: lanes={lanes!r}"
            )
        self._states = jax.tree.map(lambda leaf: leaf[chosen], self._state)
        self.seeds = [self.seeds[lane] for lane in chosen]
        self.hyperparameters = {name: v[chosen] for name, v in self.hyperparameters.items()}
        self._stopping.keep(chosen)

    def train(
        self,
        epochs: int,
        *,
        validation_freq: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, np.ndarray]:
        """Trains every lane that has not stopped for `epochs` more epochs.

        Args:
            epochs: An integer >= 1. The orders of the examples are drawn for all of them at the
                start; where these would be large, call this more often with fewer epochs.
            validation_freq: Evaluate after every so many epochs, an integer >= 1 that divides
                `epochs`.
            progress: Called as `progress(done, lanes)` whenever a chunk of lanes is done.

        Returns:
            The learning curves by the names that `fit` gives them, one row per lane: `"loss"` and
            the metrics of shape (lanes, epochs), and with the prefix `"val_"` those of the
            validation data, of shape (lanes, epochs / validation_freq). NaN where a lane had
            stopped.

        Raises:
            ValueError: If an argument is out of range, or there is nothing by the name that
                `early_stopping` monitors.
        """
        epochs = check_integer("epochs", epochs, 1)
        validation_freq = check_integer("validation_freq", validation_freq, 1)
        if epochs % validation_freq:
            raise ValueError(
                "`validation_freq` must divide `epochs`. "
                f"Received: validation_freq={validation_freq}, epochs={epochs}"
            )
        orders = {seed: draw(epochs) for seed, draw in self._draws.items()}
        curves = {}
        running = self._stopping.running
        done = len(self) - len(running)
        for lanes in np.array_split(running, math.ceil(len(running) / self.chunk_size) or 1):
            for epoch, on, logs in self._epochs(lanes, orders, epochs, validation_freq):
                for name, values in logs.items():
                    if values.ndim > 1:  # of a metric that is a vector, as F1Score is by default
                        continue
                    curve = curves.setdefault(
                        name, np.full((len(self), epochs), np.nan, values.dtype)
                    )
                    curve[on, epoch] = values
            done += len(lanes)
            if progress is not None:
                progress(done, len(self))
        every = slice(validation_freq - 1, None, validation_freq)
        return {
            name: curve[:, every] if name.startswith("val_") else curve
            for name, curve in curves.items()
        }

    def model(self, lane: int, average: bool = True) -> keras.Model:
        """The model with the weights of a lane, to evaluate, predict with or save.

        It is the same model at each call.

        Args:
            lane: An integer, the lane's number from 0.
            average: Whether with `use_ema` its weights are the averages, as after `fit`.

        Raises:
            IndexError: If there is no such lane.
        """
        lane = range(len(self))[lane]
        model = self._program.model
        for variables, leaves in zip(variables_of(model), self._state, strict=True):
            for variable, leaf in zip(variables, leaves, strict=True):
                variable.assign(leaf[lane])
        if average:
            model.optimizer.finalize_variable_values(model.trainable_variables)
        return model

    # The lanes' states: the values of the variables, stacked, in host memory.

    def _initial_state(self, seed: int) -> tuple[list, Any]:
        """A seed's values of the variables, and NumPy's state, which its orders follow from.

        The step of the first model that is built is the program of all lanes.
        """
        model = self._new_model(seed)
        random = np.random.get_state()
        state = [[np.asarray(v.value) for v in group] for group in variables_of(model)]
        if self._program is None:
            self._program = Program(
                model,
                self._mesh,
                batch_size=self.batch_size,
                validation_batch_size=self.validation_batch_size,
                evaluate_average=self.evaluate_average,
                strategy=self.strategy,
            )
        return state, random

    def _new_model(self, seed: int) -> keras.Model:
        """A model with its variables, ready to train, named as the first one of a program is."""
        keras.utils.set_random_seed(seed)
        with without_collector(), counting_names_anew():
            model = _checked_model(self._build_model(), self.evaluate_average)
            if self._program is not None and model is self._program.model:
                raise ValueError("`build_model` must build a new model at each call")
            self._prepare_optimizer(model)
            model._symbolic_build(iterator=self._look())
        return model

    def _look(self) -> Iterator[tuple]:
        """A first batch, for which `fit` too draws an order of the examples if it is looked at."""
        if self.shuffle:
            np.random.permutation(self._examples)
        yield None, None, iter([self._batch])

    def _prepare_optimizer(self, model) -> None:
        """Gives the model a copy of its optimizer in which the hyperparameters are variables."""
        given = model.optimizer
        rate, peak = given._learning_rate, given._given("initial_learning_rate")
        is_schedule = isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)
        if not (isinstance(rate, keras.Variable) or is_schedule and peak is not None):
            raise ValueError(
                "The learning rate of the model's optimizer must be a float, or a schedule whose "
                f"peak is known as `initial_learning_rate`. Received: learning_rate={rate!r}"
            )
        with self._naming(given):
            give(model, with_variables(given, self._names))

    @property
    def _state(self) -> list:
        """Made when first asked for, so that there is none of it while the program is compiled."""
        if self._states is None:
            initial = [self._initial[seed][0] for seed in self.seeds]
            self._states = jax.tree.map(lambda *leaves: np.stack(leaves), *initial)
            for name, of_lanes in self._tunables(self.hyperparameters).items():
                self._states[-1][self._program.place[name]][:] = of_lanes
        return self._states

    def _check_hyperparameters(self, values) -> None:
        optimizer = self._program.model.optimizer
        is_peak = isinstance(optimizer._learning_rate, TunablePeak)
        for name, of_lanes in self._tunables(values).items():
            with self._naming(optimizer):
                for value in (of_lanes.min(), of_lanes.max()):  # accepted are intervals
                    if name == "learning_rate" and is_peak:
                        check_float(name, float(value), NON_NEGATIVE)
                    else:
                        setattr(optimizer, name, float(value))

    def _tunables(self, values) -> dict[str, np.ndarray]:
        """The values of the optimizer's variables, one of which may repeat the learning rate."""
        values = dict(values)
        optimizer = self._program.model.optimizer
        if "learning_rate" in values and optimizer.is_tunable("initial_learning_rate"):
            values.setdefault("initial_learning_rate", values["learning_rate"])
        return values

    @contextlib.contextmanager
    def _naming(self, optimizer):
        try:
            yield
        except ValueError as error:
            raise ValueError(
                f"`hyperparameters` must be floats of the optimizer, {type(optimizer).__name__}, "
                f"at values that it accepts. {error}"
            ) from None

    # Training: the host decides between epochs which lanes go on.

    def _epochs(self, lanes, orders, epochs, validation_freq):
        """Trains a chunk of lanes; yields each epoch, the lanes that ran in it, and their logs."""
        lane_of, places = self._seats(lanes)
        spread = NamedSharding(self._mesh, Spec("lanes"))
        self._program.compile(len(lane_of), *self._data)
        # One array after another, here and at the end, so that there are no more copies of all.
        state = jax.tree.map(lambda leaf: jax.device_put(leaf[lane_of], spread), self._state)
        for epoch in range(epochs):
            ran = np.isin(lanes, self._stopping.running)
            if not ran.any():
                break
            running = np.isin(np.arange(len(lane_of)), places[ran]).reshape(self._mesh.size, -1)
            turns = np.argsort(~running, axis=1, kind="stable").astype("int32").ravel()
            order = np.stack([orders[self.seeds[lane]][epoch] for lane in lane_of])
            evaluates = (epoch + 1) % validation_freq == 0
            spreads = jax.device_put((order, turns, running.sum(axis=1, dtype="int32")), spread)
            state, logs = self._program(state, *spreads, np.asarray(evaluates), *self._data)
            self._stopping.check(logs)
            logs = {
                name: np.asarray(values)[places[ran]]
                for name, values in logs.items()
                if evaluates or not name.startswith("val_")
            }
            self._stopping.update(lanes[ran], logs)
            yield epoch, lanes[ran], logs
        done = jax.tree.leaves(state)[::-1]
        del state
        for leaf in jax.tree.leaves(self._state):
            leaf[lanes] = np.asarray(done.pop())[places]

    def _seats(self, lanes) -> tuple[np.ndarray, np.ndarray]:
        """The lane at each place of the program, and the place of each lane.

        Each device gets as many. A mapped program has room for more lanes than it runs, which costs
        nothing: it serves for any number up to that. A spare place repeats some lane.
        """
        devices = self._mesh.size
        needed = math.ceil(len(lanes) / devices)
        if self.strategy == "map":
            wanted = max(needed, math.ceil(self.room / devices))
            most = math.ceil(self.chunk_size / devices)
            needed = self._places = max(self._places, min(1 << (wanted - 1).bit_length(), most))
        parts = np.array_split(np.arange(len(lanes)), devices)
        places = np.concatenate([i * needed + np.arange(len(p)) for i, p in enumerate(parts)])
        lane_of = np.full(needed * devices, lanes[0])
        lane_of[places] = lanes
        return lane_of, places


class _Orders:
    """The orders in which `fit` would take the examples, drawn from this state of NumPy's."""

    def __init__(self, state: Any, examples: int, shuffle: bool):
        self.examples, self.shuffle = examples, shuffle
        self.random = np.random.RandomState()
        self.random.set_state(state)

    def __call__(self, epochs: int) -> np.ndarray:
        if self.shuffle:
            orders = [self.random.permutation(self.examples) for _ in range(epochs)]
        else:
            orders = [np.arange(self.examples)] * epochs
        return np.array(orders, "int32")


def _checked_model(model: Any, evaluate_average: bool) -> keras.Model:
    if not isinstance(model, keras.Model) or not model.compiled:
        raise ValueError(f"`build_model` must return a compiled keras.Model. It returned {model!r}")
    if not isinstance(model.optimizer, FamilyOptimizer):
        raise ValueError(
            "`build_model` must compile the model with an optimizer of keras_adamfamily. "
            f"It has {type(model.optimizer).__name__}"
        )
    if evaluate_average and not model.optimizer.use_ema:
        raise ValueError("`evaluate_average` needs an optimizer with `use_ema=True`")
    if model.run_eagerly or not model.jit_compile:
        raise ValueError(
            "A population is one XLA program: `build_model` must not compile the model with "
            "`run_eagerly=True` or `jit_compile=False`, nor use layers that do not support XLA"
        )
    return model


def _checked_seeds(seeds: Any) -> list[int]:
    seeds = [check_integer("seeds", seed, 0) for seed in seeds]
    if not seeds or max(seeds) >= 2**32:
        raise ValueError(f"`seeds` must be integers in [0, 2**32), one per lane. Received: {seeds}")
    return seeds


def _checked_values(hyperparameters: Any, lanes: int) -> dict[str, np.ndarray]:
    values = {name: np.asarray(given, "float64") for name, given in hyperparameters.items()}
    shapes = {name: of_lanes.shape for name, of_lanes in values.items()}
    if set(shapes.values()) - {(lanes,)}:
        raise ValueError(
            f"`hyperparameters` must have one value for each of the {lanes} lanes that `seeds` "
            f"has. Received the shapes {shapes}"
        )
    return values


def _arrays(name: str, data: Any) -> tuple[tuple, int]:
    """The data as `fit` takes it, floats in Keras's default dtype, and the number of examples."""

    def cast(array):
        array = np.asarray(array)
        return array.astype(keras.config.floatx()) if array.dtype.kind == "f" else array

    if not isinstance(data, tuple):
        raise ValueError(f"`{name}` must be a tuple of arrays, (x, y). Received: {type(data)}")
    data = jax.tree.map(cast, data)
    sizes = {array.shape[0] if array.ndim else None for array in jax.tree.leaves(data)}
    if len(sizes) != 1 or not min(sizes):
        raise ValueError(
            f"`{name}` must have arrays of equally many examples, at least one. "
            f"Received the shapes {jax.tree.map(np.shape, data)}"
        )
    return data, sizes.pop()


def _with_class_weight(train: tuple, class_weight: Any) -> tuple:
    """The weights of the classes as weights of the examples, as `fit` makes them."""
    if len(train) != 2 or not isinstance(train[1], np.ndarray):
        raise ValueError(
            "`class_weight` needs training data (x, y) with one array y, and no sample weights"
        )
    if not isinstance(class_weight, Mapping):
        raise ValueError(
            f"`class_weight` must map classes to weights. Received: class_weight={class_weight!r}"
        )
    classes = train[1]
    if classes.ndim > 1:
        one_hot = classes.shape[-1] > 1
        classes = np.argmax(classes, axis=-1) if one_hot else np.squeeze(classes, axis=-1)
    found, index = np.unique(np.round(classes).astype("int64"), return_inverse=True)
    weights = [class_weight.get(int(number), 1.0) for number in found]
    return *train, np.array(weights, keras.config.floatx())[index]
