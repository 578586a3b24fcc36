"""In `model.fit`: real data, and low precision, where Keras's Adam does not train."""

import keras
import numpy as np
import pytest

import keras_adamfamily as kaf
from tests.steps import BACKEND, to_numpy

#: Where the default rate is meant for longer training, or another kind of it.
RATES = {"SGD": 0.3, "SGDW": 0.1, "Adagrad": 0.05, "Adadelta": 3.0}


def digits():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(images))
    return (images[order] / 16.0).astype("float32"), labels[order]


#: The others are slow tests.
QUICK = ("AdamW", "NDAdam")


def train(optimizer, policy, epochs, **compile_arguments):
    """Accuracy on 397 digits after training on 1,400."""
    images, labels = digits()
    keras.config.set_dtype_policy(policy)
    try:
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.Input((64,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(10)]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, metrics=["accuracy"], **compile_arguments)
        model.fit(images[:1400], labels[:1400], batch_size=32, epochs=epochs, verbose=0)
        return model.evaluate(images[1400:], labels[1400:], verbose=0)[1], model
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.skipif(BACKEND == "torch", reason="several minutes in eager bfloat16")
@pytest.mark.parametrize(
    "name", [x if x in QUICK else pytest.param(x, marks=pytest.mark.slow) for x in kaf.names()]
)
def test_pure_bfloat16_trains_digits_above_90_percent(name):
    rate = {"learning_rate": RATES[name]} if name in RATES else {}
    accuracy, model = train(kaf.registry.find(name).cls(**rate), "bfloat16", epochs=10)
    assert model.weights[0].dtype == "bfloat16"
    assert accuracy > 0.9


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_keras_does_not_move_bfloat16_weights(name):
    """Once this fails, Keras is fixed, and the documentation is to say so."""
    variable = keras.Variable(np.ones(3), dtype="bfloat16")
    theirs = getattr(keras.optimizers, name)(0.1, weight_decay=0.0)
    for _ in range(5):
        theirs.apply([keras.ops.full((3,), 0.5, "bfloat16")], [variable])
    assert np.array_equal(to_numpy(variable), np.ones(3))


@pytest.mark.parametrize(
    "policy", [pytest.param("mixed_bfloat16", marks=pytest.mark.slow), "mixed_float16"]
)
def test_mixed_precision_trains(policy):
    accuracy, model = train(kaf.AdamW(1e-2, weight_decay=kaf.Decoupled(1e-4)), policy, epochs=2)
    assert accuracy > 0.9
    wrapped = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert wrapped == (policy == "mixed_float16")


def test_callbacks_may_change_the_learning_rate():
    images, labels = digits()
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kaf.AdamW(0.1, weight_decay=kaf.Decoupled(0.5)), loss)
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.0 if epoch else rate)
    model.fit(images[:320], labels[:320], batch_size=32, verbose=0, callbacks=[halve])
    kernel = to_numpy(model.weights[0])
    model.fit(images, labels, initial_epoch=1, epochs=2, verbose=0, callbacks=[halve])
    assert np.array_equal(to_numpy(model.weights[0]), kernel)  # eta = 0: no step and no decay


@pytest.mark.skipif(BACKEND != "jax", reason="the others train the variables that are left")
def test_what_is_wrong_is_told_with_averages_too():
    """`fit` ends by writing them into the model, also when it fails."""
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(1)]
    )
    optimizer = kaf.AdamW(1e-3, use_ema=True)
    data = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")
    model.compile(optimizer, "mse")
    model.fit(*data, verbose=0)
    model.get_layer("hidden").trainable = False
    model.compile(optimizer, "mse")
    with pytest.raises(ValueError, match="the optimizer was built with 4 variables"):
        model.fit(*data, verbose=0)
