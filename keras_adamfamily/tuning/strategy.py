"""How to train the trials: one after the other with `fit`, or together in a population.

A population wins where a step is short, since it compiles once and leaves Python out of the loop;
`fit` wins where a step keeps all cores busy anyway. Which one it is, is measured.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_adamfamily.callbacks import EvaluateEMAWeights
from keras_adamfamily.tuning.data import Data
from keras_adamfamily.tuning.trial import one_line
from keras_adamfamily.tuning.variables import share_program
from keras_adamfamily.validation import check_integer

if keras.backend.backend() == "jax":
    import jax

    from keras_adamfamily.tuning.population import Population

#: Operations of an epoch of one lane in a probe, at most: below a second on any machine of today.
PROBE = 1e10
#: How many times as long as compiling another program the rest must take, for it to be tried.
WORTHWHILE = 5.0
#: Steps of a first look.
BRIEF = 2


@dataclasses.dataclass(frozen=True)
class Choice:
    """A strategy, and why.

    Attributes:
        strategy: `"fit"`, `"map"` or `"vmap"`.
        reason: One line for people.
        seconds: What a trial is expected to take, by the strategies that were measured.
        population: With `"map"` and `"vmap"` the lanes that were asked for, not trained yet.
    """

    strategy: str
    reason: str
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    population: Population | None = None


def choose(
    build_model: Callable[[], keras.Model],
    train: Data,
    validation: Data | None = None,
    *,
    hyperparameters: Mapping[str, Sequence[float]],
    seeds: Sequence[int],
    trials: int,
    epochs: int,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    class_weight: Mapping[int, float] | None = None,
    chunk_size: int = 128,
) -> Choice:
    """Finds the fastest way to train trials of one model that differ in the optimizer's floats.

    It trains a few steps each way that is promising, on the model and the data themselves. Time to
    compile counts, shared by the trials that are to come. Where a population cannot do what is
    asked, the answer is `"fit"` with the cause; nothing is measured then.

    Args:
        build_model: As for a `Population`.
        train: The training data.
        validation: The validation data; `None` for none.
        hyperparameters: The values of the first lanes to train, as for a `Population`.
        seeds: Their seeds.
        trials: How many trials there are going to be in all, an integer >= 1.
        epochs: How many epochs each trains, an integer >= 1.
        callbacks: What `fit` would be given. A population can do `keras.callbacks.EarlyStopping`
            that does not restore weights, and `kaf.callbacks.EvaluateEMAWeights`.
        class_weight: As in `fit`.
        chunk_size: How many lanes are in memory at a time at most, an integer >= 1.

    Raises:
        ValueError: If a number is out of range.

    Example:

    >>> import keras, numpy as np
    >>> import keras_adamfamily as kaf
    >>> from keras_adamfamily.tuning import strategy
    >>> from keras_adamfamily.tuning.data import Data
    >>> def build_model():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    ...     model.compile(kaf.Adam(), loss="mse")
    ...     return model
    >>> data = Data.of((np.zeros((64, 4)), np.zeros(64)))
    >>> values, seeds = {"learning_rate": [1e-3, 1e-2]}, [0, 0]
    >>> choice = strategy.choose(build_model, data, hyperparameters=values, seeds=seeds,
    ...                          trials=100, epochs=5)
    >>> choice.strategy in ("fit", "map", "vmap")
    True
    """
    trials = check_integer("trials", trials, 1)
    epochs = check_integer("epochs", epochs, 1)
    chunk_size = check_integer("chunk_size", chunk_size, 1)
    try:
        options = population_options(callbacks)
        arrays = train.arrays(), validation and validation.arrays()
        probe = _Probe(
            build_model,
            arrays,
            hyperparameters,
            list(seeds),
            trials=trials,
            epochs=epochs,
            chunk_size=chunk_size,
            batch_size=train.batch_size,
            validation_batch_size=validation and validation.batch_size,
            shuffle=train.shuffled,
            class_weight=class_weight,
            **options,
        )
        return probe.choice()
    except (Impossible, ValueError) as error:
        return Choice("fit", f"fit: {one_line(error).split(': ', 1)[-1]}")
    except Exception as error:  # whatever a model's own layers raise
        return Choice("fit", f"fit: the trials make no common program. {one_line(error)}")


class Impossible(ValueError):
    """Why there can be no population."""


def population_options(callbacks: Iterable[keras.callbacks.Callback]) -> dict[str, Any]:
    """The arguments of a `Population` that do what the callbacks do.

    Raises:
        Impossible: If there are none, or a population cannot be had at all.
    """
    if keras.backend.backend() != "jax":
        raise Impossible(
            f"training many trials in one program needs the JAX backend, and this is "
            f"{keras.backend.backend()}"
        )
    if keras.distribution.distribution() is not None:
        raise Impossible("a keras.distribution is set, and a population spreads its lanes itself")
    options = {}
    for callback in callbacks:
        if isinstance(callback, EvaluateEMAWeights):
            options["evaluate_average"] = True
        elif type(callback) is not keras.callbacks.EarlyStopping:
            raise Impossible(f"only fit can call the callback {type(callback).__name__}")
        elif "early_stopping" in options:
            raise Impossible("only fit can call more than one EarlyStopping")
        elif callback.restore_best_weights:
            raise Impossible("only fit can do `restore_best_weights=True` of EarlyStopping")
        else:
            options["early_stopping"] = callback
    return options


class _Probe:
    """Measures what a trial takes."""

    def __init__(self, build_model, arrays, hyperparameters, seeds, **settings):
        self.build_model, self.arrays = build_model, arrays
        self.hyperparameters, self.seeds = hyperparameters, seeds
        self.trials, self.epochs = settings.pop("trials"), settings.pop("epochs")
        self.settings = settings
        first = self._population("map", arrays, lanes=1)
        self.devices = first._mesh.devices.ravel()
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(first._state))
        fits = int(_memory(self.devices) / (4 * size))  # host and devices hold it, before and after
        if fits < max(2, len(self.devices)):
            raise Impossible(f"a trial's state of {size / 1e6:.0f} MB leaves no room for others")
        settings["chunk_size"] = min(settings["chunk_size"], fits)
        start = time.perf_counter()
        model = first._new_model(seeds[0])
        operations = _operations(model, first._batch)
        self.set_up = time.perf_counter() - start  # what `fit` has to do for each trial
        self.steps = -(-first._examples // first.batch_size)
        at_once = 1 if self._on_cpu else len(seeds)
        affordable = int(PROBE / max(at_once * operations, 1.0))
        self.probed = min(self.steps, max(2 * BRIEF, affordable))
        self.first = first if self.probed == self.steps else None

    @property
    def _on_cpu(self) -> bool:
        return self.devices[0].platform == "cpu"

    def choice(self) -> Choice:
        best, seconds = self._best_population()
        chosen, where = best.strategy, f"on {_devices_in_words(self.devices)}"
        others = [f"{_in_words(t)} for {name}" for name, t in seconds.items() if name != chosen]
        if seconds[chosen] < self.set_up:
            others.append(f"over {_in_words(self.set_up)} for fit")
        else:
            seconds["fit"] = self._measure_fit()
            if seconds["fit"] < seconds[chosen]:
                mine, its = _in_words(seconds["fit"]), _in_words(seconds[chosen])
                reason = f"fit: {mine} a trial against {its} for {chosen} {where}"
                return Choice("fit", reason, seconds)
            others.append(f"{_in_words(seconds['fit'])} for fit")
        mine = _in_words(seconds[chosen])
        reason = f"{chosen}: {mine} a trial against {', '.join(others)} {where}"
        return Choice(chosen, reason, seconds, self._whole(best))

    def _best_population(self) -> tuple[Population, dict[str, float]]:
        """The faster kind of population, and what a trial takes in those that were measured.

        On a CPU, lanes that run at once gain little: there it takes a brief look first, and only
        where much is left to do. Convolutions at once are never worth it there: with a kernel for
        each lane, XLA has no fast code for them.
        """
        one, other = ("map", "vmap") if self._on_cpu else ("vmap", "map")
        best, seconds, compiling = self._measure(one)
        measured = {one: seconds}
        is_worthwhile = seconds * self.trials > WORTHWHILE * compiling
        if is_worthwhile and self._on_cpu:
            is_worthwhile = not _convolves(best) and self._measure(other, brief=True)[1] < seconds
        if is_worthwhile:
            second, measured[other], _ = self._measure(other)
            best = second if measured[other] < seconds else best
        return best, measured

    def _measure(self, strategy: str, brief: bool = False) -> tuple[Population, float, float]:
        """A population, what a trial takes in it, and what compiling took."""
        lanes = len(self.seeds) if strategy == "vmap" and not brief else 2 * len(self.devices)
        steps = BRIEF if brief else self.probed
        population = self.first if strategy == "map" else None
        if population is None:
            population = self._population(strategy, self._sample(steps), lanes)
        population.chunk_size = self.settings["chunk_size"]
        population.room = min(len(self.seeds), population.chunk_size)
        population.early_stopping = None
        times = []
        for epochs in (1, 1, 3):  # compiles; and the difference is two epochs
            population.restart(*self._lanes(lanes))
            start = time.perf_counter()
            population.train(epochs)
            times.append(time.perf_counter() - start)
        compiling = max(0.0, times[0] - times[1])
        epoch = (max(times[2] - times[1], 0.0) / 2 or times[1]) * self.steps / steps
        to_come = compiling / self.trials if steps < self.steps else 0.0
        return population, self.epochs * epoch / lanes + to_come, compiling

    def _measure_fit(self) -> float:
        """What a trial takes with `fit`: the second one, for which caches are warm."""
        names = {*self.hyperparameters}
        arguments = {"batch_size": self.settings["batch_size"], "verbose": 0}
        arguments["class_weight"] = self.settings["class_weight"]
        train, validation = self._sample(self.probed)
        arguments |= dict(zip(("x", "y", "sample_weight"), train, strict=False))
        arguments["validation_data"] = validation
        if validation is not None:
            arguments["validation_batch_size"] = self.settings["validation_batch_size"]
        for _ in range(2):
            start = time.perf_counter()
            keras.utils.set_random_seed(self.seeds[0])
            model = share_program(self.build_model(), names)
            model.fit(**arguments)
            first = time.perf_counter() - start
        times = []
        for _ in range(2):
            start = time.perf_counter()
            model.fit(**arguments)
            times.append(time.perf_counter() - start)
        epoch = min(times)
        return max(0.0, first - epoch) + self.epochs * epoch * self.steps / self.probed

    def _population(self, strategy, arrays, lanes) -> Population:
        values, seeds = self._lanes(lanes)
        return Population(
            self.build_model,
            *arrays,
            hyperparameters=values,
            seeds=seeds,
            strategy=strategy,
            **self.settings,
        )

    def _whole(self, population) -> Population:
        """All lanes, untrained, on all data."""
        if self.probed < self.steps:
            return self._population(population.strategy, self.arrays, len(self.seeds))
        population.early_stopping = self.settings.get("early_stopping")
        population.restart(self.hyperparameters, self.seeds)
        return population

    def _lanes(self, count: int) -> tuple[dict, list]:
        """So many lanes with the values and seeds given, in turn.

        Those with the lowest rates come first: they are the last to diverge.
        """
        order = np.argsort(self.hyperparameters.get("learning_rate", np.zeros(len(self.seeds))))
        which = order[np.arange(count) % len(order)]
        values = {name: np.asarray(v)[which] for name, v in self.hyperparameters.items()}
        return values, [self.seeds[lane] for lane in which]

    def _sample(self, steps: int) -> tuple:
        """The first steps' training examples, and the same share of the validation data."""
        if steps == self.steps:
            return self.arrays
        train, validation = self.arrays
        count = steps * self.settings["batch_size"]
        share = count / len(keras.tree.flatten(train)[0])

        def first(array):
            return array[: max(1, round(share * len(array)))]

        train = keras.tree.map_structure(lambda array: array[:count], train)
        return train, validation and keras.tree.map_structure(first, validation)


def _convolves(population) -> bool:
    layers = population._program.model._flatten_layers()
    return any("Conv" in type(layer).__name__ for layer in layers)


def _operations(model, batch) -> float:
    """Floating-point operations of a training step, as JAX estimates them before compiling."""
    state = model._get_jax_state(
        trainable_variables=True,
        non_trainable_variables=True,
        optimizer_variables=True,
        metrics_variables=True,
    )
    cost = jax.jit(model.train_step).lower(state, batch).cost_analysis()
    return float((cost or {}).get("flops", 0.0))


def _memory(devices) -> float:
    """Bytes that lanes may take: half of what is free where they run."""
    stats = devices[0].memory_stats() if devices[0].platform != "cpu" else None
    if stats:
        return len(devices) * 0.5 * (stats["bytes_limit"] - stats["bytes_in_use"])
    try:
        return 0.5 * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**31


def _devices_in_words(devices) -> str:
    kind = devices[0].device_kind if devices[0].platform != "cpu" else "CPU"
    return f"{len(devices)} {kind} device{'s' * (len(devices) > 1)}"


def _in_words(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1.0 else f"{1e3 * seconds:.0f} ms"
