"""XLA's compiled steps update weights and state in place, and keep no array beside them."""

import re

import keras
import numpy as np
import pytest

import keras_adamfamily as kaf
from tests.steps import BACKEND

pytestmark = pytest.mark.skipif(BACKEND == "torch", reason="XLA")

SHAPE = (128, 256)
#: Rules that need what is rounded later for something else too.
KEEP_ONE = (("ADOPT", "bfloat16"), ("SWATS", "bfloat16"))


def optimized_program(optimizer):
    """XLA's text of a step on one variable, and the bytes that it keeps meanwhile."""
    variables = [keras.Variable(np.ones(SHAPE, "float32"), name="kernel")]  # vectors to ND-Adam
    optimizer.build(variables)
    gradient = np.ones(SHAPE, "float32")
    if BACKEND == "jax":
        import jax

        def step(state, values, gradient):
            return optimizer.stateless_apply(state, [gradient], values)[::-1]

        held = [[v.value for v in of] for of in (optimizer.variables, variables)]
        compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*held, gradient).compile()
        return compiled.as_text(), compiled.memory_analysis().temp_size_in_bytes
    import tensorflow as tf

    program = optimizer._programs._program((0,))
    arguments = [tf.constant(gradient)], tf.constant(0.1)
    return program.experimental_get_compiler_ir(*arguments)(stage="optimized_hlo"), 0


@pytest.mark.parametrize("name", kaf.names())
@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16"])
def test_nothing_is_copied(name, state_dtype):
    if (name, state_dtype) == ("NDAdam", "bfloat16"):
        pytest.skip("keeps an array of one variable, and copies it on TensorFlow")
    text, kept = optimized_program(kaf.get(name).__class__(state_dtype=state_dtype))
    assert not re.findall(r"\[128,256\]\S* copy\(", text)
    assert kept < 4 * np.prod(SHAPE) or (name, state_dtype) in KEEP_ONE
