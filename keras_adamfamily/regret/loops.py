"""The game's inner loop in each backend's compiled form, around the optimizer's real `apply`.

JAX runs `lax.fori_loop` over `stateless_apply` and TensorFlow `tf.while_loop` over `apply`, both
compiled by XLA. PyTorch runs `apply` round by round, eagerly.
"""

from __future__ import annotations

import contextlib

import numpy as np
from keras import ops

from keras_adamfamily.backends import BACKEND

if BACKEND == "jax":
    import jax

    try:
        from jax import enable_x64
    except ImportError:  # where it stood before
        from jax.experimental import enable_x64
elif BACKEND == "tensorflow":
    import tensorflow as tf
else:
    import torch

#: The most rounds that one call plays, and one vectorized call pays.
CAPACITY = 2**16


def precision(dtype: str):
    """A context in which tensors may be of `dtype`: JAX has to be asked for float64."""
    if BACKEND == "jax" and dtype == "float64":
        return enable_x64(True)
    return contextlib.nullcontext()


def rounds(optimizer, variable, gradient, capacity: int):
    """A function that plays one round for each of at most `capacity` rows.

    It returns the points played, and leaves the variable and the optimizer's state as they are
    after the last round. `gradient(x, row)` is the gradient of a round's cost at x.
    """
    make = {"jax": _on_jax, "tensorflow": _on_tensorflow, "torch": _on_torch}[BACKEND]
    advance = make(optimizer, variable, gradient)

    def play(rows: np.ndarray) -> np.ndarray:
        return np.asarray(advance(len(rows), _padded(rows, capacity)))[: len(rows)]

    return play


def _on_jax(optimizer, variable, gradient):
    @jax.jit
    def advance(count, rows, x, state):
        def play_round(i, carry):
            x, state, path = carry
            path = path.at[i].set(x)
            (x,), state = optimizer.stateless_apply(state, [gradient(x, rows[i])], [x])
            return x, state, path

        path = jax.numpy.zeros((len(rows), *x.shape), x.dtype)
        return jax.lax.fori_loop(0, count, play_round, (x, state, path))

    def play(count, rows):
        x, state, path = advance(
            count, rows, variable.value, [v.value for v in optimizer.variables]
        )
        for v, value in zip([variable, *optimizer.variables], [x, *state], strict=True):
            v.assign(value)
        return path

    return play


def _on_tensorflow(optimizer, variable, gradient):
    @tf.function(jit_compile=True)
    def advance(count, rows):
        def play_round(i, path):
            x = tf.identity(variable.value)
            optimizer.apply([gradient(x, rows[i])], [variable])
            return i + 1, path.write(i, x)

        path = tf.TensorArray(variable.dtype, len(rows), element_shape=variable.shape)
        _, path = tf.while_loop(lambda i, _: i < count, play_round, (0, path))
        return path.stack()

    return lambda count, rows: advance(tf.constant(count), tf.constant(rows))


def _on_torch(optimizer, variable, gradient):
    @torch.no_grad()
    def advance(count, rows):
        rows = ops.convert_to_tensor(rows)
        path = ops.zeros((len(rows), *variable.shape), variable.dtype)
        for i in range(count):
            path[i] = variable.value
            optimizer.apply([gradient(variable.value, rows[i])], [variable])
        return ops.convert_to_numpy(path)

    return advance


def gradient(cost):
    """The function `(x, t) -> d cost / d x`, which is 0 where the cost does not depend on x."""
    if BACKEND == "jax":
        return jax.grad(cost)
    if BACKEND == "tensorflow":

        def tape_gradient(x, t):
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = cost(x, t)
            return tape.gradient(value, x, unconnected_gradients="zero")

        return tape_gradient

    return torch.func.grad(cost)


def vectorized(cost):
    """A function of arrays of points and of rounds that returns the array of their costs.

    Arrays are filled up to a power of two, so that few lengths are compiled.
    """
    if BACKEND == "jax":
        mapped = jax.jit(jax.vmap(cost))
    elif BACKEND == "tensorflow":
        mapped = tf.function(lambda *xt: tf.vectorized_map(lambda each: cost(*each), xt))
    else:
        mapped = torch.no_grad()(torch.vmap(cost))

    def pay(points: np.ndarray, rows: np.ndarray) -> np.ndarray:
        length = 1 << (len(rows) - 1).bit_length()
        arrays = (ops.convert_to_tensor(_padded(array, length)) for array in (points, rows))
        return ops.convert_to_numpy(mapped(*arrays))[: len(rows)]

    return pay


def _padded(array: np.ndarray, length: int) -> np.ndarray:
    """`array` filled up to `length` by its last element, so that all rounds in it are real."""
    missing = [(0, length - len(array))] + [(0, 0)] * (array.ndim - 1)
    return np.pad(array, missing, mode="edge")
