"""The examples' claims, one file each; all run by `-m slow`."""

import keras
import pytest

#: The marks of an example that trains many trials in one XLA program.
JAX_ONLY = [
    pytest.mark.slow,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="one program for many trials"),
]
