"""What a step of a small model takes whatever it computes: a rule beside programs that do less.

    OMP_NUM_THREADS=2 KERAS_BACKEND=jax python -m benchmarks.overhead

`nothing` counts the steps and leaves weights and state as they are; `one addition` adds a number to
each of them, which no rule can do without. On PyTorch `without the rule` is our step with nothing
computed, and `operations alone` is what the rule computes on one flat tensor, one call to PyTorch
after the other and no other Python. All take turns, and ratios to Keras's optimizer of the same
name, AdamW by default, are taken within a turn.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time

import keras

import keras_adamfamily as kaf
from benchmarks.contenders import BACKEND, KERAS_FORM, arrays, contenders
from benchmarks.shapes import SHAPES

SHAPE = SHAPES["mlp"]
ROUNDS, STEPS, PAUSE = 60, 20, 0.02


def made(rule: str, shapes) -> tuple:
    """Our optimizer in Keras's form, built, and its variables."""
    optimizer = getattr(kaf, rule)(1e-3, **KERAS_FORM.get(rule, {}))
    variables = [keras.Variable(x, name="kernel") for x in arrays(shapes)]
    optimizer.build(variables)
    return optimizer, variables


def least(rule: str, adds: bool):
    """A step on the variables of a rule: a count, and one addition to each of them or none."""
    optimizer, weights = made(rule, SHAPE)
    variables = weights + [v for v in optimizer.variables if v.shape and v.dtype == "float32"]
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


def without_rule(rule: str):
    """Our step on PyTorch, whose rule computes nothing."""

    import torch

    optimizer, variables = made(rule, SHAPE)
    optimizer._kernels.step = lambda *_: []
    grads = [keras.ops.convert_to_tensor(x) for x in arrays(SHAPE, 1)]
    return torch.no_grad()(lambda: optimizer.apply(grads, variables))


def operations_alone(rule: str):
    """The rule's calls to PyTorch, on one thread as in our step, without looking for what to do."""
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    optimizer, variables = made(rule, [(sum(map(math.prod, SHAPE)),)])
    c = optimizer._context("float32", optimizer._rate(), None)
    names = tuple(optimizer._states[0])
    held = [*variables, *optimizer._states[0].values()]
    tensors = [torch.ones(variables[0].shape), *(v.value.data for v in held)]

    def update(*tensors):
        optimizer._kernels._update(tensors, None, names, {}, c, None)

    with torch.no_grad():
        traced = make_fx(update)(*tensors)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    threads = torch.get_num_threads()

    @torch.no_grad()
    def step():
        torch.set_num_threads(1)
        traced(*tensors)
        torch.set_num_threads(threads)

    return step


def measure(rule: str) -> None:
    """Prints the table of one rule."""
    steps = {name: make(SHAPE) for name, make in contenders(rule).items()}
    steps |= {"nothing": least(rule, adds=False), "one addition": least(rule, adds=True)}
    if BACKEND == "torch":
        steps["without the rule"] = without_rule(rule)
        steps["operations alone"] = operations_alone(rule)
    times = {name: [] for name in steps}
    for _ in range(ROUNDS + 1):  # the first compiles
        for name, step in steps.items():
            time.sleep(PAUSE)  # until OpenMP's threads of the one before sleep
            start = time.perf_counter()
            for _ in range(STEPS):
                step()
            times[name].append((time.perf_counter() - start) / STEPS)
    print(f"{f'{rule}, {BACKEND}':20}      ms  x Keras  quartiles")
    for name, taken in times.items():
        ratios = [mine / keras for mine, keras in zip(taken, times["keras"], strict=True)][1:]
        low, middle, high = statistics.quantiles(ratios, n=4)
        milliseconds = 1e3 * statistics.median(taken[1:])
        print(f"{name:20}{milliseconds:8.3f}{middle:9.2f}  {low:.2f} to {high:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    shared = [name for name in kaf.names() if hasattr(keras.optimizers, name)]
    parser.add_argument("--rules", default="AdamW", help=f"of {', '.join(shared)}")
    rules = parser.parse_args().rules.split(",")
    if unknown := set(rules).difference(shared):
        parser.error(f"Keras has no {', '.join(unknown)}: choose of {', '.join(shared)}")
    for rule in rules:
        measure(rule)


if __name__ == "__main__":
    main()
