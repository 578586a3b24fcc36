"""Tasks that need no download, for a first search."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

Arrays = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Task:
    """A model and its data: `tuning.tune(task.build_model, *task.load_data(), directory=...)`."""

    title: str
    build_model: Callable[[], keras.Model]
    load_data: Callable[[], tuple[Arrays, Arrays]]


def digits_mlp() -> keras.Model:
    """Two hidden layers of 128 units on 8 x 8 pixels; 26,122 parameters."""
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=["accuracy"])
    return model


def digits_data() -> tuple[Arrays, Arrays]:
    """scikit-learn's digits in [0, 1]: 1,437 images to train, 360 to validate, classes alike."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype("float32")
    x_train, x_validation, y_train, y_validation = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=0
    )
    return (x_train, y_train), (x_validation, y_validation)


TASKS = {"digits": Task("scikit-learn's digits, a small MLP", digits_mlp, digits_data)}
