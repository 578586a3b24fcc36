"""Where the lengths of weight vectors matter to what a model computes, and where they do not.

A positive factor on a unit's weight vector is undone if batch normalization follows, directly or
after operations that carry the factor along.
"""

from __future__ import annotations

import re
from typing import Any

import keras
from keras import layers

#: Layers whose units scale and shift as their inputs' units do.
_LIKE_INPUTS = (
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D, layers.Identity),
    *(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D),
    *(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D),
    *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D),
)
#: Layers whose units scale as their inputs' units do, but do not shift.
_SCALING = (
    *(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D),
    *(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D),
    *(layers.LeakyReLU, layers.PReLU),
)
_HOMOGENEOUS = (keras.activations.relu, keras.activations.leaky_relu)


def find_scales(model: keras.Model, holders: list[tuple]) -> tuple[list[str], list[str]]:
    """Paths of the variables whose vectors' lengths matter, and of those where nothing is known.

    `holders` are pairs of a layer and its variable. Layers that are no operation of a functional or
    sequential model, such as those within attention or custom layers, cannot be followed.
    """
    graphs = _graphs(model)
    matters, unknown = [], []
    for layer, variable in holders:
        own = [graph for graph in graphs if any(layer is o for o in graph.operations)]
        if not own:
            unknown.append(variable.path)
        elif variable.name == "depthwise_kernel":  # its units are mixed within the layer
            matters.append(variable.path)
        elif not all(_is_undone(layer, graph) for graph in own):
            matters.append(variable.path)
    return matters, unknown


def _graphs(model) -> list[Any]:
    """The functional graphs in a model: of itself and of all models nested in it."""
    found = (getattr(layer, "_functional", layer) for layer in model._flatten_layers())
    return list({id(graph): graph for graph in found if hasattr(graph, "_nodes_by_depth")}.values())


def _is_undone(layer, graph) -> bool:
    """Whether a positive factor on any unit of `layer` is undone wherever its output is used."""
    if isinstance(layer, layers.EinsumDense):
        _, kernel, outputs = einsum_labels(layer.equation)
        if set(kernel) & set(outputs) != {outputs[-1]}:
            return False  # its units are spread over several axes
    has_bias = getattr(layer, "bias", None) is not None
    activation = getattr(layer, "activation", keras.activations.linear)
    if activation is not keras.activations.linear and (has_bias or activation not in _HOMOGENEOUS):
        return False
    channels_first = getattr(layer, "data_format", None) == "channels_first"
    leaving = {id(tensor) for tensor in graph.outputs}
    calls = [node for nodes in graph._nodes_by_depth.values() for node in nodes]

    def is_gone(tensor) -> bool:
        users = [n for n in calls if any(t is tensor for t in n.arguments.keras_tensors)]
        if id(tensor) in leaving or not users:
            return False
        return all(undoes(node, rank=len(tensor.shape)) for node in users)

    def undoes(node, rank) -> bool:
        if isinstance(node.operation, layers.BatchNormalization):
            is_of_units = node.operation.axis % rank == (1 if channels_first else rank - 1)
            return is_of_units and node.operation.trainable  # frozen, it keeps old statistics
        carries = isinstance(node.operation, _LIKE_INPUTS)
        carries = carries or (not has_bias and _is_homogeneous(node.operation))
        return carries and all(is_gone(tensor) for tensor in node.outputs)

    mine = [node for node in calls if node.operation is layer]
    return all(is_gone(tensor) for node in mine for tensor in node.outputs)


def _is_homogeneous(operation) -> bool:
    """Whether a positive factor on a unit of its input is the same factor on its output."""
    if isinstance(operation, layers.ReLU):
        return operation.max_value is None and not operation.threshold
    if isinstance(operation, layers.Activation):
        return operation.activation in (keras.activations.linear, *_HOMOGENEOUS)
    is_function = type(operation).__name__ in ("Relu", "LeakyRelu")
    return is_function or isinstance(operation, _SCALING)


def einsum_labels(equation: str) -> list[str]:
    """The labels of inputs, kernel and outputs in `"inputs,kernel->outputs"`."""
    return re.split(",|->", equation.replace(" ", ""))
