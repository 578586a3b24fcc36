"""What an installed wheel must do by itself; `.ci/run` runs this outside the checkout.

python smoke.py         with the base install and JAX: train two steps with every optimizer
"""

import importlib.util

import keras
import numpy as np

import keras_adamfamily as kaf

assert "site-packages" in kaf.__file__, kaf.__file__
for absent in ("tensorflow", "torch", "keras_tuner", "sklearn", "typer"):
    assert importlib.util.find_spec(absent) is None, f"{absent} is installed"

rng = np.random.default_rng(0)
x, y = rng.normal(size=(64, 4)), rng.normal(size=(64, 1))
for name in kaf.names():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    before = model.get_weights()[0]
    model.compile(kaf.get(name), "mse")
    history = model.fit(x, y, batch_size=32, verbose=0)
    assert np.isfinite(history.history["loss"]).all(), name
    assert not np.array_equal(before, model.get_weights()[0]), name
print(f"keras-adamfamily {kaf.__version__}: {len(kaf.names())} optimizers train")
