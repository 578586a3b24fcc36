"""Everything, in about ten minutes on a machine that does nothing else.

OMP_NUM_THREADS=2 KERAS_BACKEND=jax python -m benchmarks
"""

import argparse
import re
from pathlib import Path

from benchmarks import fit, step


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="starts nothing after that")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    given = parser.parse_args()
    here = step.machine()
    print(here)
    seconds = 60 * given.minutes
    steps = step.run(step.DEFAULT, given.rounds, 0.75 * seconds)
    whole = fit.run(fit.MODELS, ["AdamW", "Nadam"], 5, 0.25 * seconds)
    name = re.sub(r"\W+", "-", f"{here['processor']} {here['cores']} cores {here['backend']}")
    step.write(given.out, name.lower(), steps, step=steps, fit=whole)


if __name__ == "__main__":
    main()
