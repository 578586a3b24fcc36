"""The two that keep logits in bounds: their numbers, in training too, and after loading."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_adamfamily as kaf
from tests.steps import to_numpy

RANDOM = np.random.RandomState(0)


class TestLogitRegularizer:
    @pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3), (1, 3), (64, 3)])
    def test_is_half_the_mean_of_the_squared_logits(self, shape):
        """Of the loss of a training step, where Keras has divided by the batch size."""
        x = RANDOM.randn(*shape).astype("float32")
        layer = keras.layers.Dense(3, activity_regularizer=kaf.LogitRegularizer(0.2))
        model = keras.Sequential([keras.Input(shape[1:]), layer])
        logits = to_numpy(model(x))
        expected = 0.5 * 0.2 * np.mean(np.sum(logits**2, axis=-1))
        assert np.allclose(float(to_numpy(sum(model.losses))), expected, rtol=1e-5)
        model.compile(kaf.SGD(0.0), "mse")
        loss = model.train_on_batch(x, np.zeros_like(logits))
        assert np.allclose(loss, np.mean(logits**2) + expected, rtol=1e-5)

    def test_does_not_overflow_in_float16(self):
        x = np.full((64, 8), 16.0, "float32")  # the squares sum up to 131072
        layer = keras.layers.Dense(
            8, "linear", True, "identity", dtype="mixed_float16", activity_regularizer=None
        )
        layer.activity_regularizer = kaf.LogitRegularizer(1.0)
        layer(x)
        (loss,) = layer.losses
        assert float(to_numpy(loss)) == 0.5 * 8 * 256

    @pytest.mark.parametrize("strength", [-1.0, "x", None, float("nan")])
    def test_strengths_that_are_none(self, strength):
        with pytest.raises(ValueError, match="`strength` must be a float"):
            kaf.LogitRegularizer(strength)


class TestBatchNormalizedLogits:
    def test_has_one_scale_for_all_classes(self):
        x = (3 + 2 * RANDOM.randn(32, 5)).astype("float32")
        layer = kaf.BatchNormalizedLogits(2.5, epsilon=1e-3)
        layer.build(x.shape)
        bias = np.arange(5, dtype="float32")
        layer.bias.assign(bias)
        truth = 2.5 * (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-3) + bias
        assert np.allclose(to_numpy(layer(x, training=True)), truth, atol=1e-4)
        assert [v.path.rpartition("/")[2] for v in layer.trainable_variables] == ["bias"]
        for _ in range(200):
            layer(x, training=True)
        for weight in layer.non_trainable_variables:  # 0.99^200 of where they started is left
            target = {"moving_mean": x.mean(axis=0), "moving_variance": x.var(axis=0)}[weight.name]
            weight.assign(target)
        assert np.allclose(to_numpy(layer(x, training=False)), truth, atol=1e-4)

    def test_takes_any_axis_and_mixed_precision(self):
        x = RANDOM.randn(16, 3, 4).astype("float32")
        last, first = kaf.BatchNormalizedLogits(2.0), kaf.BatchNormalizedLogits(2.0, axis=1)
        for layer, shape in ((last, (16, 3, 4)), (first, (16, 4, 3))):
            layer.build(shape)
            layer.bias.assign([1.0, 2.0, 3.0, 4.0])
        swapped = np.swapaxes(to_numpy(first(np.swapaxes(x, 1, 2), training=True)), 1, 2)
        assert np.allclose(to_numpy(last(x, training=True)), swapped, atol=1e-5)
        half = kaf.BatchNormalizedLogits(2.0, dtype="mixed_bfloat16")(x, training=True)
        assert keras.backend.standardize_dtype(half.dtype) == "bfloat16"

    def test_makes_the_lengths_before_it_immaterial(self, recwarn):
        head = keras.layers.Dense(3, use_bias=False)
        model = keras.Sequential([keras.Input((4,)), head, kaf.BatchNormalizedLogits()])
        kaf.weight_vectors(model)
        assert not recwarn

    @pytest.mark.parametrize("gamma", [0.0, -1.0, "x", None])
    def test_gammas_that_are_none(self, gamma):
        with pytest.raises(ValueError, match="`gamma` must be a float"):
            kaf.BatchNormalizedLogits(gamma)


def test_both_train_and_come_back_from_a_file(tmp_path):
    dense = keras.layers.Dense(3, activity_regularizer=kaf.LogitRegularizer(0.1))
    model = keras.Sequential(
        [keras.Input((4,)), dense, kaf.BatchNormalizedLogits(2.5, momentum=0.9)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kaf.NDAdam(), loss)
    x, y = RANDOM.randn(32, 4), RANDOM.randint(0, 3, 32)
    model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.layers[1].get_config() == model.layers[1].get_config()
    assert again.layers[1].get_config()["gamma"] == 2.5
    assert again.layers[0].activity_regularizer.strength == 0.1
    x = ops.convert_to_tensor(x, "float32")
    assert np.array_equal(to_numpy(again(x)), to_numpy(model(x)))
    assert np.isclose(again.evaluate(x, y, verbose=0), model.evaluate(x, y, verbose=0))
