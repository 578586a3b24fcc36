"""Whole steps of `model.fit`, ours against Keras's, on models whose optimizer is a fair share.

    OMP_NUM_THREADS=2 KERAS_BACKEND=jax python -m benchmarks.fit

Two copies of a model train in turns, an epoch each; a figure is the median over epochs of the time
per batch, and of the ratio ours / Keras's in the same turn. The first epoch compiles and is not
counted.
"""

import argparse
import itertools
import statistics
import time
from pathlib import Path

import keras
import numpy as np
from keras import layers

import keras_adamfamily as kaf
from benchmarks.contenders import BACKEND, KERAS_FORM
from benchmarks.step import in_time, machine, write


def mlp():
    """A small one, where the step's overhead counts."""
    model = keras.Sequential(
        [layers.Dense(128, "relu"), layers.Dense(128, "relu"), layers.Dense(10)]
    )
    return model, (64,), 32


def wide_mlp():
    """8.4 million parameters on a batch of 16: the optimizer is most of the time."""
    model = keras.Sequential([layers.Dense(2048, "relu"), layers.Dense(2048, "relu")])
    model.add(layers.Dense(10))
    return model, (2048,), 16


def cnn():
    model = keras.Sequential(
        [
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(256, "relu"),
            layers.Dense(10),
        ]
    )
    return model, (16, 16, 3), 32


def transformer():
    """Four blocks of width 256 on sequences of 16."""
    inputs = x = keras.Input((16, 256))
    for _ in range(4):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(4, 64)(y, y)
        y = layers.LayerNormalization()(x)
        x = x + layers.Dense(256)(layers.Dense(1024, "gelu")(y))
    outputs = layers.Dense(10)(layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, outputs), (16, 256), 8


MODELS = {"mlp": mlp, "wide mlp": wide_mlp, "cnn": cnn, "transformer": transformer}


def trainer(make_model, optimizer, batches):
    """A function that trains for one epoch and returns the seconds per batch."""
    keras.utils.set_random_seed(0)
    model, shape, batch = make_model()
    random = np.random.RandomState(0)
    x = random.randn(batches * batch, *shape).astype("float32")
    y = random.randint(0, 10, batches * batch)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    def epoch():
        start = time.perf_counter()
        model.fit(x, y, batch_size=batch, epochs=1, verbose=0)
        return (time.perf_counter() - start) / batches

    return epoch


def measure(name, rule, rounds, batches=40):
    ours = trainer(MODELS[name], getattr(kaf, rule)(1e-4, **KERAS_FORM.get(rule, {})), batches)
    theirs = trainer(MODELS[name], getattr(keras.optimizers, rule)(1e-4), batches)
    first = {"ours": ours(), "keras": theirs()}
    turns = [(ours(), theirs()) for _ in range(rounds)]
    ratios = [a / b for a, b in turns]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    return {
        "model": name,
        "rule": rule,
        "ours_ms": 1e3 * statistics.median(a for a, _ in turns),
        "keras_ms": 1e3 * statistics.median(b for _, b in turns),
        "ratio": ratio,
        "quartiles": [low, high],
        "first_epoch_s": {k: batches * v for k, v in first.items()},
    }


def run(models, rules, rounds, seconds):
    """The records of models by rules, printed as they come; none is started after `seconds`."""
    records = []
    for rule, name in in_time(itertools.product(rules, models), seconds):
        r = measure(name, rule, rounds)
        records.append(r)
        print(
            f"{name:12s}{rule:8s}ours {r['ours_ms']:8.2f} ms  Keras {r['keras_ms']:8.2f} ms  "
            f"ratio {r['ratio']:.2f} ({r['quartiles'][0]:.2f}-{r['quartiles'][1]:.2f})",
            flush=True,
        )
    return records


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--rules", default="AdamW,Nadam")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=270, help="starts no model after that")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    given = parser.parse_args()
    print(machine())
    records = run(given.models.split(","), given.rules.split(","), given.rounds, given.seconds)
    write(given.out, f"fit-{BACKEND}", [], fit=records)


if __name__ == "__main__":
    main()
