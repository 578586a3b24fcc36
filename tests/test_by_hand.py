"""What the tuner's benchmark holds a population against: the same training, written by hand."""

import keras
import numpy as np
import pytest

pytest.importorskip("keras_tuner")

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="it is written in JAX")


def test_it_is_the_same_training():
    from benchmarks import tuning
    from benchmarks.by_hand import trainer

    lanes, epochs, batch_size = 8, 2, 32
    data = [(x[:150], y[:150]) for x, y in tuning.digits_data()]
    population = tuning.population(lanes, data=data, shuffle=False)
    curves = population.train(epochs)
    keras.utils.set_random_seed(0)
    weights = tuning.build_mlp().get_weights()
    orders = [np.arange(150)] * epochs
    found = trainer(weights, tuning.values(lanes), orders, *data, batch_size)()
    for epoch, of_epoch in enumerate(found):
        for prefix, (loss, right) in zip(("", "val_"), of_epoch, strict=True):
            assert np.abs(right / 150 - curves[prefix + "accuracy"][:, epoch]).max() < 0.02
            apart = np.abs(loss / 150 / curves[prefix + "loss"][:, epoch] - 1.0)
            # Where a gradient is all but 0, Adam makes a step of what was rounding.
            assert np.median(apart) < 1e-5 and apart.max() < 1e-2
