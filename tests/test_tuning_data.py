"""Data of every kind that `fit` accepts: what a search knows of them, what a population gets."""

import collections
import importlib.util

import keras
import numpy as np
import pytest

pytest.importorskip("keras_tuner")

from keras_adamfamily.tuning.data import Data

X, Y = np.arange(40, dtype="float32").reshape(20, 2), np.arange(20) % 3
W = np.linspace(0.0, 1.0, 20)
needs = {
    name: pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"needs {name}")
    for name in ("tensorflow", "torch")
}


def tf_dataset(change=lambda dataset: dataset, parts=None):
    import tensorflow as tf

    return change(tf.data.Dataset.from_tensor_slices(parts or (X, Y))).batch(8)


def loader(*parts, **arguments):
    import torch

    tensors = [torch.as_tensor(part) for part in parts or (X, Y)]
    arguments = {"batch_size": 8, **arguments}
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*tensors), **arguments)


class Sequence(keras.utils.PyDataset):
    def __init__(self, noise=0.0, count=3):
        super().__init__()
        self.noise, self.count = noise, count

    @property
    def num_batches(self):
        return self.count

    def __getitem__(self, index):
        rows = slice(8 * index, 8 * (index + 1))
        return X[rows] + self.noise * np.random.normal(size=X[rows].shape), Y[rows]


class Reordering(Sequence):
    def on_epoch_end(self):
        pass


class Redrawing(Sequence):
    def on_epoch_begin(self):
        pass


KINDS = {
    "arrays": lambda: (X, Y),
    "PyDataset": Sequence,
    "tf.data": pytest.param(tf_dataset, marks=needs["tensorflow"]),
    "torch": pytest.param(loader, marks=needs["torch"]),
    "torch, shuffled": pytest.param(lambda: loader(shuffle=True), marks=needs["torch"]),
}
each_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


@each_kind
def test_what_a_search_knows(make):
    data = Data.of(make(), 8)
    assert (data.batch_size, data.steps) == (8, 3)
    assert data.examples in (20, 24)
    x, y = data.first().arrays()
    np.testing.assert_array_equal(x, X[:8])
    np.testing.assert_array_equal(y, Y[:8])
    assert Data.of(data) is data


@each_kind
def test_a_population_gets_all_examples_in_order(make):
    x, y = Data.of(make(), 8).arrays()
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)


@each_kind
def test_the_fingerprint_is_that_of_the_contents(make, monkeypatch):
    before = Data.of(make(), 8).fingerprint
    assert Data.of(make(), 8).fingerprint == before and len(before) == 16
    monkeypatch.setitem(globals(), "X", X + 1.0)
    assert Data.of(make(), 8).fingerprint != before


@each_kind
def test_fit_trains_and_evaluates_on_them(make):
    data = Data.of(make(), 8)
    seen = []
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append("train"),
        on_test_batch_end=lambda batch, logs: seen.append("test"),
    )
    model.fit(**data.fit_arguments(), **data.validation_arguments(), verbose=0, callbacks=[count])
    assert seen == ["train"] * 3 + ["test"] * 3


def test_nested_arrays_and_weights():
    data = Data.of(({"a": X, "b": [X, X]}, Y, W), 32)
    assert data.fit_arguments().keys() == {"x", "y", "sample_weight", "batch_size"}
    assert data.first().arrays()[0]["b"][1].shape == (20, 2)
    assert data.shuffled and data.batch_size == 32 and data.steps == 1
    other = Data.of(({"a": X, "b": [X, X + 1]}, Y, W))
    assert other.batch_size == 32 and other.fingerprint != data.fingerprint
    plain = Data.of(([[0.0, 1.0], [2.0, 3.0]], [0, 1], None))
    assert [array.shape for array in plain.arrays()] == [(2, 2), (2,)]


def test_what_pandas_holds_is_what_keras_makes_of_it():
    """A `Series` is a column, of whatever index."""
    pandas = pytest.importorskip("pandas")
    index = [3, 1, 2]
    x = pandas.DataFrame({"a": [1.0, 2.0, 3.0], "b": [4, 5, 6]}, index=index)
    y = pandas.Series([1, 0, 1], index=index)
    model = keras.Sequential([keras.layers.Dense(1)])
    seen = []

    def loss(y, p):
        seen.append(tuple(y.shape))
        return keras.ops.mean(keras.ops.square(y - p))

    model.compile(loss=loss)
    model.fit(x, y, batch_size=3, verbose=0)
    arrays = Data.of((x, y), 3).arrays()
    assert (arrays[1].shape[1:],) == tuple({shape[1:] for shape in seen})
    np.testing.assert_array_equal(arrays[0], x.to_numpy())
    np.testing.assert_array_equal(arrays[1], y.to_numpy()[:, None])


def test_arrays_beyond_the_limit():
    with pytest.raises(ValueError, match="`data` takes 0 MB.*limit of 0 MB"):
        Data.of((X, Y)).arrays(limit=100)
    with pytest.raises(ValueError, match="limit"):
        Data.of(Sequence()).arrays(limit=100)


# What is random is never frozen.


def refused(data, why):
    data = Data.of(data)
    with pytest.raises(ValueError, match=f"random.*{why}.*augmentation into layers"):
        data.arrays()
    return data


def test_a_random_pydataset():
    data = refused(Sequence(noise=1.0), "another first batch")
    assert Data.of(Sequence(noise=1.0)).fingerprint == data.fingerprint != ""
    refused(Reordering(), "on_epoch_end")
    refused(Redrawing(), "on_epoch_begin")


class Shuffled(Sequence):
    """Its batches in a new order in each reading, so that the first may be the smaller last one."""

    def __init__(self, seed):
        super().__init__()
        self.random = np.random.default_rng(seed)

    def __getitem__(self, index):
        if index == 0:
            self.order = self.random.permutation(self.count)
        x, y = super().__getitem__(self.order[index])
        return x[:, : 1 + index % 2], y  # nor are they equally wide, as padded ones


def test_batches_in_random_order_have_one_size_and_one_fingerprint():
    found = [Data.of(Shuffled(seed)) for seed in range(20)]
    assert {data.batch_size for data in found} == {8}
    random = {data.fingerprint for data in found if not data._is_fixed}
    assert len(random) == 1 and sum(data._is_fixed for data in found) < 10


class LateNoise(Sequence):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + (index == 2) * np.random.normal(size=x.shape), y


def test_noise_in_the_last_batch_alone_is_noticed():
    data = refused(LateNoise(), "other batches when it is read again")
    assert np.array_equal(data.first().arrays()[0], Sequence()[0][0])  # where there is none


@needs["tensorflow"]
def test_a_random_tf_dataset():
    import tensorflow as tf

    refused(tf_dataset(lambda dataset: dataset.shuffle(20)), "another first batch")
    fixed = tf_dataset(lambda d: d.shuffle(20, seed=1, reshuffle_each_iteration=False))
    assert sorted(Data.of(fixed).arrays()[0][:, 0]) == sorted(X[:, 0])

    def draw():  # TensorFlow's own would be the same in each reading, with a global seed
        return tf.reshape(tf.numpy_function(lambda: np.random.normal(size=2), [], "float64"), [2])

    noise = tf_dataset(lambda d: d.map(lambda x, y: (x + tf.cast(draw(), x.dtype), y)))
    assert refused(noise, "another").fingerprint == Data.of(noise).fingerprint


@needs["tensorflow"]
def test_the_length_of_a_tf_dataset(monkeypatch):
    unknown = tf_dataset().filter(lambda x, y: True)
    assert Data.of(unknown).steps == 3
    monkeypatch.setattr("keras_adamfamily.tuning.data.MOST_BATCHES", 2)
    with pytest.raises(ValueError, match="has more than 2 or no end.*take"):
        Data.of(unknown.repeat().filter(lambda x, y: True))
    with pytest.raises(ValueError, match="endless.*take"):
        Data.of(tf_dataset().repeat())
    with pytest.raises(ValueError, match="a batch at least"):
        Data.of(tf_dataset().take(0))
    weighted = Data.of(tf_dataset(parts=({"a": X}, Y, W)))
    assert len(weighted.arrays()) == 3 and weighted.arrays()[0]["a"].shape == (20, 2)


@needs["torch"]
def test_how_a_dataloader_shuffles():
    assert Data.of(loader(shuffle=True)).shuffled and not Data.of(loader()).shuffled
    assert Data.of(loader(shuffle=True)).examples == 20
    refused(loader(shuffle=True, drop_last=True), "drop_last")
    dropped = Data.of(loader(drop_last=True))
    assert dropped.steps == 2 and dropped.examples == 16 == len(dropped.arrays()[0])
    import torch

    sampler = torch.utils.data.RandomSampler(range(20), replacement=True)
    refused(loader(sampler=sampler), "replacement")
    weighted = torch.utils.data.WeightedRandomSampler([1.0] * 20, 20)
    refused(loader(sampler=weighted), "another first batch")


def test_inputs_in_a_named_tuple_stay_one():
    Pair = collections.namedtuple("Pair", ["a", "b"])
    (x, _) = Data.of((Pair(X, X + 1), Y)).arrays()
    assert type(x) is Pair and np.array_equal(x.b, X + 1)


@pytest.mark.once("tensorflow")
@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="ragged tensors")
def test_rows_of_several_lengths_come_in_a_dataset():
    import tensorflow as tf

    def ragged(first):
        rows = [[first], [2.0, 3.0], [4.0, 5.0, 6.0], [7.0]]
        rows = tf.ragged.constant(rows, dtype="float64")
        return Data.of(tf.data.Dataset.from_tensor_slices((rows, np.arange(4))).batch(2))

    assert (ragged(6.0).examples, ragged(6.0).batch_size) == (4, 2)
    found = ragged(0.1234567891).fingerprint
    assert found != ragged(0.1234567892).fingerprint
    with np.printoptions(precision=3, linewidth=9):
        assert found == ragged(0.1234567891).fingerprint
    with pytest.raises(ValueError, match="not of numbers alone"):
        ragged(6.0).arrays()


# What cannot be is refused.


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (X, r"`train` must be a pair .* a keras.utils.PyDataset or a torch DataLoader.*ndarray"),
        ((X,), "tuple of length 1"),
        ((X, Y[:-1]), r"same number.*\(20, 2\), \(19,\)"),
        ((X[:0], Y[:0]), "at least one"),
        ((X, np.array(["a"] * 20)), "of numbers.*<U1"),
        ((X, [None] * 20), "of numbers.*object"),
        ((X, [[1], [1, 2]]), "arrays"),
        ((x for x in X), "generator"),
        (Sequence(count=None), "`train` is endless.*num_batches"),
        (Sequence(count=0), "a batch at least"),
    ],
)
def test_wrong_data(wrong, message):
    with pytest.raises(ValueError, match=message):
        Data.of(wrong, name="train")


def test_text_comes_in_no_other_batches():
    class Text(Sequence):
        def __getitem__(self, index):
            return np.array(["a"] * 8, object), Y[:8]

    with pytest.raises(ValueError, match="a batch of `train` must.*of numbers.*object"):
        Data.of(Text(), name="train")


@needs["tensorflow"]
def test_sparse_tensors_are_to_be_made_dense():
    import tensorflow as tf

    rows = tf.sparse.from_dense(X)
    given = tf.data.Dataset.from_tensor_slices((rows, Y)).batch(8)
    with pytest.raises(ValueError, match="a batch of `train`.*make ragged and sparse arrays dense"):
        Data.of(given, name="train")


def test_the_first_batch_is_a_whole_one():
    class Large(Sequence):
        def __getitem__(self, index):
            return np.zeros((40, 2)), np.zeros(40)

    first = Data.of(Large()).first()
    assert (first.examples, first.batch_size, first.steps) == (40, 40, 1)


def test_the_batch_size_is_that_of_the_batches():
    with pytest.raises(ValueError, match="`train` comes in batches of 8.*batch_size=32"):
        Data.of(Sequence(), 32, name="train")
    with pytest.raises(ValueError, match="`batch_size`"):
        Data.of((X, Y), 0)


def test_batches_of_different_sizes():
    class Growing(Sequence):
        def __getitem__(self, index):
            return X[: 4 + index], Y[: 4 + index]

    with pytest.raises(ValueError, match="different sizes"):
        Data.of(Growing()).arrays()
