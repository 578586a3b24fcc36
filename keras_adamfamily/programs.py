"""How TensorFlow runs a rule over all variables: as one XLA program, traced once and not for each.

Op by op, TensorFlow moves several times the bytes that a rule needs. So in models of `COMPILE_FROM`
parameters and more the whole update is a function that XLA compiles, whether the training step
around it is compiled or not. It takes seconds at the first step. In small models a program of its
own costs more to call than it saves.

In a graph a rule marked `elementwise` is traced once, as a function of tensors of any size.
"""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace

import tensorflow as tf

from keras_adamfamily import backends
from keras_adamfamily.backends import COMPILE_FROM


class Programs:
    """Runs one optimizer's updates."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        size = sum(math.prod(variable.shape) for variable in optimizer._trainable_variables)
        self._is_large = size >= COMPILE_FROM
        self._program = functools.cache(self._make)

    def run(self, grads, indices, rate) -> None:
        """Updates the variables of `indices`, by a program where there can be one."""
        is_dense = all(isinstance(g, tf.Tensor) for g in grads)
        if self._is_large and is_dense and not tf.distribute.has_strategy():
            self._program(tuple(indices))(grads, tf.convert_to_tensor(rate))
        else:
            self.optimizer._clip_and_update(grads, indices, rate)

    def _make(self, indices):
        def program(grads, rate):
            with backends.for_xla():
                self.optimizer._clip_and_update(grads, indices, rate)

        return tf.function(program, jit_compile=True, autograph=False)


def traced_once(optimizer):
    """`optimizer._decayed_update`, traced once for all variables with the same scalars.

    It is as good as the original one, and slower, for a variable that it does not fit. Large
    variables that the rule sums over have a trace for each shape, see `backends.total`.
    """
    plain = optimizer._decayed_update
    if tf.executing_eagerly() or not optimizer.is_elementwise:
        return plain
    traced = {}

    def update(g, w, s, c, fraction):
        slots = dict(vars(s))
        traits = {"decays": slots.pop("decays")}
        if not isinstance(g, tf.Tensor) or any(slot.shape != w.shape for slot in slots.values()):
            return plain(g, w, s, c, fraction)
        sums_up = optimizer.sums and w.shape.num_elements() >= backends.LARGE
        shape = tuple(w.shape) if sums_up else (None,) * len(w.shape)
        kind = c.dtype, fraction is None, shape
        if kind not in traced:

            def rule(g, w, slots):
                new, state = plain(g, w, SimpleNamespace(**slots, **traits), c, fraction)
                added = {k: slots[k] + x.increment for k, x in state.items() if _is_added(x)}
                return new, state | added

            spec = tf.TensorSpec(shape, c.dtype)
            signature = [spec, spec, dict.fromkeys(slots, spec)]
            traced[kind] = tf.function(rule, signature, autograph=False)
        return traced[kind](g, w, slots)

    return update


def _is_added(value) -> bool:
    return hasattr(value, "increment")
