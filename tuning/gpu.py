"""Hundreds of trials at once on a GPU: the CNN of `digits_cnn.py`, all trials of an optimizer.

Shows:    what fills a GPU that one small model leaves idle: `strategy="vmap"`, which makes one
          program of many trials; a sampler that proposes all of them at the start (the default
          proposes a part at a time, to learn from it); halving, which then has many to choose from.
Run time: On a GPU unknown: none was at hand where this was written. On two cores one to two minutes
          with --trials 27, for a trial run; "vmap" gains nothing there.
Expected: on two cores with --trials 27 this ends with

    pip install '.[tuning]' 'jax[cuda12]'
    KERAS_BACKEND=jax python tuning/gpu.py --lanes 128

                                            learning  weight
    optimizer  fresh seeds      n  search   rate      decay     trials       s/trial
 ───────────────────────────────────────────────────────────────────────────────────
 1  SGDW       0.0468 ± 0.0119  8  0.04482  0.04462   0.001804  9, 6 pruned  2.8
 2  AdamW      0.0636 ± 0.0332  8  0.06949  0.0207    0.012     9, 6 pruned  2.2
 3  NAdamW     0.0799 ± 0.0693  8  0.04597  0.0207    0.012     9, 6 pruned  3.5

No clear winner: SGDW, AdamW and NAdamW cannot be told apart: there is no significant difference ...
27 trials in 94 s on cpu:0, cpu:1

`lanes` is how many trials are on the devices at a time. Double it while the time goes down. Memory
grows with it, by the weights, the optimizer's state and a batch's activations of a trial, twice to
four times; a search that does not fit falls back to one trial after another and says so. Several
GPUs share the lanes. By itself (`strategy="auto"`) the search measures which way is the fastest;
larger models, which fill a GPU alone, are trained one by one, and there `mixed_bfloat16` helps.
"""

import argparse
import time

import digits_cnn
import keras
from rich.console import Console

from keras_adamfamily import tuning
from keras_adamfamily.tuning.progress import show_leaderboard


def study(directory="runs/gpu", **changes):
    settings = {"strategy": "vmap", "sampler": "qmc", "max_trials": 729}
    return digits_cnn.study(directory, **settings | changes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--lanes", type=int, default=128)
    parser.add_argument("--trials", type=int, default=729)
    o = parser.parse_args()
    if keras.backend.backend() != "jax":
        parser.error("trials are trained together on JAX alone: set KERAS_BACKEND=jax")
    tuning.use_all_cores()  # where there is no GPU; before anything asks for the devices
    devices = ", ".join(keras.distribution.list_devices())
    print(f"on {devices}{'' if 'gpu' in devices else ': no GPU, which this is for'}", flush=True)
    start = time.perf_counter()
    result = study(f"runs/gpu_{o.lanes}_{o.trials}", lanes=o.lanes, max_trials=o.trials)
    show_leaderboard(result, Console())
    print(f"{o.trials} trials in {time.perf_counter() - start:.0f} s on {devices}")
