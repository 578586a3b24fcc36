"""Several processes that share one study, for work that one process cannot spread over the cores.

Shows:    processes that are given the same folder take trials in turn, none twice, none lost; if
          one dies, the others take over what it had begun. That pays where trials are trained one
          by one (on TensorFlow, PyTorch, or with callbacks of your own); a population on JAX uses
          all cores by itself.
Run time: one minute on two cores with JAX.
Expected: with other digits on other backends, machines and versions, it ends with

    python tuning/many_processes.py

                                           learning  weight
    optimizer  fresh seeds      n  search  rate      decay    trials  s/trial
 ────────────────────────────────────────────────────────────────────────────
 1  NAdamW     0.9712 ± 0.0047  8  0.975   0.001815  0.03634  4       3.5
 2  SGDW       0.9632 ± 0.0071  8  0.9611  0.01815   0.03634  4       2.7
 3  AdamW      0.9458 ± 0.0264  8  0.975   0.0207    0.012    4       3.3

NAdamW wins, ahead of SGDW by 0.008 (0.0017 to 0.014, p = 0.031) and AdamW by 0.025 ...
process 1: 22 trials, process 2: 14 trials
"""

import collections
import multiprocessing

import digits_mlp
from rich.console import Console

from keras_adamfamily import tuning
from keras_adamfamily.tuning.progress import show_leaderboard


def work(directory, changes):
    settings = {"strategy": "fit", "max_trials": 12, "console": Console(quiet=True)}
    digits_mlp.study(directory, **settings | changes)


def study(directory="runs/many_processes", processes=2, **changes):
    context = multiprocessing.get_context("spawn")  # a fork would share the backend's threads
    workers = [context.Process(target=work, args=(directory, changes)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a process failed; the same command goes on with the study")
    return tuning.Study(directory)


def shares(result):
    """How many trials each process has trained."""
    counts = collections.Counter(trial.worker for trial in result.trials)
    return ", ".join(f"process {i}: {n} trials" for i, n in enumerate(counts.values(), 1))


if __name__ == "__main__":
    result = study()
    show_leaderboard(result, Console())
    print(shares(result))
