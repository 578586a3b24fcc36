"""Several processes that share one study, for work that one process cannot spread over the cores.

Shows:    processes that are given the same folder take trials in turn, none twice, none lost; if
          one dies, the others take over what it had begun. That pays where trials are trained one
          by one (on TensorFlow, PyTorch, or with callbacks of your own); a population on JAX uses
          all cores by itself.
Run time: one minute on two cores with JAX.
Expected: with other digits on other backends, machines and versions, this ends with

    python tuning/many_processes.py

                                           learning  weight
    optimizer  fresh seeds      n  search  rate      decay    trials  s/trial
 ────────────────────────────────────────────────────────────────────────────
 1  NAdamW     0.9708 ± 0.0042  8  0.975   0.001815  0.03634  4       2.8
 2  AdamW      0.9670 ± 0.0050  8  0.975   0.001815  0.03634  4       2.9
 3  SGDW       0.9632 ± 0.0071  8  0.9611  0.01815   0.03634  4       2.1

No clear winner: NAdamW and AdamW cannot be told apart: there is no significant difference on ...
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
