"""Several machines that share one study through a PostgreSQL database; each runs this command.

Shows:    `storage=`: machines take trials in turn, none twice, none lost, and each ends with the
          whole study in its own folder. The model and the data must be the same on all of them.
Run time: a minute for two processes on two cores with JAX, in place of two machines.
Expected: a leaderboard like that of `digits_mlp.py`, with other digits: what is tried later depends
          on which trials are done first (but with `sampler="qmc"`). Then `shares`, such as

    first:4711: 36 trials, second:815: 36 trials

On one machine, with Debian's or Ubuntu's PostgreSQL, whose password you choose:

    sudo apt-get install postgresql
    sudo -u postgres createuser --pwprompt tuner
    sudo -u postgres createdb --owner tuner studies

On each other machine, an SSH tunnel to it, so that the database need not listen on the network:

    ssh -f -N -L 5432:localhost:5432 name-of-the-first

On all of them; PostgreSQL's driver reads the password from PGPASSWORD or from ~/.pgpass:

    pip install '.[jax,tuning,postgresql]'
    export KERAS_BACKEND=jax PGPASSWORD=...
    python tuning/many_machines.py postgresql://tuner@localhost/studies

Machines may come and go: one that dies leaves its trials to the others, and the same command joins
in again. Another name of the folder begins another study in the same database.
"""

import collections
import sys

import digits_mlp
import keras
from rich.console import Console

from keras_adamfamily import tuning
from keras_adamfamily.tuning.progress import show_leaderboard


def study(storage, directory="runs/many_machines", **changes):
    """`lanes` bounds how many trials a machine takes at a time: few, so that all have some."""
    return digits_mlp.study(directory, **{"storage": storage, "lanes": 4} | changes)


def shares(result):
    """How many trials each machine has trained."""
    counts = collections.Counter(trial.worker for trial in result.trials)
    return ", ".join(f"{worker}: {n} trials" for worker, n in counts.items())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tuning/many_machines.py postgresql://user@host/database")
    if keras.config.backend() == "jax":
        tuning.use_all_cores()  # each core trains trials of its own
    result = study(sys.argv[1])
    show_leaderboard(result, Console())
    print(shares(result))
