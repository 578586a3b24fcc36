"""Many trials of one Keras model in one XLA program, on Keras's JAX backend.

A *lane* is one trial's place in the program: a seed, and a value for each hyperparameter that
differs between the trials. On JAX a compiled model's `train_step(state, data)` is pure, so that
`fit` becomes a `scan` over epochs and batches, and a population a `map` or `vmap` of it over the
lanes' states, spread over the devices there are. It is Keras's own step: losses, metrics, Dropout,
BatchNormalization, regularizers and a `train_step` of one's own work as in `fit`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_adamfamily.base import FamilyOptimizer
from keras_adamfamily.validation import check_choice, check_integer

if keras.backend.backend() == "jax":
    import jax
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as Spec


def use_all_cores() -> None:
    """Makes a JAX device of each CPU core, so that each core trains lanes of its own.

    By default all cores are one device, of which small models keep one core busy. It has to be
    called before JAX starts, that is before anything is computed; after that, or where `XLA_FLAGS`
    or `JAX_NUM_CPU_DEVICES` say how many devices there are, it changes nothing.

    Example:

    >>> from keras_adamfamily.tuning import population
    >>> population.use_all_cores()
    """
    _need_jax()
    flags = os.environ.get("XLA_FLAGS", "")
    if jax.config.jax_num_cpu_devices < 1 and "host_platform_device_count" not in flags:
        try:
            jax.config.update("jax_num_cpu_devices", os.cpu_count())
        except RuntimeError:  # JAX has started
            pass


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
            `keras.utils.set_random_seed`.
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
        strategy: `"map"` runs the lanes of a device one after the other, `"vmap"` all at once,
            which pays where a lane alone leaves the device idle.
        chunk_size: How many lanes are on the devices at a time at most, an integer >= 1, 128 by
            default. It bounds the memory.
        devices: The JAX devices to spread the lanes over; all by default. See `use_all_cores`.

    Raises:
        RuntimeError: If Keras's backend is not JAX.
        ValueError: If an argument is not valid, if the model is not compiled or not for XLA, or if
            the optimizer has no such hyperparameter or does not accept a value of it.

    Example:

    >>> import keras, numpy as np
    >>> import keras_adamfamily as kaf
    >>> from keras_adamfamily.tuning.population import Population
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
        strategy: str = "map",
        chunk_size: int = 128,
        devices: Sequence[Any] | None = None,
    ):
        _need_jax()
        self.seeds = _checked_seeds(seeds)
        self.hyperparameters = _checked_values(hyperparameters, len(self.seeds))
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.validation_batch_size = self.batch_size
        if validation_batch_size is not None:
            self.validation_batch_size = check_integer(
                "validation_batch_size", validation_batch_size, 1
            )
        self.shuffle = check_choice("shuffle", shuffle, (True, False))
        self.strategy = check_choice("strategy", strategy, ("map", "vmap"))
        self.chunk_size = check_integer("chunk_size", chunk_size, 1)
        self._mesh = Mesh(np.array(devices or jax.devices()), ("lanes",))
        train, self._examples = _arrays("train", train)
        validation = validation and _arrays("validation", validation)[0]
        self._build(build_model, jax.tree.map(lambda array: array[: self.batch_size], train))
        self._data = jax.device_put((train, validation), NamedSharding(self._mesh, Spec()))
        self._program = jax.jit(self._train_lanes, donate_argnums=0)

    def __len__(self) -> int:
        """The number of lanes."""
        return len(self.seeds)

    def train(
        self,
        epochs: int,
        *,
        validation_freq: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, np.ndarray]:
        """Trains every lane for `epochs` more epochs.

        Args:
            epochs: An integer >= 1. The orders of the examples are drawn for all of them at the
                start; where these would be large, call this more often with fewer epochs.
            validation_freq: Evaluate after every so many epochs, an integer >= 1 that divides
                `epochs`.
            progress: Called as `progress(done, lanes)` whenever a chunk of lanes is done.

        Returns:
            The learning curves by the names that `fit` gives them, one row per lane: `"loss"` and
            the metrics of shape (lanes, epochs), and with the prefix `"val_"` those of the
            validation data, of shape (lanes, epochs / validation_freq).

        Raises:
            ValueError: If an argument is out of range.
        """
        epochs = check_integer("epochs", epochs, 1)
        validation_freq = check_integer("validation_freq", validation_freq, 1)
        if epochs % validation_freq:
            raise ValueError(
                "`validation_freq` must divide `epochs`. "
                f"Received: validation_freq={validation_freq}, epochs={epochs}"
            )
        shape = (epochs // validation_freq, validation_freq, self._examples)
        orders = {seed: draw(epochs).reshape(shape) for seed, draw in self._draws.items()}
        spread = NamedSharding(self._mesh, Spec("lanes"))
        parts = []
        for lanes, kept in self._chunks():
            state = jax.tree.map(lambda leaf, lanes=lanes: leaf[lanes], self._state)
            order = np.stack([orders[self.seeds[lane]] for lane in lanes])
            state, order = jax.device_put((state, order), spread)
            result = jax.device_get(self._program(state, order, *self._data))
            parts.append(jax.tree.map(lambda leaf, kept=kept: leaf[:kept], result))
            if progress is not None:
                progress(lanes[kept - 1] + 1, len(self))
        self._state, curves = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        return {name: curve.reshape(len(self), -1) for name, curve in curves.items()}

    def _chunks(self):
        """Equal chunks of lanes, a multiple of the devices, and how many of each are to be kept.

        The last lane is repeated where there are not enough.
        """
        count, devices = len(self), self._mesh.size
        size = math.ceil(count / math.ceil(count / self.chunk_size))
        size = math.ceil(size / devices) * devices
        for first in range(0, count, size):
            yield np.minimum(np.arange(first, first + size), count - 1), min(size, count - first)

    def model(self, lane: int) -> keras.Model:
        """The model with the weights of a lane, to evaluate, predict with or save.

        It is the same model at each call. With `use_ema` its weights are the averages, as after
        `fit`.

        Args:
            lane: An integer, the lane's number from 0.

        Raises:
            IndexError: If there is no such lane.
        """
        lane = range(len(self))[lane]
        for variables, leaves in zip(_variables(self._model), self._state, strict=True):
            for variable, leaf in zip(variables, leaves, strict=True):
                variable.assign(leaf[lane])
        self._model.optimizer.finalize_variable_values(self._model.trainable_variables)
        return self._model

    # The lanes' states: the values of the variables, stacked, in host memory.

    def _build(self, build_model, batch) -> None:
        """Builds the model for each seed; the step of the first one is the program of all lanes."""
        self._draws, states, model = {}, {}, None
        for seed in dict.fromkeys(self.seeds):
            keras.utils.set_random_seed(seed)
            previous, model = model, _checked_model(build_model())
            if model is previous:
                raise ValueError("`build_model` must build a new model at each call")
            values = self._prepare_optimizer(model)
            model._symbolic_build(data_batch=batch)
            self._draws[seed] = _Orders(self._examples, self.shuffle)
            states[seed] = [[np.asarray(v.value) for v in group] for group in _variables(model)]
            if previous is None:
                self._model = model
        optimizer = self._model.optimizer
        place = {id(variable): i for i, variable in enumerate(optimizer.variables)}
        self._step, self._rate = (
            place[id(optimizer._iterations)],
            place[id(optimizer._learning_rate)],
        )
        self._model.reset_metrics()
        self._no_metrics = [np.asarray(v.value) for v in self._model.metrics_variables]
        self._state = jax.tree.map(
            lambda *leaves: np.stack(leaves), *(states[seed] for seed in self.seeds)
        )
        for name, of_lanes in values.items():
            variable = optimizer._tunables.get(name, optimizer._learning_rate)
            self._state[-1][place[id(variable)]][:] = of_lanes

    def _prepare_optimizer(self, model) -> dict[str, np.ndarray]:
        """Gives the model a copy of its optimizer in which the hyperparameters are variables.

        A schedule becomes a multiplier, `self._eta`. Returns the lanes' values of the variables.
        """
        given, values = model.optimizer, dict(self.hyperparameters)
        config, rate, self._eta = given.get_config(), given._learning_rate, None
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            peak = config["learning_rate"] = given._given("initial_learning_rate")
            if peak is not None:
                self._eta = lambda step: rate(step) / peak
        if self._eta is None and not isinstance(rate, keras.Variable):
            raise ValueError(
                "The learning rate of the model's optimizer must be a float, or a schedule whose "
                f"peak is known as `initial_learning_rate`. Received: learning_rate={rate!r}"
            )
        if "learning_rate" in values and (self._eta or not given._given_initial_learning_rate):
            values.setdefault("initial_learning_rate", values["learning_rate"])
        config["tunable"] = [*config["tunable"], *(set(values) - {"learning_rate"})]
        try:
            model.optimizer = type(given).from_config(config)
            for name, of_lanes in values.items():
                for value in (of_lanes.min(), of_lanes.max()):  # accepted are intervals
                    setattr(model.optimizer, name, float(value))
        except ValueError as error:
            raise ValueError(
                f"`hyperparameters` must be floats of the optimizer, {type(given).__name__}, "
                f"at values that it accepts. {error}"
            ) from None
        return values

    # The program.

    def _train_lanes(self, states, orders, train, validation):
        def on_one_device(states, orders, train, validation):
            def lane(arguments):
                return self._train_lane(*arguments, train, validation)

            if self.strategy == "map":
                return jax.lax.map(lane, (states, orders))
            return jax.vmap(lane)((states, orders))

        spread, everywhere = Spec("lanes"), Spec()
        return jax.shard_map(
            on_one_device,
            mesh=self._mesh,
            in_specs=(spread, spread, everywhere, everywhere),
            out_specs=spread,
            check_vma=False,
        )(states, orders, train, validation)

    def _train_lane(self, state, orders, train, validation):
        """`orders` are the rows of `train` in turn, by evaluation, epoch and example."""

        def train_on(carry, rows):
            return self._train_step(carry, jax.tree.map(lambda array: array[rows], train))

        def evaluate_on(carry, rows):
            data = jax.tree.map(lambda array: array[rows], validation)
            weights, others, of_optimizer, metrics = carry
            logs, (weights, others, metrics) = self._model.test_step(
                (weights, others, metrics), data
            )
            return (weights, others, of_optimizer, metrics), logs

        def epoch(state, order):
            return self._over_batches(train_on, state, order, self.batch_size)

        def epochs_and_evaluation(state, orders):
            state, curves = jax.lax.scan(epoch, state, orders)
            if validation is not None:
                rows = np.arange(len(jax.tree.leaves(validation)[0]))
                size = self.validation_batch_size
                state, logs = self._over_batches(evaluate_on, state, rows, size)
                curves = {**curves, **{f"val_{name}": value for name, value in logs.items()}}
            return state, curves

        return jax.lax.scan(epochs_and_evaluation, state, orders)

    def _over_batches(self, step, state, rows, size):
        """One pass over `rows` with fresh metrics, and the logs of its last step, as in Keras."""
        whole = len(rows) // size * size
        carry = (*state, self._no_metrics)
        if whole:
            carry, logs = jax.lax.scan(step, carry, rows[:whole].reshape(-1, size))
            logs = jax.tree.map(lambda log: log[-1], logs)
        if whole < len(rows):
            carry, logs = step(carry, rows[whole:])
        return list(carry[:-1]), logs

    def _train_step(self, carry, data):
        """Keras's step at `learning_rate * eta_t`; the lane's state keeps `learning_rate`."""
        weights, others, of_optimizer, metrics = carry
        rate, of_optimizer = of_optimizer[self._rate], list(of_optimizer)
        if self._eta is not None:
            eta = self._eta(of_optimizer[self._step])
            of_optimizer[self._rate] = rate * eta.astype(rate.dtype)
        logs, carry = self._model.train_step((weights, others, of_optimizer, metrics), data)
        weights, others, of_optimizer, metrics = carry
        of_optimizer[self._rate] = rate
        return (weights, others, of_optimizer, metrics), logs


class _Orders:
    """The orders in which `fit` would take the examples from here on, drawn from NumPy's state."""

    def __init__(self, examples: int, shuffle: bool):
        self.examples, self.shuffle = examples, shuffle
        self.random = np.random.RandomState()
        self.random.set_state(np.random.get_state())
        if shuffle:  # `fit` draws one to look at the first batch, before it trains
            self.random.permutation(examples)

    def __call__(self, epochs: int) -> np.ndarray:
        if self.shuffle:
            orders = [self.random.permutation(self.examples) for _ in range(epochs)]
        else:
            orders = [np.arange(self.examples)] * epochs
        return np.array(orders, "int32")


def _variables(model) -> tuple[list, list, list]:
    return model.trainable_variables, model.non_trainable_variables, model.optimizer.variables


def _need_jax() -> None:
    if keras.backend.backend() != "jax":
        raise RuntimeError(
            "A population needs Keras's JAX backend: set KERAS_BACKEND=jax. "
            f"The backend is {keras.backend.backend()!r}."
        )


def _checked_model(model: Any) -> keras.Model:
    if not isinstance(model, keras.Model) or not model.compiled:
        raise ValueError(f"`build_model` must return a compiled keras.Model. It returned {model!r}")
    if not isinstance(model.optimizer, FamilyOptimizer):
        raise ValueError(
            "`build_model` must compile the model with an optimizer of keras_adamfamily. "
            f"It has {type(model.optimizer).__name__}"
        )
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
