"""Convolutions inside a loop, as fast on a CPU as outside of one.

XLA's fast CPU convolution takes operands of one layout, (batch, space, channels) by (space, input,
output). The compiler brings others into it only outside of loops; the gradients of a convolution
have others, and within a loop they run 100 times slower. So the transpositions are made here.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

if keras.backend.backend() == "jax":
    import jax
    from jax.extend import core

JITTED = ("jit", "pjit")
CONVOLUTION = "conv_general_dilated"


def with_fast_convolutions(function: Callable) -> Callable:
    """The same function of arrays, its convolutions in the layout that is fast on a CPU."""

    def transformed(*arguments):
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        run = _evaluate if _convolves(closed) else core.jaxpr_as_fun
        outputs = run(closed)(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return transformed


def _convolves(closed) -> bool:
    return any(
        equation.primitive.name == CONVOLUTION
        or (equation.primitive.name in JITTED and _convolves(equation.params["jaxpr"]))
        for equation in closed.jaxpr.eqns
    )


def _evaluate(closed) -> Callable:
    """A traced program as a function again, also the parts of it that are jitted on their own."""

    def run(*inputs):
        values = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
        values.update(zip(closed.jaxpr.invars, inputs, strict=True))

        def read(atoms):
            return [atom.val if isinstance(atom, core.Literal) else values[atom] for atom in atoms]

        for equation in closed.jaxpr.eqns:
            results = _equation(equation, read(equation.invars))
            values.update(zip(equation.outvars, results, strict=True))
        return read(closed.jaxpr.outvars)

    return run


def _equation(equation, operands) -> list:
    primitive, parameters = equation.primitive, equation.params
    if primitive.name in JITTED:
        return _evaluate(parameters["jaxpr"])(*operands)
    if primitive.name == CONVOLUTION:
        return [_convolve(primitive, parameters, *operands)]
    functions, parameters = (), primitive.get_bind_params(parameters)
    if isinstance(parameters, tuple):  # before JAX 0.10
        functions, parameters = parameters
    results = primitive.bind(*functions, *operands, **parameters)
    return results if primitive.multiple_results else [results]


def _convolve(primitive, parameters, left, right):
    numbers = parameters["dimension_numbers"]
    space = tuple(range(1, left.ndim - 1))
    batch, channels, *rest = numbers.lhs_spec
    left = left.transpose((batch, *rest, channels))
    output, input_, *rest = numbers.rhs_spec
    right = right.transpose((*rest, input_, output))
    batch, channels, *rest = numbers.out_spec
    last = left.ndim - 1
    layout = jax.lax.ConvDimensionNumbers(
        lhs_spec=(0, last, *space),
        rhs_spec=(last, last - 1, *(axis - 1 for axis in space)),
        out_spec=(0, last, *space),
    )
    result = primitive.bind(left, right, **{**parameters, "dimension_numbers": layout})
    return result.transpose(np.argsort((batch, *rest, channels)))
