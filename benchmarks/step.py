"""One optimizer step, ours against Keras's, on the backend that Keras is set to.

    KERAS_BACKEND=jax python -m benchmarks.step

Prints the median time of Keras's step and the median ratio ours / Keras, both over interleaved
rounds, for a small MLP (overhead) and for four big matrices (memory traffic). JAX and TensorFlow
run compiled by XLA with donated buffers, PyTorch eagerly, as in `model.fit`.
"""

import statistics
import time

import keras
import numpy as np
from keras import ops

import keras_adamfamily as kaf

SHAPES = {
    "mlp": [(64, 128), (128,), (128, 128), (128,), (128, 10), (10,)],
    "big4": [(1000, 1000)] * 4,
}
PAIRS = {
    "SGD, momentum": ("SGD", {"momentum": 0.9}),
    "Adam": ("Adam", {}),
    "AdamW": ("AdamW", {}),
    "Nadam": ("Nadam", {}),
    "AdamW, average": ("AdamW", {"use_ema": True}),
    "AdamW, global clip": ("AdamW", {"global_clipnorm": 1.0}),
    "Adam, accumulate 4": ("Adam", {"gradient_accumulation_steps": 4}),
}
ROUNDS, STEPS = 15, 4  # four steps, so that an accumulation comes to its update


def stepper(optimizer, shapes):
    """A function that makes one step and waits for it."""
    random = np.random.RandomState(0)
    variables = [keras.Variable(random.randn(*s).astype("float32")) for s in shapes]
    grads = [ops.convert_to_tensor(random.randn(*s).astype("float32")) for s in shapes]
    optimizer.build(variables)
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        @torch.no_grad()
        def step():
            optimizer.apply(grads, variables)

    elif backend == "tensorflow":
        import tensorflow as tf

        @tf.function(jit_compile=True)
        def compiled():
            optimizer.apply(grads, variables)

        def step():
            compiled()
            optimizer.iterations.numpy()  # waits

    else:
        import jax

        def pure(state, values):
            values, state = optimizer.stateless_apply(state, grads, values)
            return state, values

        compiled = jax.jit(pure, donate_argnums=(0, 1))
        held = [[v.value for v in optimizer.variables], [v.value for v in variables]]

        def step():
            held[:] = jax.block_until_ready(compiled(*held))

    return step


def seconds(step):
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - start) / STEPS


def main():
    print(f"{keras.backend.backend()}: ours / Keras's, median of {ROUNDS} interleaved rounds")
    for shape_name, shapes in SHAPES.items():
        for label, (name, arguments) in PAIRS.items():
            theirs = stepper(getattr(keras.optimizers, name)(**arguments), shapes)
            ours = stepper(getattr(kaf, name)(**arguments), shapes)
            for step in (theirs, ours):
                seconds(step)
            rounds = [(seconds(theirs), seconds(ours)) for _ in range(ROUNDS)]
            keras_ms = 1e3 * statistics.median(theirs for theirs, _ in rounds)
            ratio = statistics.median(ours / theirs for theirs, ours in rounds)
            print(f"{shape_name:6s}{label:22s}Keras {keras_ms:8.3f} ms   ratio {ratio:5.2f}")


if __name__ == "__main__":
    main()
