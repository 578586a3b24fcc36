"""Who is measured: a step of each library's optimizer, behind one interface.

A contender is a function of `(shapes, seed)` that returns a function which makes one step and waits
for it, on weights and gradients of these shapes.
"""

import functools
import importlib.util

import keras
import numpy as np
from keras import ops

import keras_adamfamily as kaf

BACKEND = keras.backend.backend()

#: Keras's arguments that make our rule compute what theirs does, where the two differ.
KERAS_FORM = {
    "Adam": {"epsilon": 1e-7, "epsilon_form": "hat"},
    "AdamW": {"epsilon": 1e-7, "epsilon_form": "hat"},
    "AMSGrad": {"epsilon": 1e-7, "epsilon_form": "hat", "bias_correction": True},
    "Nadam": {"epsilon": 1e-7, "schedule": "keras3"},
    "SGD": {"momentum": 0.9},
}


def arrays(shapes, seed=0):
    random = np.random.default_rng(seed)
    return [0.01 * random.standard_normal(shape, dtype="float32") for shape in shapes]


def keras_step(make, jit=True):
    """One step of a Keras optimizer, compiled as `model.fit` does it on this backend."""

    def contender(shapes):
        optimizer = make()
        # By its name NDAdam knows what holds weight vectors.
        variables = [
            keras.Variable(x, name="kernel" if x.ndim > 1 else "bias") for x in arrays(shapes)
        ]
        grads = [ops.convert_to_tensor(x) for x in arrays(shapes, 1)]
        optimizer.build(variables)
        if BACKEND == "torch":
            return _torch_waiting(lambda: optimizer.apply(grads, variables))
        if BACKEND == "tensorflow":
            import tensorflow as tf

            compiled = tf.function(lambda: optimizer.apply(grads, variables), jit_compile=jit)

            def step():
                compiled()
                optimizer.iterations.numpy()

            return step
        import jax

        def pure(state, values, grads):
            return optimizer.stateless_apply(state, grads, values)[::-1]

        compiled = jax.jit(pure, donate_argnums=(0, 1))
        held = [[v.value for v in optimizer.variables], [v.value for v in variables]]

        def step():
            held[:] = jax.block_until_ready(compiled(*held, grads))

        step.lowered = lambda: compiled.lower(*held, grads)
        return step

    return contender


def _torch_waiting(update):
    import torch

    @torch.no_grad()
    def step():
        update()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return step


def torch_step(make):
    """One step of a `torch.optim` optimizer."""

    def contender(shapes):
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        parameters = [torch.nn.Parameter(torch.from_numpy(x).to(device)) for x in arrays(shapes)]
        for p, g in zip(parameters, arrays(shapes, 1), strict=True):
            p.grad = torch.from_numpy(g).to(device)
        return _torch_waiting(make(parameters).step)

    return contender


def optax_step(make):
    """One step of an optax transformation, jitted, with donated buffers."""

    def contender(shapes):
        import jax
        import optax

        transformation = make(optax)
        values = [jax.numpy.asarray(x) for x in arrays(shapes)]
        grads = [jax.numpy.asarray(x) for x in arrays(shapes, 1)]

        def pure(state, values, grads):
            updates, state = transformation.update(grads, state, values)
            return state, optax.apply_updates(values, updates)

        compiled = jax.jit(pure, donate_argnums=(0, 1))
        held = [transformation.init(values), values]

        def step():
            held[:] = jax.block_until_ready(compiled(*held, grads))

        step.lowered = lambda: compiled.lower(*held, grads)
        return step

    return contender


def contenders(rule: str, **around):
    """Name to contender, for one of our rules and Keras's common arguments around it."""
    form = {**KERAS_FORM.get(rule, {}), **around}
    theirs, arguments = ("Adam", {"amsgrad": True}) if rule == "AMSGrad" else (rule, {})
    if rule == "SGD":
        arguments = {"momentum": 0.9}
    found = {}
    for jit in (True, False) if BACKEND == "tensorflow" else (True,):
        suffix = "" if jit else ", no XLA"
        ours = keras_step(lambda: getattr(kaf, rule)(1e-3, **form), jit)
        found[f"ours{suffix}"] = ours
        if hasattr(keras.optimizers, theirs) and "state_dtype" not in around:
            found[f"keras{suffix}"] = keras_step(
                lambda: getattr(keras.optimizers, theirs)(1e-3, **arguments, **around), jit
            )
    if not around:
        found.update(_others(rule))
    return found


def _others(rule):
    """Libraries beside Keras; what is not installed is left out, with a line that says so."""
    found = {}
    if BACKEND == "jax" and _installed("optax"):
        names = {"Adam": "adam", "AdamW": "adamw", "AMSGrad": "amsgrad", "Nadam": "nadam"}
        if rule in names:
            found["optax"] = optax_step(lambda optax: getattr(optax, names[rule])(1e-3))
    if BACKEND == "torch":
        import torch

        names = {"Nadam": "NAdam", "AMSGrad": "Adam"}
        arguments = {"AMSGrad": {"amsgrad": True}, "SGD": {"momentum": 0.9}}.get(rule, {})
        cls = getattr(torch.optim, names.get(rule, rule), None)
        if cls is not None:
            kinds = (
                ["foreach", "fused"]
                if rule in ("Adam", "AdamW", "AMSGrad", "SGD", "Adagrad")
                else ["foreach"]
            )
            for kind in kinds:
                found[f"torch {kind}"] = torch_step(
                    lambda p, kind=kind: cls(p, lr=1e-3, **arguments, **{kind: True})
                )
        if _installed("pytorch_optimizer") and rule in ("AdamW", "SGDW"):
            import pytorch_optimizer

            arguments = {"momentum": 0.9} if rule == "SGDW" else {}
            found["pytorch_optimizer"] = torch_step(
                lambda p: getattr(pytorch_optimizer, rule)(p, **arguments)
            )
    return found


@functools.cache
def _installed(name):
    if importlib.util.find_spec(name) is not None:
        return True
    print(f"{name} is not installed: left out")
    return False
