"""Where a backend needs its own way: devices, branches, sparse gradients, and float64."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
import os

import keras
from keras import ops

BACKEND = keras.backend.backend()

# `cos` and `maximum` are the backend's own: Keras's round float64 to float32 on JAX and PyTorch.
if BACKEND == "tensorflow":
    import tensorflow as tf
    from tensorflow import cos, maximum
    from tensorflow.compiler.tf2xla.ops import gen_xla_ops
elif BACKEND == "jax":
    import jax
    from jax.experimental import sparse as jax_sparse
    from jax.numpy import cos, maximum
elif BACKEND == "torch":
    import torch
    from torch import cos, maximum
else:
    raise ImportError(
        "keras_adamfamily runs on Keras's TensorFlow, JAX and PyTorch backends. "
        f"Set KERAS_BACKEND to tensorflow, jax or torch. It is {BACKEND!r}."
    )

#: Elements from which an array is worth a longer program, and the pieces that a sum is made of.
LARGE, PIECES = 2**16, 8

#: Models of so many parameters have their rule compiled by torch.compile or XLA, if nothing else
#: compiles the step; the environment variable sets it.
try:
    COMPILE_FROM = float(os.environ.get("KERAS_ADAMFAMILY_COMPILE_FROM", 2e6))
except ValueError as _error:
    raise ValueError(
        "The environment variable KERAS_ADAMFAMILY_COMPILE_FROM must be a number of parameters, "
        f"such as 2e6, or inf: {_error}"
    ) from None

#: Whether Keras clips sparse gradients.
CLIPS_SPARSE = BACKEND == "tensorflow"

# PyTorch's dtypes do not equal their names.
_DTYPES = {"float32": torch.float32, "float64": torch.float64} if BACKEND == "torch" else {}

__all__ = [
    "CLIPS_SPARSE",
    "COMPILE_FROM",
    "LARGE",
    "anew",
    "broadcast",
    "cast",
    "colocated",
    "cos",
    "densify",
    "for_program",
    "fuses_results",
    "in_turn",
    "is_mirrored",
    "is_sparse",
    "is_traced",
    "kept",
    "maximum",
    "merge_rows",
    "on_each_device",
    "replace_now",
    "run_if",
    "standardized",
    "total",
    "untraced",
    "view",
]


def cast(tensor, dtype: str):
    """`ops.cast`, at no cost where there is nothing to do: it is called for every gradient."""
    tensor = tensor.value if isinstance(tensor, keras.Variable) else tensor
    if getattr(tensor, "dtype", None) == _DTYPES.get(dtype, dtype):
        return tensor
    if isinstance(tensor, float):  # which TensorFlow would cast from float32
        return ops.convert_to_tensor(tensor, dtype)
    return ops.cast(tensor, dtype)


def view(tensor, dtype: str):
    """`ops.view` with a type of the same size, also where TensorFlow does not know the shape."""
    return tf.bitcast(tensor, dtype) if BACKEND == "tensorflow" else ops.view(tensor, dtype)


def in_turn(first, scalar, *tensors):
    """All of them, for a program in which what needs the scalar comes after what makes `first`.

    XLA on a CPU updates one array at a time, and copies one whose old state another needs, unless
    the order is plain. Its barrier only keeps apart what is computed before and after, so the
    scalar is made to depend on a number in `first`. On a GPU one loop makes them all, and a copy of
    a small array costs less than the program for it.
    """
    barrier = _barrier(first)
    if barrier is None or _size(first) < LARGE:
        return first, scalar, *tensors
    scalar = ops.convert_to_tensor(scalar, None if hasattr(scalar, "dtype") else first.dtype)
    first, scalar, *tensors = barrier([first, scalar, *tensors])
    part = cast(first[(slice(0, 1),) * len(first.shape)], "float32")
    never = ops.any(ops.isnan(part) & (part == part))
    return first, ops.where(never, ops.zeros_like(scalar), scalar), *tensors


def fuses_results(*tensors) -> bool:
    """Whether XLA on a CPU makes one loop of all that it computes from these tensors."""
    return (
        BACKEND == "jax"
        and not any(map(is_sparse, tensors))
        and is_traced(tensors[-1])
        and jax.default_backend() == "cpu"
        and _has_fused_loops()
    )


@functools.cache
def _has_fused_loops() -> bool:
    """Whether it has been asked for in `XLA_FLAGS`, and is done."""
    if "xla_cpu_use_multi_output_fusion" not in os.environ.get("XLA_FLAGS", ""):
        return False
    program = jax.jit(lambda x: (x + 1.0, 2.0 * x)).lower(jax.ShapeDtypeStruct((1024,), "float32"))
    return program.compile().cost_analysis()["bytes accessed"] < 4 * 4 * 1024


def anew(tensors):
    """The same tensors, for JAX: what is computed from these is not shared with what was before."""
    return jax.lax.optimization_barrier(tensors)


def total(function, *tensors, axes=None):
    """The sum of what an elementwise function gives: of all of it, or along axes, which stay.

    The first of the tensors is as large as any. XLA on a CPU computes what is summed anew, and does
    not keep it for another loop.
    """
    if BACKEND == "torch" and axes is not None:  # one after the other, as `kernels` lays them out
        whole = function(*tensors)
        for axis in reversed(axes):
            whole = ops.sum(whole, axis, keepdims=True)
        return whole
    barrier = _barrier(tensors[0])
    if barrier is not None:
        tensors = barrier([ops.convert_to_tensor(x, tensors[0].dtype) for x in tensors])
    is_slow = BACKEND == "tensorflow" and barrier is not None
    parts = _added_by_pieces(function, tensors, axes) if is_slow else [function(*tensors)]
    return sum(ops.sum(part, axes, keepdims=axes is not None) for part in parts)


def kept(x):
    """`x`, which TorchInductor computes once, not anew for each element of what it is used for.

    On a CPU it keeps sigmoids, but neither roots nor quotients, which take as long.
    """
    in_program = BACKEND == "torch" and _in_program.get()
    return ops.where(x == x, x, ops.sigmoid(x)) if in_program else x


def _added_by_pieces(function, tensors, axes):
    """An eighth of the numbers, with the same sum, and what is left over.

    On a CPU TensorFlow's XLA writes down all numbers that it sums, and goes through them in a slow
    order. The pieces of a tensor are added to one another in the loop that computes them.
    """
    shape = tensors[0].shape
    if not shape.is_fully_defined() or _size(tensors[0]) < LARGE:
        return [function(*tensors)]
    if axes is None:
        tensors = [tf.reshape(x, (-1,)) if x.shape == shape else x for x in tensors]
        shape = tensors[0].shape
    axis = axes[-1] if axes else 0
    size = shape[axis]
    count = size // PIECES
    is_full = [len(x.shape) == len(shape) and x.shape[axis] == size for x in tensors]

    def part(start, stop):
        cut = (slice(None),) * axis + (slice(start, stop),)
        return function(*(x[cut] if full else x for x, full in zip(tensors, is_full, strict=True)))

    parts = [sum(part(k * count, (k + 1) * count) for k in range(PIECES))]
    return [*parts, part(PIECES * count, None)] if size % PIECES else parts


#: Whether a program is being written: for a CPU by TensorFlow, which does not tell that XLA
#: compiles it, or for TorchInductor.
_in_program = contextvars.ContextVar("in_program", default=False)


@contextlib.contextmanager
def for_program():
    """What is traced within is compiled, by XLA or TorchInductor."""
    on_gpu = BACKEND == "tensorflow" and tf.config.list_logical_devices("GPU")
    token = _in_program.set(not on_gpu)
    try:
        yield
    finally:
        _in_program.reset(token)


def _size(tensor) -> float:
    """The number of elements, infinity where TensorFlow does not know it."""
    shape = tuple(tensor.shape)
    return math.inf if None in shape else math.prod(shape)


def _barrier(tensor):
    """XLA's optimization barrier, where XLA compiles for a CPU what is done with the tensor."""
    if is_sparse(tensor) or not is_traced(tensor):
        return None
    if BACKEND == "jax" and jax.default_backend() == "cpu":
        return jax.lax.optimization_barrier
    if BACKEND == "tensorflow" and _in_program.get():
        return gen_xla_ops.xla_optimization_barrier
    return None


def on_each_device(update, grads, variables) -> None:
    """Runs `update(grads)` once on every device that holds a replica of the variables.

    Under `tf.distribute` the gradients are summed over the replicas first, and `update` then runs
    where reading or assigning a mirrored variable means its copy on that device: everything that
    `update` does (clipping, accumulation, whole-model statistics, averages) sees the same numbers
    as on a single device.
    """
    if BACKEND == "torch":
        with torch.no_grad():
            update(grads)
    elif BACKEND == "tensorflow" and tf.distribute.has_strategy():
        replica = tf.distribute.get_replica_context()
        if replica is not None:
            grads = replica.all_reduce(tf.distribute.ReduceOp.SUM, grads)
        anchor = _native(variables[0])

        def merged(strategy, grads):
            def on_device(_, *grads):
                update(list(grads))

            strategy.extended.update(anchor, on_device, args=tuple(grads), group=False)

        tf.__internal__.distribute.interim.maybe_merge_call(
            merged, tf.distribute.get_strategy(), grads
        )
    else:
        update(grads)


def _native(variable):
    return variable.value if isinstance(variable, keras.Variable) else variable


def is_mirrored(variable) -> bool:
    """Whether a `tf.distribute` strategy keeps a replica of it on each device."""
    return BACKEND == "tensorflow" and hasattr(_native(variable), "values")


def run_if(condition, function, variables) -> None:
    """Runs a function that only assigns to `variables`, if a condition holds.

    JAX cannot assign inside a traced branch, so there the function maps values to values. It is the
    body of a loop that runs once or never, since XLA updates what a loop carries in place, and
    copies what a branch hands through.
    """
    if not is_traced(condition):
        if condition:
            function()
    elif BACKEND == "tensorflow":

        def once(_):
            function()
            return (tf.constant(False),)

        tf.while_loop(lambda go: go, once, [condition], maximum_iterations=1)
    else:

        def new(values):
            with keras.StatelessScope(zip(variables, values, strict=True)) as scope:
                function()
            return [scope.get_current_value(variable) for variable in variables]

        values = [variable.value for variable in variables]
        values = _new_if(condition, values, *jax.closure_convert(new, values))
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def _new_if(condition, values, new, read):
    """`new(values, *read)` if the condition holds, else `values`, on JAX.

    JAX does not differentiate such a loop in reverse: the derivatives are those of a branch.
    """

    @jax.custom_jvp
    def loop(condition, values, read):
        def body(carried):
            return False, new(carried[1], *read)

        return jax.lax.while_loop(lambda carried: carried[0], body, (condition, values))[1]

    @loop.defjvp
    def derivative(primals, tangents):
        def branch(values, read):
            return jax.lax.cond(primals[0], new, lambda values, *read: values, values, *read)

        return jax.jvp(branch, primals[1:], tangents[1:])

    return loop(condition, values, read)


def is_traced(tensor) -> bool:
    """Whether a tensor's value is not known while the program is written."""
    if BACKEND == "jax":
        return isinstance(tensor, jax.core.Tracer)
    return BACKEND == "tensorflow" and not tf.executing_eagerly()


def colocated(variable):
    """A context in which new variables are placed, and mirrored, like `variable`."""
    if BACKEND == "tensorflow":
        return tf.distribute.get_strategy().extended.colocate_vars_with(_native(variable))
    return contextlib.nullcontext()


def untraced():
    """A context in which TensorFlow computes at once, also where it is tracing the first step."""
    return tf.init_scope() if BACKEND == "tensorflow" else contextlib.nullcontext()


def replace_now(variable, function) -> None:
    """Assigns `function(variable)` at once, also where TensorFlow is tracing the first step.

    It leaves variables that are only created by that trace, and those seen from within a replica.
    """
    if BACKEND == "tensorflow":
        with untraced():
            is_whole = not tf.distribute.has_strategy() or tf.distribute.in_cross_replica_context()
            if is_whole and _native(variable).is_initialized():
                variable.assign(function(tf.convert_to_tensor(variable)))
    elif BACKEND == "torch":
        with torch.no_grad():
            variable.assign(function(variable.value))
    else:
        variable.assign(function(variable.value))


def is_sparse(tensor) -> bool:
    """Whether `tensor` is a sparse gradient (`tf.IndexedSlices`, `jax.experimental.sparse`)."""
    if BACKEND == "tensorflow":
        return isinstance(tensor, tf.IndexedSlices)
    if BACKEND == "jax":
        return isinstance(tensor, jax_sparse.JAXSparse)
    return False


def densify(tensor):
    """The dense tensor that a gradient stands for: itself, if it is not sparse."""
    if not is_sparse(tensor):
        return tensor
    if BACKEND == "tensorflow":
        return tf.convert_to_tensor(tensor)
    return ops.convert_to_tensor(tensor, sparse=False)


def broadcast(tensor, shape: tuple):
    """`tensor` in a shape, at no cost if it has it, or if TensorFlow does not know its own."""
    if BACKEND == "tensorflow" and tf.is_tensor(tensor) and not tensor.shape.is_fully_defined():
        return tensor
    return tensor if tuple(tensor.shape) == shape else ops.broadcast_to(tensor, shape)


def standardized(tensor, shape: tuple):
    """A gradient as the others here take it, if it is sparse.

    `tf.IndexedSlices` know then what they are slices of, and PyTorch's kernels take dense ones.
    """
    if BACKEND == "torch" and isinstance(tensor, torch.Tensor):
        return tensor if tensor.layout is torch.strided else tensor.to_dense()
    if BACKEND == "tensorflow" and is_sparse(tensor) and tensor.dense_shape is None:
        return tf.IndexedSlices(tensor.values, tensor.indices, tf.constant(shape))
    return tensor


def merge_rows(tensor):
    """A sparse gradient whose repeated rows are merged into the first of them, the others zero.

    A rule that squares the gradient needs each row's sum. Shapes stay static, as XLA needs.
    """
    if BACKEND == "tensorflow":
        rows, values = tensor.indices, tensor.values
        count, order = tf.shape(rows)[0], tf.range(tf.shape(rows)[0])
        first = tf.math.unsorted_segment_min(order, rows, tensor.dense_shape[0])
        values = tf.math.unsorted_segment_sum(values, tf.gather(first, rows), count)
        return tf.IndexedSlices(values, rows, tensor.dense_shape)
    return tensor.sum_duplicates(nse=tensor.nse)
