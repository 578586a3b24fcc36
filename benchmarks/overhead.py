"""What a step of a small model takes whatever it computes: AdamW beside programs that do less.

    OMP_NUM_THREADS=2 KERAS_BACKEND=jax python -m benchmarks.overhead

`nothing` counts the steps and leaves weights and state as they are; `one addition` adds a number to
each of them, which no rule can do without. All take turns, and ratios to Keras's AdamW are taken
within a turn.
"""

from __future__ import annotations

import statistics
import time

import keras

from benchmarks.contenders import BACKEND, arrays, contenders
from benchmarks.shapes import SHAPES

SHAPE = SHAPES["mlp"]
ROUNDS, STEPS = 60, 20


def least(adds: bool):
    """A step on the variables of AdamW: a count, and one addition to each of them or none."""
    values = [x for _ in ("weights", "momentum", "velocity") for x in arrays(SHAPE)]
    variables = [keras.Variable(x) for x in values]
    count = keras.Variable(0, dtype="int32", trainable=False)

    def update():
        count.assign_add(1)
        for variable in variables if adds else ():
            variable.assign_add(1e-9)

    if BACKEND == "torch":
        import torch

        return torch.no_grad()(update)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(update, jit_compile=True)
        return lambda: (compiled(), count.numpy())
    import jax

    def pure(values):
        with keras.StatelessScope(zip([*variables, count], values, strict=True)) as scope:
            update()
        return [scope.get_current_value(v) for v in [*variables, count]]

    compiled, held = jax.jit(pure, donate_argnums=0), [[v.value for v in [*variables, count]]]

    def step():
        held[:] = [jax.block_until_ready(compiled(*held))]

    return step


def main() -> None:
    steps = {name: make(SHAPE) for name, make in contenders("AdamW").items()}
    steps |= {"nothing": least(adds=False), "one addition": least(adds=True)}
    times = {name: [] for name in steps}
    for _ in range(ROUNDS + 1):  # the first compiles
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(STEPS):
                step()
            times[name].append((time.perf_counter() - start) / STEPS)
    print(f"{BACKEND:20}      ms  x Keras  quartiles")
    for name, taken in times.items():
        ratios = [mine / keras for mine, keras in zip(taken, times["keras"], strict=True)][1:]
        low, middle, high = statistics.quantiles(ratios, n=4)
        milliseconds = 1e3 * statistics.median(taken[1:])
        print(f"{name:20}{milliseconds:8.3f}{middle:9.2f}  {low:.2f} to {high:.2f}")


if __name__ == "__main__":
    main()
