"""The figures in the header of examples/adam_does_not_converge.py."""

import keras
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(keras.backend.backend() == "torch", reason="needs a compiled loop"),
]
