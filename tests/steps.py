"""Driving an optimizer by given gradients: eagerly, and compiled as each backend does it."""

import keras
import numpy as np
from keras import ops

BACKEND = keras.backend.backend()


def to_numpy(variable):
    return np.array(ops.convert_to_numpy(variable))


def variables_of(arrays, dtype):
    return [
        keras.Variable(np.asarray(array, "float64"), dtype=dtype, name=f"w{i}")
        for i, array in enumerate(arrays)
    ]


class Stepper:
    """Applies gradients to variables in the backend's compiled form; counts its traces.

    JAX jits `stateless_apply`, TensorFlow compiles `apply` by XLA, PyTorch has TorchDynamo trace
    `stateless_apply` (without a C compiler).
    """

    def __init__(self, optimizer, variables):
        self.optimizer, self.variables, self.traces = optimizer, variables, 0
        optimizer.build(variables)
        if BACKEND == "jax":
            import jax

            self._step = jax.jit(self._stateless)
        elif BACKEND == "tensorflow":
            import tensorflow as tf

            self._step = tf.function(self._stateful, jit_compile=True)
        else:
            import torch

            torch._dynamo.reset()
            self._step = torch.compile(self._stateless, backend="eager")

    def _stateless(self, optimizer_values, values, grads):
        if BACKEND == "jax":
            self.traces += 1
        return self.optimizer.stateless_apply(optimizer_values, grads, values)

    def _stateful(self, grads):
        self.traces += 1
        self.optimizer.apply(grads, self.variables)

    def __call__(self, grads):
        if BACKEND == "tensorflow":
            self._step(grads)
            return
        state = self.optimizer.variables
        values, state_values = self._step(
            [v.value for v in state], [v.value for v in self.variables], grads
        )
        for variable, value in zip(self.variables + state, values + state_values, strict=True):
            variable.assign(value)


def trajectory(optimizer, start, gradients, dtype="float32", compiled=False):
    """The weights after each step: a list over steps of lists over variables, in float64.

    `start` is a list of arrays, `gradients` a list over steps of such lists.
    """
    variables = variables_of(start, dtype)
    step = Stepper(optimizer, variables) if compiled else None
    weights = []
    for grads in gradients:
        grads = [ops.convert_to_tensor(np.asarray(g, "float64"), dtype) for g in grads]
        if compiled:
            step(grads)
        else:
            optimizer.apply(grads, variables)
        weights.append([to_numpy(v).astype("float64") for v in variables])
    return weights


def random_problem(steps=12, seed=0):
    """Weights of two shapes, and gradients with scales from 1e-3 to 10 for them."""
    random = np.random.RandomState(seed)
    shapes = [(2, 3), (3,)]
    start = [random.randn(*shape) for shape in shapes]
    scales = 10.0 ** random.uniform(-3, 1, size=steps)
    return start, [[s * random.randn(*shape) for shape in shapes] for s in scales]


def largest_difference(one, other):
    """Over two trajectories, or two lists of arrays."""
    return max(
        np.max(np.abs(np.asarray(a) - np.asarray(b)))
        for a, b in zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True)
    )
