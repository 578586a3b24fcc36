"""How a rule becomes part of a program: traced once, and on TensorFlow compiled by XLA.

Op by op, TensorFlow moves several times the bytes that a rule needs. So in models of `COMPILE_FROM`
parameters and more the whole update is a function that XLA compiles, whether the training step
around it is compiled or not. It takes seconds at the first step. In small models a program of its
own costs more to call than it saves.

A rule marked `elementwise` is traced once for many variables: on TensorFlow as a function of
tensors of any size, on JAX for each shape.
"""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace

from keras_adamfamily import backends
from keras_adamfamily.backends import BACKEND, COMPILE_FROM

if BACKEND == "tensorflow":
    import tensorflow as tf
else:
    import jax


class Programs:
    """Runs one optimizer's updates on TensorFlow."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        size = sum(math.prod(variable.shape) for variable in optimizer._trainable_variables)
        self._is_large = size >= COMPILE_FROM
        self._program = functools.lru_cache(16)(self._make)

    def run(self, grads, indices) -> None:
        """`_accumulate_or_step`, by a program where there can be one."""
        if self.optimizer.gradient_accumulation_steps:  # the totals are dense
            grads = [backends.densify(g) for g in grads]
        is_dense = all(isinstance(g, tf.Tensor) for g in grads)
        if self._is_large and is_dense and not tf.distribute.has_strategy():
            rate = backends.cast(self.optimizer._rate(), self.optimizer._widest_dtype)
            self._program(tuple(indices), self._constants())(grads, rate)
        else:
            self.optimizer._accumulate_or_step(grads, indices)

    def _constants(self) -> tuple:
        """What may be assigned to an optimizer that is built, and is written into the program."""
        o = self.optimizer
        clipping = o.clipnorm, o.clipvalue, o.global_clipnorm
        return *clipping, o.ema_momentum, o.ema_overwrite_frequency

    def _make(self, indices, constants):
        def program(grads, rate):
            with backends.for_program():
                self.optimizer._accumulate_or_step(grads, indices, rate)

        return tf.function(program, jit_compile=True, autograph=False)


def traced_once(optimizer):
    """`optimizer._decayed_update`, traced once for all variables of a kind, not for each.

    It is for variables that are flat, see `FamilyOptimizer._is_flat`. On TensorFlow a kind is of
    any size, but for large variables that the rule sums over, see `backends.total`; on JAX of one
    shape.
    """
    plain, traced = optimizer._decayed_update, {}

    def update(g, w, s, c, fraction, factor, new=None):
        if backends.is_sparse(g) or not backends.is_traced(w):
            return plain(g, w, s, c, fraction, factor, new)

        def rule(g, w, slots, factor=None, new=None):
            s = SimpleNamespace(**slots, decays=decays)
            new, state = plain(g, w, s, c, fraction, factor, new)
            added = {k: slots[k] + x.increment for k, x in state.items() if _is_added(x)}
            return new, state | added

        slots = dict(vars(s))
        decays = slots.pop("decays")
        kind = c.dtype, fraction is None, decays
        if BACKEND == "jax":
            if kind not in traced:
                traced[kind] = jax.jit(rule)
            return traced[kind](g, w, slots, factor, new)
        sums_up = optimizer.sums and w.shape.num_elements() >= backends.LARGE
        shape = tuple(w.shape) if sums_up else (None,) * len(w.shape)
        kind += (shape,)
        if kind not in traced:
            spec = tf.TensorSpec(shape, c.dtype)
            signature = [spec, spec, dict.fromkeys(slots, spec)]
            traced[kind] = tf.function(rule, signature, autograph=False)
        return traced[kind](g if factor is None else g * factor, w, slots)

    return update


def _is_added(value) -> bool:
    return hasattr(value, "increment")
