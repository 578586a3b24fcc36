"""What several test files share besides `steps`: exact cycles, hypothesis's settings, a module."""

from fractions import Fraction

import hypothesis

#: The same examples at every run.
quick = hypothesis.settings(max_examples=25, deadline=None, derandomize=True, database=None)


def cycles(first, multiplier, count):
    """(start, length) of the first cycles of SGDR, T_i = round(T_0 * multiplier^i), exactly."""
    start, found = 0, []
    for i in range(count):
        length = round(Fraction(first) * Fraction(multiplier) ** i)
        found.append((start, length))
        start += length
    return found


#: A user's module for the command, with a model and its data.
TINY = """
import keras
import numpy as np

def build_model():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=["accuracy"])
    return model

def load_data():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(96, 3)).astype("float32"), np.arange(96) % 3
    x[:, 0] += y
    return (x[:64], y[:64]), (x[64:], y[64:])
"""
