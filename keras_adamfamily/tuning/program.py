"""The XLA program of a population: an epoch of each lane, and an evaluation when it is due.

Pure functions of the lanes' states around Keras's own `train_step` and `test_step`.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_adamfamily.schedules import TunablePeak
from keras_adamfamily.tuning.convolutions import with_fast_convolutions
from keras_adamfamily.tuning.xla import return_memory, without_collector

if keras.backend.backend() == "jax":
    import jax
    from jax import numpy as jnp
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as Spec


class Program:
    """One epoch of many lanes; once compiled called as `states, logs = program(states, ...)`.

    Attributes:
        model: The model whose step it is.
        place: The index of a hyperparameter in the optimizer's state.

    Args:
        model: A compiled and built model, its optimizer with the hyperparameters in variables.
        mesh: The devices, one axis `"lanes"`.
        batch_size: Examples per step.
        validation_batch_size: Examples per step of the evaluation.
        evaluate_average: Whether to evaluate at the optimizer's average of the weights.
        strategy: `"map"` or `"vmap"`.
    """

    def __init__(
        self,
        model: keras.Model,
        mesh: Mesh,
        *,
        batch_size: int,
        validation_batch_size: int,
        evaluate_average: bool,
        strategy: str,
    ):
        self.model, self._mesh = model, mesh
        self._batch_size, self._validation_batch_size = batch_size, validation_batch_size
        self._evaluate_average, self._strategy = evaluate_average, strategy
        optimizer = model.optimizer
        index = {id(variable): i for i, variable in enumerate(optimizer.variables)}
        self.place = {name: index[id(v)] for name, v in optimizer._tunables.items()}
        rate = optimizer._learning_rate
        rate = rate.peak_now if isinstance(rate, TunablePeak) else rate
        if id(rate) in index:
            self.place["learning_rate"] = index[id(rate)]
        model.reset_metrics()
        self._no_metrics = [np.asarray(v.value) for v in model.metrics_variables]
        self._fit_step = model.train_step
        if mesh.devices.flat[0].platform == "cpu":
            self._fit_step = with_fast_convolutions(self._fit_step)
        self._compiled = {}

    def compile(self, places: int, train: Any, validation: Any) -> None:
        """Compiles it for so many places, unless it is.

        It needs no states for that: they and what a compiler takes would double the memory.
        """
        if places in self._compiled:
            return
        spread = NamedSharding(self._mesh, Spec("lanes"))

        def shape(*shape, dtype="int32"):
            return jax.ShapeDtypeStruct(shape, dtype, sharding=spread)

        states = [
            [shape(places, *variable.shape, dtype=variable.value.dtype) for variable in group]
            for group in variables_of(self.model)
        ]
        orders = shape(places, len(jax.tree.leaves(train)[0]))
        lanes = orders, shape(places), shape(self._mesh.size), np.asarray(True)
        with without_collector():
            run = jax.jit(self._on_all_devices, donate_argnums=0)
            self._compiled[places] = run.lower(states, *lanes, train, validation).compile()
        return_memory()

    def __call__(self, states, orders, turns, counts, evaluates, train, validation) -> tuple:
        """Runs an epoch.

        Args:
            states: The values of `variables_of(model)`, stacked; they are given up.
            orders: For each place, the rows of `train` in turn.
            turns: For each device, its places that run, and then the others.
            counts: For each device, how many run.
            evaluates: Whether an evaluation is due.
            train: The training data, on every device.
            validation: The validation data likewise, or `None`.

        Returns:
            The new states, the others being as they were; and the logs of the places that ran.
        """
        run = self._compiled[len(turns)]
        return run(states, orders, turns, counts, evaluates, train, validation)

    def _on_all_devices(self, states, orders, turns, counts, evaluates, train, validation):
        spread, everywhere = Spec("lanes"), Spec()
        return jax.shard_map(
            self._on_one_device,
            mesh=self._mesh,
            in_specs=(spread, spread, spread, spread, everywhere, everywhere, everywhere),
            out_specs=spread,
            check_vma=False,
        )(states, orders, turns, counts, evaluates, train, validation)

    def _on_one_device(self, states, orders, turns, counts, evaluates, train, validation):
        places, count = np.arange(len(turns)), counts[0]

        @jax.jit  # so that it is traced once
        def lane(state, order):
            return self._lane(state, order, evaluates, train, validation)

        if self._strategy == "vmap":
            runs = jnp.zeros(len(turns), bool).at[turns].set(places < count)
            new, logs = jax.vmap(lane)(states, orders)
            choose = jax.vmap(jnp.where)
            return jax.tree.map(lambda leaf, old: choose(runs, leaf, old), new, states), logs

        def in_turn(i, carry):
            at = turns[i]
            result = lane(*jax.tree.map(lambda leaf: leaf[at], (carry[0], orders)))
            return jax.tree.map(lambda leaf, new: leaf.at[at].set(new), carry, result)

        first = jax.tree.map(lambda leaf: leaf[0], (states, orders))
        logs = jax.tree.map(
            lambda log: jnp.zeros((len(turns), *log.shape), log.dtype),
            jax.eval_shape(lane, *first)[1],
        )
        return jax.lax.fori_loop(0, count, in_turn, (states, logs))

    def _lane(self, state, order, evaluates, train, validation):
        def train_on(carry, rows):
            logs, carry = self._fit_step(carry, jax.tree.map(lambda array: array[rows], train))
            return carry, logs

        def evaluate_on(carry, rows):
            data = jax.tree.map(lambda array: array[rows], validation)
            logs, carry = self.model.test_step(carry, data)
            return carry, logs

        @jax.jit
        def evaluate(state):
            weights, others, of_optimizer = state
            if self._evaluate_average:
                weights = self._averages(weights, of_optimizer)
            rows = np.arange(len(jax.tree.leaves(validation)[0]))
            size = self._validation_batch_size
            (_, others), logs = self._over_batches(evaluate_on, (weights, others), rows, size)
            return others, logs

        def skip(state):
            logs = jax.eval_shape(evaluate, state)[1]
            return state[1], jax.tree.map(lambda log: jnp.zeros(log.shape, log.dtype), logs)

        state, logs = self._over_batches(train_on, state, order, self._batch_size)
        if validation is not None:
            state[1], of_validation = jax.lax.cond(evaluates, evaluate, skip, state)
            logs = {**logs, **{f"val_{name}": log for name, log in of_validation.items()}}
        return state, logs

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

    def _averages(self, weights, of_optimizer):
        """What the weights become at the end of `fit`: their average, once there is one."""
        optimizer, variables = self.model.optimizer, self.model.trainable_variables
        mapping = [*zip(variables, weights, strict=True)]
        mapping += zip(optimizer.variables, of_optimizer, strict=True)
        with keras.StatelessScope(state_mapping=mapping) as scope:
            exists = keras.ops.greater(optimizer.iterations, 0)
            optimizer.finalize_variable_values(variables)
        averages = [scope.get_current_value(variable) for variable in variables]
        return [jnp.where(exists, *pair) for pair in zip(averages, weights, strict=True)]


def variables_of(model: keras.Model) -> tuple[list[Any], list[Any], list[Any]]:
    """The variables whose values are a lane's state: weights, others, the optimizer's."""
    return model.trainable_variables, model.non_trainable_variables, model.optimizer.variables
