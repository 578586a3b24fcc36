"""Three optimizers on a small convolutional network with batch normalization and dropout.

Shows:    layers that keep a state; and successive halving: of nine trials three go on after the
          third epoch, so that nine take 45 epochs, not 81. `strategy="auto"`, the default, measures
          whether many trials in one program or `fit` is faster; for convolutions it depends.
Run time: about one minute on two cores with JAX.
Expected: with other digits on other backends, machines and versions, this ends with

    python tuning/digits_cnn.py

                                            learning  weight
    optimizer  fresh seeds      n  search   rate      decay     trials         s/trial
 ─────────────────────────────────────────────────────────────────────────────────────
 1  AdamW      0.0508 ± 0.0233  8  0.04082  0.01637   0.003021  16, 10 pruned  0.1
 2  SGDW       0.0554 ± 0.0137  8  0.03125  0.06214   0.007867  16, 10 pruned  0.8
 3  NAdamW     0.0609 ± 0.0256  8  0.03699  0.01637   0.003021  16, 10 pruned  1.2

No clear winner: AdamW, SGDW and NAdamW cannot be told apart: there is no significant difference ...
"""

import keras
from keras import layers
from rich.console import Console
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_adamfamily import tuning
from keras_adamfamily.tuning.progress import show_leaderboard


def build_model():
    model = keras.Sequential([keras.Input((8, 8, 1))])
    for filters in (16, 32):
        model.add(layers.Conv2D(filters, 3, padding="same", use_bias=False))
        model.add(layers.BatchNormalization(momentum=0.9))
        model.add(layers.ReLU())
        model.add(layers.MaxPooling2D(2))
    model.add(layers.Flatten())
    model.add(layers.Dropout(0.3))
    model.add(layers.Dense(10))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=["accuracy"])
    return model


def load_data():
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype("float32").reshape(-1, 8, 8, 1)
    x_train, x_validation, y_train, y_validation = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=0
    )
    return (x_train, y_train), (x_validation, y_validation)


def study(directory="runs/digits_cnn", **changes):
    settings = {
        "optimizers": ("AdamW", "NAdamW", "SGDW"),
        "max_trials": 48,
        "epochs": 9,
        "objective": "val_loss",
        "pruner": "halving",
    }
    return tuning.tune(build_model, *load_data(), directory=directory, **settings | changes)


if __name__ == "__main__":
    if keras.config.backend() == "jax":
        tuning.use_all_cores()  # each core trains trials of its own
    result = study()
    show_leaderboard(result, Console())
    print(result.best_code())
