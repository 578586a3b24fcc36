"""Sums that compilers are slow at, made of pieces, are the sums."""

import numpy as np
import pytest
from keras import ops

from keras_adamfamily import backends
from tests.steps import BACKEND, to_numpy


def compiled(function):
    """As the backend compiles a step of a large model; eagerly on PyTorch."""
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def program(*tensors):
            with backends.for_program():
                return function(*tensors)

        return tf.function(program, jit_compile=True)
    return function


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((5, 7), None),
        ((80_000,), None),
        ((70_003,), None),
        ((3, 1, 30_000), None),
        ((), None),
        ((9_000, 8), (0,)),
        ((4, 20_000), (0,)),
        ((3, 3, 83, 128), (0, 1, 2)),
        ((300, 2, 111), (0, 2)),
    ],
)
@pytest.mark.parametrize("by_pieces", [True, False])
def test_total_is_the_sum(shape, axes, by_pieces, monkeypatch):
    """To a hundred roundings of positive numbers, where each is one of at most 80,000."""
    if not by_pieces:
        monkeypatch.setattr(backends, "LARGE", np.inf)
    random = np.random.default_rng(0)
    x, y = random.uniform(1, 2, (2, *shape)).astype("float32")
    small = tuple(1 if k in axes else size for k, size in enumerate(shape)) if axes else ()
    factor = random.uniform(1, 2, small).astype("float32")

    def squares(x, y, factor):
        return (x + factor * y) ** 2

    found = compiled(lambda *tensors: backends.total(squares, *tensors, axes=axes))(
        *map(ops.convert_to_tensor, (x, y, factor))
    )
    exact = np.sum(squares(*map(np.float64, (x, y, factor))), axes, keepdims=axes is not None)
    assert found.shape == exact.shape
    np.testing.assert_allclose(to_numpy(found), exact, rtol=100 * 2.0**-24)
