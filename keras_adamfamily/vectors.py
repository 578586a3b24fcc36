"""Which axes of a kernel run along the input weight vectors of its units.

The weight vector of a unit is all that multiplies its inputs: a column of a `Dense` kernel, the
filter of one output channel of a convolution. An optimizer sees variables, not layers, so there are
two ways to know the axes: by the layers, exactly (`weight_vectors`), or by the names and ranks that
Keras gives to its layers' variables (`axes_by_name`).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping

import keras
from keras import layers

from keras_adamfamily.hyperparameters import Setting
from keras_adamfamily.scales import einsum_labels, find_scales

#: The axes that a norm of the vectors is summed over; `None` where a variable holds no vectors.
Axes = list[int] | None


# The axes of each kind of kernel, given its rank.


def _all_but_last(rank: int) -> Axes:
    """(..., inputs, units)"""
    return list(range(rank - 1))


def _transposed(rank: int) -> Axes:
    """(..., units, inputs)"""
    return [*range(rank - 2), rank - 1]


def _depthwise(rank: int) -> Axes:
    """(..., channels, multiplier): a vector for each pair of these"""
    return list(range(rank - 2))


def _heads_and_dim(rank: int) -> Axes:
    """(heads, dim, ...)"""
    return [0, 1]


def axes_by_name(path: str, rank: int) -> tuple[Axes, bool]:
    """The axes of a variable by its path and rank, and whether Keras's own names make that sure.

    Only what Keras calls a kernel holds vectors. Where a custom name hides the kind of layer, most
    kernels are (..., inputs, units).
    """
    *owners, name = path.split(":")[0].split("/")
    if rank < 2 or not re.fullmatch(r"((depthwise|pointwise|recurrent)_)?kernel", name):
        return None, True
    if name == "depthwise_kernel":
        return _depthwise(rank), True
    if rank == 2 or name != "kernel":
        return _all_but_last(rank), True
    owner = re.sub(r"_\d+$", "", owners[-1]) if owners else ""
    if len(owners) > 1 and owner == "attention_output":
        return _heads_and_dim(rank), True
    if len(owners) > 1 and rank == 3 and owner in ("query", "key", "value", "gate"):
        return _depthwise(rank), True
    if re.fullmatch(r"conv[123]d_transpose", owner):
        return _transposed(rank), True
    if re.fullmatch(r"depthwise_conv[12]d", owner):
        return _depthwise(rank), True
    return _all_but_last(rank), bool(re.fullmatch(r"conv[123]d|conv_lstm_cell", owner))


_CELLS = (layers.SimpleRNNCell, layers.LSTMCell, layers.GRUCell)
_LAYERS = {
    (layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D, *_CELLS): _all_but_last,
    (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose): _transposed,
    (layers.DepthwiseConv1D, layers.DepthwiseConv2D): _depthwise,
}


def _axes_in(layer, variable) -> tuple[Axes, bool]:
    """The axes of a layer's own variable, and whether the layer's class makes that sure."""
    rank = len(variable.shape)
    if variable.name == "kernel" and isinstance(layer, layers.EinsumDense):
        return _contracted(layer.equation), True
    for classes, axes in _LAYERS.items():
        if isinstance(layer, classes):
            is_kernel = variable.name in ("kernel", "recurrent_kernel")
            return (axes(rank) if is_kernel else None), True
    return axes_by_name(variable.path, rank)


def _contracted(equation: str) -> Axes:
    """The axes of the kernel in `"inputs,kernel->outputs"` that the outputs do not have."""
    _, kernel, outputs = einsum_labels(equation)
    return [axis for axis, label in enumerate(kernel) if label not in outputs] or None


def weight_vectors(model: keras.Model) -> dict[str, Axes]:
    """The axes of the input weight vectors of every trainable variable of a model, by its layers.

    | kernel of                                   | shape                        | axes         |
    |---------------------------------------------|------------------------------|--------------|
    | `Dense`; recurrent cells, both of them      | (in, units)                  | 0            |
    | `Conv`, `ConvLSTM`; `Separable`, pointwise  | (size, in, channels)         | all but last |
    | `ConvTranspose`                             | (size, channels, in)         | all but -2   |
    | `DepthwiseConv`; `Separable`, depthwise     | (size, channels, multiplier) | size         |
    | attention: query, key, value                | (in, heads, dim)             | 0            |
    | attention: output                           | (heads, dim, out)            | 0, 1         |
    | `EinsumDense`: what the output has not      | by its equation              |              |

    All else has `None`: biases, scales, embeddings, low-rank adapters, and weights of custom layers
    that are not called a kernel. Kernels of custom layers go by name and rank.

    Warns of the variables whose vectors cannot be set to length 1 without changing what the model
    computes: those whose units' outputs no `BatchNormalization` follows, directly or after what
    carries the scale of each unit along (pooling; without a bias also ReLU and its kin, dropout,
    padding). A `LayerNormalization` is not enough: it takes out the scale that all units have in
    common, not that of each. Only the layers of functional and sequential models can be followed;
    others are named as unknown.

    Args:
        model: A built Keras model, of any kind and nesting.

    Returns:
        A dictionary from variable paths to lists of axes or `None`, for `NDAdam(vectors=...)`.

    Raises:
        ValueError: If `model` is not a Keras layer, is not built, or uses one path for two
            variables with different axes.

    Example:

    >>> import keras
    >>> import keras_adamfamily as kaf
    >>> inputs = keras.Input((8, 8, 3))
    >>> x = keras.layers.Conv2D(4, 3, use_bias=False, name="stem")(inputs)
    >>> outputs = keras.layers.BatchNormalization(name="norm")(x)
    >>> kaf.weight_vectors(keras.Model(inputs, outputs))
    {'stem/kernel': [0, 1, 2], 'norm/gamma': None, 'norm/beta': None}
    """
    if not isinstance(model, keras.Layer) or not model.built:
        raise ValueError(
            "`model` must be a built Keras model: call it on data, or its `build(input_shape)`, "
            f"first. Received: model={model!r}"
        )
    owners = {
        id(variable): layer
        for layer in model._flatten_layers()
        for variable in layer._trainable_variables
    }
    found, unsure, holders = {}, [], []
    for variable in model.trainable_variables:
        layer, path = owners.get(id(variable)), variable.path
        axes, is_sure = _axes_in(layer, variable)
        if found.setdefault(path, axes) != axes:
            raise ValueError(
                f"Two variables of `model` are called {path!r}, with vectors along the axes "
                f"{found[path]} and {axes}: give their layers different names."
            )
        if not is_sure:
            unsure.append(f"{path} of {type(layer).__name__} (axes {axes})")
        if axes is not None:
            holders.append((layer, variable))
    if unsure:
        warnings.warn(
            "These kernels are not of a layer that Keras defines; their axes are guessed from name "
            f"and rank: {_listed(unsure)}. Correct the dictionary where that is wrong.",
            stacklevel=2,
        )
    _warn_of_scales(model, holders)
    return found


def _warn_of_scales(model, holders) -> None:
    matters, unknown = find_scales(model, holders)
    if matters or unknown:
        warnings.warn(
            "Setting weight vectors to length 1 changes what the model computes, unless a "
            "`BatchNormalization` takes out the scale of each unit."
            + f" None does for: {_listed(matters)}." * bool(matters)
            + f" Inside other layers, and so unknown: {_listed(unknown)}." * bool(unknown)
            + " `None` as the axes leaves a variable to plain Adam; for logits, see "
            "`BatchNormalizedLogits` and `LogitRegularizer`.",
            stacklevel=3,
        )


def _listed(names, at_most=10) -> str:
    more = [f"and {len(names) - at_most} more"] if len(names) > at_most else []
    return ", ".join([*names[:at_most], *more])


# What an optimizer is told.


class VectorAxes(Setting):
    """`None`, or a mapping from paths or regular expressions to axes."""

    def check(self, value):
        if value is None:
            return None
        accepted = (
            f"`{self.name}` must be None or a mapping from variable paths or regular expressions "
            "to an axis, a list of axes, or None."
        )
        if not isinstance(value, Mapping):
            raise ValueError(f"{accepted} Received: {self.name}={value!r}")
        return {key: self._axes(key, axes, accepted) for key, axes in value.items()}

    def _axes(self, key, axes, accepted) -> Axes:
        try:
            if not isinstance(key, str):
                raise ValueError(f"{key!r} is not a string")
            re.compile(key)
            listed = axes if isinstance(axes, list | tuple) or axes is None else [axes]
            if listed is not None:
                listed = [_integer(axis) for axis in listed]
            if listed == []:
                raise ValueError("no axis")
        except (TypeError, ValueError, re.error) as error:
            raise ValueError(
                f"{accepted} Received: {key!r}: {axes!r} ({error}) in {self.name}"
            ) from None
        return listed


def _integer(axis) -> int:
    if isinstance(axis, bool) or not hasattr(axis, "__index__"):
        raise ValueError(f"{axis!r} is not an integer")
    return axis.__index__()


def resolve(variables: list[tuple[str, tuple]], given: Mapping | None) -> list[Axes]:
    """The axes of variables given by path and shape.

    They are those of the last entry of `given` that applies, or else what the path says. An entry
    whose key is the path of a variable applies to that alone; any other key is a regular
    expression, searched for in the paths. Warns once of all axes that are guesses, and of entries
    that apply to nothing.
    """
    given, paths = given or {}, {path for path, _ in variables}
    unused, unsure, found = set(given), [], []
    for path, shape in variables:
        axes, is_sure = axes_by_name(path, len(shape))
        for key, value in given.items():
            if key == path or (key not in paths and re.search(key, path)):
                unused.discard(key)
                axes, is_sure = _checked(value, path, shape), True
        found.append(axes)
        if not is_sure:
            unsure.append(f"{path} of shape {shape}")
    if unsure:
        warnings.warn(
            "NDAdam sees no layers, and the names of these kernels do not tell which axis is that "
            f"of the units; it takes the last: {_listed(unsure)}. Say so exactly with "
            "`vectors=keras_adamfamily.weight_vectors(model)`.",
            stacklevel=2,
        )
    if unused:
        warnings.warn(f"`vectors` names no variable by {_listed(sorted(unused))}.", stacklevel=2)
    return found


def _checked(axes: Axes, path: str, shape) -> Axes:
    if axes is None:
        return None
    rank = len(shape)
    positive = sorted({axis % rank for axis in axes if -rank <= axis < rank}) if rank else []
    if len(positive) != len(axes):
        raise ValueError(
            f"`vectors` must give different axes between {-rank} and {rank - 1} for {path!r} of "
            f"shape {shape}. Received: {axes}"
        )
    return positive
