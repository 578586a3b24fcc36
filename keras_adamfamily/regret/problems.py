"""The cost sequences on which Reddi, Kale and Kumar show that Adam does not converge."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import keras

from keras_adamfamily import registry
from keras_adamfamily.regret.costs import Linear, Stochastic, periodic
from keras_adamfamily.regret.game import Result, play
from keras_adamfamily.schedules import InverseSqrt
from keras_adamfamily.validation import check_choice

SCHEDULES = ("inverse-sqrt", "constant")


@dataclasses.dataclass(frozen=True)
class Problem:
    """A cost sequence on [-1, 1] and the settings to play it with; the best fixed point is -1.

    Attributes:
        title: What it is, in one line.
        costs: A function of the seed that makes the cost sequence.
        start: x_1.
        learning_rate: alpha.
        sgd_learning_rate: alpha of SGD and SGDW, whose steps grow with the gradient.
        schedule: `"inverse-sqrt"`, alpha / sqrt(t), or `"constant"`.
        settings: Further arguments of optimizers, for those that take them.
        rounds: How many rounds show the point.
    """

    title: str
    costs: Callable[[int], Linear]
    start: float
    learning_rate: float
    sgd_learning_rate: float
    schedule: str
    settings: dict[str, float]
    rounds: int

    def optimizer(self, name: str, **changes: Any) -> keras.optimizers.Optimizer:
        """An optimizer of the registry with the problem's settings, as far as it takes them.

        Adagrad keeps a constant rate in any case: the sum that it divides by makes it fall.

        Args:
            name: The optimizer's name, in any case.
            **changes: Other settings: `learning_rate`, `schedule`, and arguments of the optimizer
                such as `beta_1`. Those that it does not take are left out.

        Returns:
            A new optimizer, not built.

        Raises:
            ValueError: If a name or value is not accepted.

        Example:

        >>> from keras_adamfamily import regret
        >>> adam = regret.PROBLEMS["period-101"].optimizer("adam", beta_2=0.999)
        >>> adam.beta_1, adam.beta_2
        (0.9, 0.999)
        """
        record = registry.find(name)
        is_sgd = record.name in ("SGD", "SGDW")
        rate = self.sgd_learning_rate if is_sgd else self.learning_rate
        settings = {"learning_rate": rate, "schedule": self.schedule, **self.settings, **changes}
        schedule = check_choice("schedule", settings.pop("schedule"), SCHEDULES)
        if schedule == "inverse-sqrt" and record.name != "Adagrad":
            settings["learning_rate"] = InverseSqrt(settings["learning_rate"])
        return record.cls(**{k: v for k, v in settings.items() if k in record.defaults})

    def play(
        self,
        optimizer: str | keras.optimizers.Optimizer,
        rounds: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Result:
        """Plays the problem, from its start unless `start` is given.

        Args:
            optimizer: A name, which takes the problem's settings; or an optimizer.
            rounds: How many rounds, an integer >= 1; the problem's own number by default.
            seed: Seed of a stochastic problem.
            **options: Further arguments of `play`.

        Returns:
            The `Result`.

        Raises:
            ValueError: As `play` does.

        Example:

        >>> from keras_adamfamily import regret
        >>> result = regret.PROBLEMS["period-3"].play("sgd", rounds=1000)
        >>> bool(result.iterates[-1] < -0.9)
        True
        """
        if isinstance(optimizer, str):
            optimizer = self.optimizer(optimizer)
        rounds = self.rounds if rounds is None else rounds
        return play(optimizer, self.costs(seed), rounds, **{"start": self.start, **options})


#: The paper's problems by name. It leaves open the start, and the rate but in its theorem.
PROBLEMS = MappingProxyType(
    {
        "period-3": Problem(
            "slope 3 where t mod 3 = 1, else -1 (Theorem 1 with C = 3)",
            lambda seed: periodic(3, -1, 3),
            start=1.0,
            learning_rate=0.1,
            sgd_learning_rate=0.1,
            schedule="inverse-sqrt",
            settings={"beta_1": 0.0, "beta_2": 0.1},
            rounds=100_000,
        ),
        "period-101": Problem(
            "slope 1010 where t mod 101 = 1, else -10 (Figure 1)",
            lambda seed: periodic(1010, -10, 101),
            start=0.0,
            learning_rate=1.0,
            sgd_learning_rate=0.001,
            schedule="inverse-sqrt",
            settings={"beta_1": 0.9, "beta_2": 0.99},
            rounds=1_000_000,
        ),
        "stochastic": Problem(
            "slope 1010 with probability 0.01, else -10 (Figure 1)",
            lambda seed: Stochastic([1010, -10], [0.01, 0.99], seed),
            start=0.0,
            learning_rate=0.001,
            sgd_learning_rate=1e-6,
            schedule="constant",
            settings={"beta_1": 0.9, "beta_2": 0.99},
            rounds=10_000_000,
        ),
    }
)
