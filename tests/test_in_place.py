"""XLA's compiled steps update weights and state in place, and keep no array beside them."""

import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_adamfamily as kaf
from tests.steps import BACKEND, largest_difference, random_problem, trajectory

pytestmark = pytest.mark.skipif(BACKEND == "torch", reason="XLA")

SHAPE = (256, 512)
#: Rules that need what is rounded later for something else too.
KEEP_ONE = ("ADOPT", "SWATS")
ACCUMULATED = ("SGDW", "RMSprop", "AdamW", "AMSGrad", "ADOPT")


def optimized_program(optimizer):
    """XLA's text of a step on one variable, the bytes that it keeps meanwhile and that it moves."""
    variables = [keras.Variable(np.ones(SHAPE, "float32"), name="kernel")]  # vectors to ND-Adam
    optimizer.build(variables)
    gradient = np.ones(SHAPE, "float32")
    if BACKEND == "jax":
        import jax

        def step(state, values, gradient):
            return optimizer.stateless_apply(state, [gradient], values)[::-1]

        held = [[v.value for v in of] for of in (optimizer.variables, variables)]
        compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*held, gradient).compile()
        kept = compiled.memory_analysis().temp_size_in_bytes
        return compiled.as_text(), kept, compiled.cost_analysis()["bytes accessed"]
    import tensorflow as tf

    program = optimizer._programs._program((0,), optimizer._programs._constants())
    arguments = [tf.constant(gradient)], tf.constant(0.1)
    return program.experimental_get_compiler_ir(*arguments)(stage="optimized_hlo"), 0, 0


@pytest.mark.parametrize("name", kaf.names())
@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16", "mixed_float8"])
def test_nothing_is_copied(name, state_dtype):
    if name == "NDAdam" and state_dtype != "float32":
        pytest.skip("keeps an array of one variable, and copies it on TensorFlow")
    if (name, state_dtype) == ("Adadelta", "mixed_float8"):
        pytest.skip("keeps both states of one variable as float32")
    if (name, BACKEND) == ("SWATS", "tensorflow") and state_dtype != "float32":
        pytest.skip("copies an array of one variable")
    text, kept, _ = optimized_program(kaf.get(name).__class__(state_dtype=state_dtype))
    copied = r"(?<!u8)\[256,512\]\S* copy\("  # ADOPT's bytes are, in one loop
    assert not re.findall(copied, text)
    assert kept < 4 * np.prod(SHAPE) or (name in KEEP_ONE and state_dtype != "float32")


FUSION = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion"
needs_fusion = pytest.mark.skipif(
    BACKEND != "jax" or FUSION not in os.environ.get("XLA_FLAGS", ""), reason="a flag of JAX's XLA"
)


@pytest.mark.skipif(BACKEND != "jax", reason="TensorFlow's program is that of the update alone")
@pytest.mark.parametrize("name", ACCUMULATED)
def test_accumulation_keeps_one_total(name):
    optimizer = kaf.get(name).__class__(gradient_accumulation_steps=4)
    text, kept, _ = optimized_program(optimizer)
    # Its update is a loop, in which the order of what this one computes is not plain to XLA.
    is_kept = name == "ADOPT" and FUSION not in os.environ.get("XLA_FLAGS", "")
    assert len(re.findall(r"\[256,512\]\S* copy\(", text)) == is_kept
    assert kept < 4 * np.prod(SHAPE) * (is_kept + 0.01)


@pytest.mark.skipif(BACKEND != "jax", reason="a flag of JAX's XLA")
def test_with_fused_loops():
    """XLA reads its flags once, so the tests of this file run in a process that has this one."""
    command = [sys.executable, "-m", "pytest", "-q", "-k", "not with_fused_loops", __file__]
    environment = os.environ | {"XLA_FLAGS": FUSION, "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    count = 6 * len(kaf.names()) + len(ACCUMULATED)
    assert f"{count - 3} passed" in done.stdout  # and none but three were skipped


@needs_fusion
@pytest.mark.parametrize("name", kaf.names())
@pytest.mark.parametrize("more", [{}, {"clipnorm": 0.1, "weight_decay": kaf.L2(0.1)}])
def test_every_array_is_read_and_written_once(name, more):
    optimizer = kaf.get(name).__class__(**more)
    text, kept, moved = optimized_program(optimizer)
    assert not re.findall(r"\[256,512\]\S* copy\(", text)
    arrays = 3 + 2 * len(optimizer.slots) + ("clipnorm" in more)
    if name in ("NDAdam", "SWATS"):  # they read again what they sum
        assert moved < 4 * np.prod(SHAPE) * (arrays + 11)
    else:
        assert moved < 4 * np.prod(SHAPE) * (arrays + 0.1)
        assert kept < 4 * np.prod(SHAPE)


@needs_fusion
@pytest.mark.parametrize("name", kaf.names())
def test_one_loop_computes_what_the_rule_says(name):
    more = {"weight_decay": 0.1, "global_clipnorm": 0.5, "gradient_accumulation_steps": 2}
    start, gradients = random_problem()
    paths = [
        trajectory(kaf.get(name).__class__(0.01, **more), start, gradients, compiled=compiled)
        for compiled in (True, False)
    ]
    assert largest_difference(*paths) < 2e-6
