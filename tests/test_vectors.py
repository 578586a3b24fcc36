"""Which axes are those of the weight vectors, and where their lengths matter: by what layers do."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_adamfamily as kaf
from keras_adamfamily.vectors import axes_by_name, resolve
from tests.steps import BACKEND, to_numpy

RANDOM = np.random.RandomState(0)
#: Layers with one kernel, the inputs' shape without the batch, and the axes of the vectors.
LAYERS = [
    (lambda: layers.Dense(3), (4,), [0]),
    (lambda: layers.Dense(3), (5, 4), [0]),
    (lambda: layers.Conv1D(4, 3), (6, 2), [0, 1]),
    (lambda: layers.Conv2D(4, (3, 2)), (6, 6, 2), [0, 1, 2]),
    (lambda: layers.Conv3D(4, 2), (4, 4, 4, 2), [0, 1, 2, 3]),
    (lambda: layers.Conv1DTranspose(4, 3), (6, 2), [0, 2]),
    (lambda: layers.Conv2DTranspose(4, (3, 2)), (6, 6, 2), [0, 1, 3]),
    (lambda: layers.Conv3DTranspose(4, 2), (4, 4, 4, 2), [0, 1, 2, 4]),
    (lambda: layers.DepthwiseConv1D(3, depth_multiplier=2), (6, 3), [0]),
    (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), (6, 6, 3), [0, 1]),
    (lambda: layers.EinsumDense("abc,cd->abd", (None, 5)), (6, 4), [0]),
    (lambda: layers.EinsumDense("...x,xy->...y", 5), (6, 4), [0]),
    (lambda: layers.EinsumDense("abc,dc->abd", (None, 5)), (6, 4), [1]),
    (lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 5)), (6, 4), [0]),
    (lambda: layers.EinsumDense("abcd,cde->abe", (None, 5)), (6, 3, 4), [0, 1]),
    (lambda: layers.EinsumDense("abc,ebc->ae", 5), (6, 4), [1, 2]),
    (lambda: layers.EinsumDense("bgi,gio->bgo", (3, 5)), (3, 4), [1]),
]
IN_CHANNELS_FIRST = [(lambda: layers.Conv2D(4, 3, data_format="channels_first"), (2, 6, 6))]


def vectors_of(layer, shape):
    """What `weight_vectors` says of the kernel of a layer called by another name than Keras's."""
    model = keras.Sequential([keras.Input(shape), layer])
    with pytest.warns(UserWarning, match="to length 1 changes what the model computes"):
        return kaf.weight_vectors(model)[layer.kernel.path]


def vector_of(axes, shape, index):
    """Selects one vector: everything along the axes, and one place along the others."""
    kept = [size for axis, size in enumerate(shape) if axis not in axes]
    place = iter(np.unravel_index(index, kept))
    return tuple(slice(None) if axis in axes else next(place) for axis in range(len(shape)))


@pytest.mark.once("torch")
@pytest.mark.parametrize(("make", "shape", "axes"), LAYERS)
def test_a_vector_is_all_that_makes_one_unit(make, shape, axes):
    """Doubling a vector doubles one unit's outputs, and no others: each unit has its own."""
    layer = make()
    assert vectors_of(layer, shape) == axes
    x = RANDOM.randn(2, *shape).astype("float32")
    kernel, before = to_numpy(layer.kernel), to_numpy(layer(x))
    units = np.prod([size for axis, size in enumerate(kernel.shape) if axis not in axes])
    doubled = []
    for index in range(int(units)):
        changed = kernel.copy()
        changed[vector_of(axes, kernel.shape, index)] *= 2
        layer.kernel.assign(changed)
        ratio = to_numpy(layer(x)) / before
        assert np.all(np.isclose(ratio, 1, atol=1e-2) | np.isclose(ratio, 2, atol=1e-2))
        doubled.append(ratio > 1.5)
    assert np.all(np.sum(doubled, axis=0) == 1)
    assert np.all([np.any(one) for one in doubled])


def every_layer():
    """A model with every kind of layer, under the names that Keras gives."""
    keras.utils.clear_session(free_memory=False)
    image = x = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3)(x)
    x = layers.Conv2DTranspose(3, 3)(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2)(x)
    x = layers.SeparableConv2D(5, 3)(x)
    x = layers.Reshape((16, 5))(x)
    x = layers.Conv1D(6, 3, padding="same")(x)
    x = layers.Conv1DTranspose(6, 3)(x)
    x = layers.DepthwiseConv1D(3)(x)
    x = layers.SeparableConv1D(4, 3)(x)
    x = layers.MultiHeadAttention(2, 3)(x, x)
    x = layers.GroupQueryAttention(2, 4, 2)(x, x)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(x)
    x = layers.RNN([layers.GRUCell(3), layers.SimpleRNNCell(2)], return_sequences=True)(x)
    x = layers.TimeDistributed(layers.Dense(2))(x)
    x = layers.PReLU()(x)
    x = layers.LayerNormalization(axis=[1, 2])(x)
    tokens = keras.Input((5,), dtype="int32")
    y = layers.Embedding(7, 2)(tokens)
    y = layers.EinsumDense("abc,cd->abd", (None, 2))(y)
    film = keras.Input((3, 8, 8, 2))
    z = layers.ConvLSTM2D(3, 3)(film)
    z = layers.Dense(2)(layers.Flatten()(z))
    return keras.Model([image, tokens, film], [x, y, z])


EXPECTED = """
conv2d/kernel 0 1 2
conv2d_transpose/kernel 0 1 3
depthwise_conv2d/kernel 0 1
separable_conv2d/depthwise_kernel 0 1
separable_conv2d/pointwise_kernel 0 1 2
conv1d/kernel 0 1
conv1d_transpose/kernel 0 2
depthwise_conv1d/kernel 0
separable_conv1d/depthwise_kernel 0
separable_conv1d/pointwise_kernel 0 1
multi_head_attention/query/kernel 0
multi_head_attention/key/kernel 0
multi_head_attention/value/kernel 0
multi_head_attention/attention_output/kernel 0 1
grouped_query_attention/query/kernel 0
grouped_query_attention/key/kernel 0
grouped_query_attention/value/kernel 0
grouped_query_attention/attention_output/kernel 0 1
bidirectional/forward_lstm/lstm_cell/kernel 0
bidirectional/forward_lstm/lstm_cell/recurrent_kernel 0
bidirectional/backward_lstm/lstm_cell/kernel 0
bidirectional/backward_lstm/lstm_cell/recurrent_kernel 0
rnn/stacked_rnn_cells/gru_cell/kernel 0
rnn/stacked_rnn_cells/gru_cell/recurrent_kernel 0
rnn/stacked_rnn_cells/simple_rnn_cell/kernel 0
rnn/stacked_rnn_cells/simple_rnn_cell/recurrent_kernel 0
time_distributed/dense/kernel 0
einsum_dense/kernel 0
conv_lstm2d/conv_lstm_cell/kernel 0 1 2
conv_lstm2d/conv_lstm_cell/recurrent_kernel 0 1 2
dense_1/kernel 0
"""


@(pytest.mark.slow if BACKEND == "jax" else lambda test: test)  # half a minute of initializers
def test_layers_and_their_default_names_say_the_same(recwarn):
    model = every_layer()
    expected = {
        path: [int(axis) for axis in axes]
        for path, *axes in (line.split() for line in EXPECTED.split("\n") if line)
    }
    by_layer = kaf.weight_vectors(model)
    assert {path: axes for path, axes in by_layer.items() if axes is not None} == expected
    assert list(by_layer) == [v.path for v in model.trainable_variables]
    messages = [str(w.message) for w in recwarn if w.category is UserWarning]
    assert not any("guessed" in message for message in messages)
    recwarn.clear()
    by_name = resolve([(v.path, tuple(v.shape)) for v in model.trainable_variables], None)
    assert by_name == list(by_layer.values())
    assert not [w for w in recwarn if w.category is UserWarning]


@pytest.mark.parametrize(
    ("path", "rank", "axes", "is_sure"),
    [
        ("kernel", 2, [0], True),
        ("kernel:0", 2, [0], True),
        ("net/stem/kernel", 2, [0], True),
        ("net/stem/kernel", 4, [0, 1, 2], False),
        ("kernel", 3, [0, 1], False),
        ("net/einsum_dense_1/kernel", 3, [0, 1], False),
        ("net/conv2d_12/kernel", 4, [0, 1, 2], True),
        ("net/my_conv2d_12/kernel", 4, [0, 1, 2], False),
        ("net/conv2d_transpose_up/kernel", 4, [0, 1, 2], False),
        ("net/conv3d_transpose_2/kernel", 5, [0, 1, 2, 4], True),
        ("query/kernel", 3, [0, 1], False),
        ("mine/query/kernel", 3, [0], True),
        ("mine/attention_output/kernel", 4, [0, 1], True),
        ("net/embedding/embeddings", 2, None, True),
        ("net/dense/lora_kernel_a", 2, None, True),
        ("net/gru/gru_cell/bias", 2, None, True),
        ("net/custom/w", 2, None, True),
        ("dense/bias", 1, None, True),
        ("kernel", 1, None, True),
    ],
)
def test_by_name(path, rank, axes, is_sure):
    assert axes_by_name(path, rank) == (axes, is_sure)


class Odd(keras.layers.Layer):
    """A custom layer with kernels of its own."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 2, 3), name="kernel")
        self.w = self.add_weight(shape=(shape[-1], 3), name="w")

    def call(self, x):
        return ops.matmul(x, self.w) + ops.sum(ops.tensordot(x, self.kernel, 1), axis=-2)


class Subclassed(keras.Model):
    """Layers in lists, in dictionaries, shared, and a nested model."""

    def __init__(self):
        super().__init__(name="net")
        shared = layers.Dense(4, name="shared")
        self.several = [shared, layers.Dense(4, name="second"), shared]
        self.named = {"third": layers.Dense(4, name="third")}
        inner = [layers.EinsumDense("ab,cb->ac", 4, name="reversed"), Odd(name="odd")]
        self.inner = keras.Sequential(inner, name="inner")

    def call(self, x):
        for layer in self.several:
            x = layer(x)
        return self.inner(self.named["third"](x))


def test_models_of_any_kind():
    model = Subclassed()
    model(np.ones((2, 4), "float32"))
    with pytest.warns(UserWarning) as record:
        found = kaf.weight_vectors(model)
    kernels = {path: axes for path, axes in found.items() if not path.endswith("bias")}
    assert list(kernels.values()) == [[0], [0], [0], [1], [0, 1], None]
    assert len(found) == len(model.trainable_variables)
    messages = " ".join(str(warning.message) for warning in record)
    (odd,) = (path for path in kernels if path.endswith("odd/kernel"))
    assert f"guessed from name and rank: {odd} of Odd (axes [0, 1])" in messages
    (second,) = (path for path in kernels if path.endswith("second/kernel"))
    assert "and so unknown: " in messages and second in messages


def test_two_variables_of_one_path():
    class Twice(keras.Model):
        def __init__(self):
            super().__init__(name="twice")
            self.one = layers.Conv1D(2, 2, name="same")
            self.other = layers.Conv1DTranspose(2, 2, name="same")

        def call(self, x):
            return self.other(self.one(x))

    model = Twice()
    model(np.ones((1, 4, 2), "float32"))
    with pytest.raises(ValueError, match="Two variables of `model` are called 'twice/same/kernel'"):
        kaf.weight_vectors(model)


@pytest.mark.parametrize("model", [None, "model", keras.Sequential([layers.Dense(2)])])
def test_what_is_not_a_built_model(model):
    with pytest.raises(ValueError, match="`model` must be a built Keras model"):
        kaf.weight_vectors(model)


def test_adapters_take_the_place_of_their_kernel():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="dense")])
    model.layers[0].enable_lora(2)
    found = kaf.weight_vectors(model)
    assert {path.rpartition("/")[2]: axes for path, axes in found.items()} == {
        "bias": None,
        "lora_kernel_a": None,
        "lora_kernel_b": None,
    }


class TestMappings:
    SHAPES = [("net/a/kernel", (2, 3)), ("net/aa/kernel", (2, 3)), ("net/a/bias", (3,))]

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({}, [[0], [0], None]),
            ({"aa/kernel": None}, [[0], None, None]),
            ({"a/kernel": None}, [None, None, None]),  # found in both paths
            ({"net/a/kernel": None}, [None, [0], None]),
            ({"^net/a/": [-1]}, None),
            ({"bias": 0, "kernel": [1]}, [[1], [1], [0]]),
            ({"kernel": [1], "aa": [-1, 0]}, [[1], [0, 1], None]),
            ({"aa": 0, "kernel": [1]}, [[1], [1], None]),  # the last entry wins
            ({"net/a/kernel": [1], "a/kernel": None}, [None, None, None]),
        ],
    )
    def test_entries(self, given, expected):
        vectors = kaf.NDAdam(vectors=given).vectors
        if expected is None:
            assert resolve(self.SHAPES, vectors) == [[1], [0], [0]]
        else:
            assert resolve(self.SHAPES, vectors) == expected

    def test_one_warning_names_all_that_is_unsure_and_the_cure(self):
        shapes = [(f"net/block_{i}/kernel", (3, 3, 2, 4)) for i in range(12)]
        with pytest.warns(UserWarning) as record:
            assert resolve(shapes, None) == [[0, 1, 2]] * 12
        (warning,) = record
        for part in ("net/block_0/kernel of shape (3, 3, 2, 4)", "and 2 more", "weight_vectors"):
            assert part in str(warning.message)

    def test_what_is_given_is_sure(self, recwarn):
        resolve([("net/up/kernel", (3, 3, 2, 4))], {"up": [0, 1, 3]})
        assert not recwarn

    def test_entries_that_name_nothing(self):
        with pytest.warns(UserWarning, match=r"`vectors` names no variable by haed/kernel\."):
            resolve(self.SHAPES, {"haed/kernel": None, "bias": None})


def norm(**arguments):
    return layers.BatchNormalization(epsilon=1e-9, **arguments)


def model_of(*steps, shape=(5,)):
    """Layers and functions in a row."""
    inputs = x = keras.Input(shape)
    for step in steps:
        x = step(x)
    return keras.Model(inputs, x)


def dense(**arguments):
    return layers.Dense(4, **{"use_bias": False, **arguments})


def residual(x):
    return layers.Add()([norm()(layers.Dense(5)(x)), x])


def conv(use_bias):
    return layers.Conv2D(3, 2, use_bias=use_bias)


IMAGE = {"shape": (5, 5, 2)}
#: Models, and of each kernel whether the lengths of its vectors matter.
GRAPHS = {
    "norm": (lambda: model_of(dense(use_bias=True), norm()), [False]),
    "nothing": (lambda: model_of(dense()), [True]),
    "head": (lambda: model_of(dense(), norm(), layers.Dense(2)), [False, True]),
    "layer norm": (lambda: model_of(dense(), layers.LayerNormalization()), [True]),
    "frozen norm": (lambda: model_of(dense(), norm(trainable=False)), [True]),
    "residual": (lambda: model_of(residual, residual), [False, False]),
    "norm of a sum": (
        lambda: model_of(lambda x: layers.Add()([layers.Dense(5)(x), x]), norm()),
        [True],
    ),
    "used twice": (
        lambda: model_of(dense(), lambda x: layers.Concatenate()([norm()(x), x])),
        [True],
    ),
    "relu inside": (lambda: model_of(dense(activation="relu"), norm()), [False]),
    "relu inside, bias": (
        lambda: model_of(dense(activation="relu", use_bias=True), norm()),
        [True],
    ),
    "tanh inside": (lambda: model_of(dense(activation="tanh"), norm()), [True]),
    "tanh": (lambda: model_of(dense(), layers.Activation("tanh"), norm()), [True]),
    "relu": (lambda: model_of(dense(), layers.Activation("relu"), norm()), [False]),
    "relu, bias": (
        lambda: model_of(dense(use_bias=True), layers.Activation("relu"), norm()),
        [True],
    ),
    "relu layer": (lambda: model_of(dense(), layers.ReLU(), norm()), [False]),
    "relu6": (lambda: model_of(dense(), layers.ReLU(max_value=0.1), norm()), [True]),
    "relu function": (lambda: model_of(dense(), ops.relu, norm()), [False]),
    "leaky, prelu": (
        lambda: model_of(dense(), layers.LeakyReLU(), layers.PReLU(), norm()),
        [False],
    ),
    "pooling": (lambda: model_of(conv(True), layers.MaxPooling2D(), norm(), **IMAGE), [False]),
    "padding": (lambda: model_of(conv(False), layers.ZeroPadding2D(), norm(), **IMAGE), [False]),
    "padding, bias": (
        lambda: model_of(conv(True), layers.ZeroPadding2D(), norm(), **IMAGE),
        [True],
    ),
    "other axis": (lambda: model_of(conv(False), norm(axis=1), **IMAGE), [True]),
    "separable": (
        lambda: model_of(layers.SeparableConv2D(4, 2), norm(), **IMAGE),
        [True, False],
    ),
    "transposed": (lambda: model_of(layers.Conv2DTranspose(4, 2), norm(), **IMAGE), [False]),
    "depthwise": (lambda: model_of(layers.DepthwiseConv2D(2), norm(), **IMAGE), [False]),
    "heads": (
        lambda: model_of(layers.EinsumDense("abc,cde->abde", (None, 2, 4)), norm(), shape=(3, 5)),
        [True],
    ),
    "einsum": (
        lambda: model_of(layers.EinsumDense("abc,cd->abd", (None, 4)), norm(), shape=(3, 5)),
        [False],
    ),
}


@pytest.mark.once("torch")
@pytest.mark.parametrize("name", GRAPHS)
def test_lengths_matter_where_the_warning_says_so(name, recwarn):
    """Of each kernel alone: whether the model computes the same after its lengths were set to 1."""
    make, expected = GRAPHS[name]
    model, random = make(), np.random.RandomState(0)
    for weight in model.trainable_variables:
        weight.assign(random.uniform(-1, 2, weight.shape))
    x = random.randn(32, *model.inputs[0].shape[1:]).astype("float32")
    found = kaf.weight_vectors(model)
    assert len(recwarn) == any(expected)
    message = str(recwarn[0].message) if recwarn else ""
    kernels = [path for path, axes in found.items() if axes is not None]
    for path, matters in zip(kernels, expected, strict=True):
        before = to_numpy(model(x, training=True))
        kaf.NDAdam(vectors={".*": None, path: found[path]}).build(model.trainable_variables)
        change = np.max(np.abs(to_numpy(model(x, training=True)) - before))
        assert change > 0.02 if matters else change < 1e-4
        assert (path in message) == matters
