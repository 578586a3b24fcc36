"""Which of three optimizers suits a small MLP on scikit-learn's digits, at which rate and decay.

Shows:    a plain search: a model, data, names of optimizers; all trials of an optimizer in one
          program on JAX, one after the other by `fit` on TensorFlow and PyTorch.
Run time: half a minute on two cores with JAX, several minutes with TensorFlow or PyTorch.
Expected: with other digits on other backends, machines and versions, this ends with

    python tuning/digits_mlp.py

                                           learning  weight
    optimizer  fresh seeds      n  search  rate      decay    trials  s/trial
 ────────────────────────────────────────────────────────────────────────────
 1  NAdamW     0.9726 ± 0.0038  8  0.9806  0.001879  0.01324  16      0.1
 2  AdamW      0.9705 ± 0.0042  8  0.9806  0.003305  0.0208   16      0.1
 3  SGDW       0.9670 ± 0.0083  8  0.9833  0.08772   0.01737  16      0.1

No clear winner: NAdamW, AdamW and SGDW cannot be told apart: there is no significant difference ...
kaf.NAdamW(
    learning_rate=0.001878551376940583,
    weight_decay=kaf.Normalized(rate=0.013235521684294607, batch_size=32, ...
"""

import keras
from rich.console import Console
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_adamfamily import tuning
from keras_adamfamily.tuning.progress import show_leaderboard


def build_model():
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    # Any optimizer will do here: the search puts its own in its place.
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=["accuracy"])
    return model


def load_data():
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype("float32")
    x_train, x_validation, y_train, y_validation = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=0
    )
    return (x_train, y_train), (x_validation, y_validation)


def study(directory="runs/digits_mlp", **changes):
    settings = {
        "optimizers": ("AdamW", "NAdamW", "SGDW"),
        "max_trials": 48,
        "epochs": 15,
        "objective": "val_accuracy",
    }
    return tuning.tune(build_model, *load_data(), directory=directory, **settings | changes)


if __name__ == "__main__":
    if keras.config.backend() == "jax":
        tuning.use_all_cores()  # each core trains trials of its own
    result = study()
    show_leaderboard(result, Console())
    print(result.best_code())
