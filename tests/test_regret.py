"""The regret laboratory: its books, its problems' published numbers, and Adam's counterexamples."""

import doctest
import inspect
import json

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st
from keras import ops

import keras_adamfamily as kaf
from keras_adamfamily import regret
from keras_adamfamily.regret import costs as cost_sequences
from keras_adamfamily.regret import game, loops, problems
from tests.helpers import quick
from tests.reference import schedules, twins
from tests.steps import BACKEND

PERIOD_3, PERIOD_101, STOCHASTIC = (
    regret.PROBLEMS[name] for name in ("period-3", "period-101", "stochastic")
)
#: PyTorch has no compiled loop: a round takes it about a millisecond.
compiled = pytest.mark.skipif(BACKEND == "torch", reason="PyTorch plays a thousand rounds a second")
LONG = 10_000 if BACKEND != "torch" else 300

KERAS = {"bias_correction": True, "epsilon": 1e-7, "epsilon_form": "hat"}
OPTAX = {"bias_correction": True, "epsilon": 1e-8, "maximum_of": "corrected"}
BARE = {"bias_correction": False, "epsilon": 0.0}  # Adam as Reddi, Kale and Kumar have it

#: Optimizers on the problems with a decaying rate: by problem, a name and what differs from it.
PLAYERS = {
    "Adam": (kaf.Adam, BARE),
    "Adam corrected": (kaf.Adam, {"epsilon": 1e-8}),
    "AMSGrad": (kaf.AMSGrad, {}),
    "AMSGrad Keras": (kaf.AMSGrad, KERAS),
    "AMSGrad Optax": (kaf.AMSGrad, OPTAX),
    "AdamNC": (kaf.AdamNC, {}),
    "Adagrad": (kaf.Adagrad, {"epsilon": 0.0}),
    "SGD": (kaf.SGD, {}),
}


def player(name, alpha=0.1, betas=(0.0, 0.1)):
    """One of `PLAYERS` with alpha / sqrt(t), which Adagrad has by itself."""
    cls, form = PLAYERS[name]
    known = inspect.signature(cls).parameters
    betas = dict(zip(("beta_1", "beta_2"), betas, strict=True))
    betas = {beta: value for beta, value in betas.items() if beta in known}
    return cls(alpha if cls is kaf.Adagrad else kaf.InverseSqrt(alpha), **betas, **form)


def play_numpy(twin, slopes, start, low=-1.0, high=1.0):
    """x_1, x_2, ... of a numpy twin, clipped to the box; x_{T+1} included."""
    path = [np.float64(start)]
    for slope in slopes:
        path.append(np.clip(twin.step(path[-1], slope), low, high))
    return np.array(path)


class TestNumbers:
    """Regrets computed by an independent program."""

    ROWS = [  # R_T / T at 1e4 rounds and at 1e6, and x after the latter
        ("Adam", 0.668091, 0.666761, 0.9999),
        ("Adam corrected", 0.668090, 0.666761, 0.9999),
        ("AMSGrad", 0.155545, 0.001660, -1),
        ("AMSGrad Keras", 0.156794, 0.001673, -1),
        ("AMSGrad Optax", 0.170961, 0.001810, -1),
        ("SGD", 0.020296, 0.000503, -1),
        ("AdamNC", 0.077879, 0.000935, -1),
        ("Adagrad", 0.077879, 0.000935, -1),
    ]

    @compiled
    @pytest.mark.once
    @pytest.mark.parametrize("name, early, late, x", ROWS)
    def test_period_3(self, name, early, late, x):
        result = PERIOD_3.play(player(name), 10**6)
        assert abs(result.at(10**4)["average_regret"] - early) < 1e-6
        assert abs(result.average_regret[-1] - late) < 1e-6
        assert abs(result.iterates[-1] - x) < 1.1e-4

    @compiled
    @pytest.mark.once
    @pytest.mark.parametrize(
        "name, early, late, x",
        [("Adam", 8.669666, 8.666774, 0.9999), ("AMSGrad", 0.346579, 0.003582, -1)],
    )
    def test_period_3_with_c_15(self, name, early, late, x):
        optimizer = player(name, betas=(0.0, 1 / 226))
        result = regret.play(optimizer, regret.periodic(15, -1, 3), 10**6, start=1.0)
        assert abs(result.at(10**4)["average_regret"] - early) < 1e-6
        assert abs(result.average_regret[-1] - late) < 1e-6
        assert abs(result.iterates[-1] - x) < 1.1e-4

    @compiled
    @pytest.mark.once
    @pytest.mark.parametrize("c, expected", [(3, 0.0038), (15, 0.0174)])
    def test_adams_defaults_do_not_fail_here(self, c, expected):
        result = regret.play(kaf.Adam(), regret.periodic(c, -1, 3), 10**6, start=1.0)
        assert abs(result.average_regret[-1] - expected) < 1e-4
        assert result.iterates[-1] < -0.99

    @compiled
    @pytest.mark.parametrize(
        "name, early, x_early, middle, x_middle, late",
        [
            ("Adam", 1.0085727001, 0.9927484688, 0.4070994194, 0.9856839855, 0.258131),
            ("Adam corrected", 1.0051993653, 0.9927484688, 0.4067620859, 0.9856839855, 0.258097),
            ("AMSGrad", 0.7771428261, -0.6018127079, 0.2340249581, -0.9684252718, 0.068451),
            ("AMSGrad Keras", 0.7382380968, -0.8016804011, 0.2179863219, -0.9968745690, 0.066833),
            ("AMSGrad Optax", 0.1822717360, -0.9701776443, 0.0365070487, -0.9996073929, 0.009308),
            ("AdamNC", 0.9311274475, -0.2851908154, 0.3102242312, -0.7176830434, 0.089032),
        ],
    )
    def test_period_101(self, name, early, x_early, middle, x_middle, late):
        result = PERIOD_101.play(player(name, 1.0, (0.9, 0.99)), 10**6)
        for rounds, expected, x in ((10**4, early, x_early), (10**5, middle, x_middle)):
            row = result.at(rounds)
            assert abs(row["average_regret"] - expected) < 1e-9
            assert abs(row["iterates"] - x) < 1e-9
        assert abs(result.average_regret[-1] - late) < 1e-6

    @pytest.mark.parametrize(
        "name, expected",
        [
            ("Adam", (1, 0.8945907447, 0.9486645517, 1, 0.9476403908, 0.9817330719, 1)),
            (
                "AMSGrad",
                (1, 0.8945907447, 0.9194359444, 0.9397219651, 0.8873623559, 0.9029729752)
                + (0.9172234559,),
            ),
        ],
    )
    def test_first_iterates(self, name, expected):
        result = PERIOD_3.play(player(name), 6, checkpoints=range(1, 7))
        assert np.allclose([1.0, *result.iterates], expected, rtol=0, atol=1e-10)

    @compiled
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "optimizer, regret_there, x",
        [
            (kaf.Adam(1e-3, 0.9, 0.99, **BARE), 0.227131, 1),
            (kaf.AMSGrad(1e-3, 0.9, 0.99), 0.054083, -0.9948),
            (kaf.AMSGrad(1e-3, 0.9, 0.99, **OPTAX), None, -0.296),
            (kaf.Adam(1e-3, 0.9, 0.9), None, 1),
            (kaf.Adam(1e-3, 0.9, 0.999), None, 1),
            (kaf.Adam(1e-3, 0.9, 0.9999), None, -0.9935),
            (kaf.ADOPT(1e-3, 0.9, 0.99), None, -0.9934),
        ],
        ids=["Adam", "AMSGrad", "Optax", "beta_2=.9", ".999", ".9999", "ADOPT"],
    )
    def test_period_101_with_a_constant_rate(self, optimizer, regret_there, x):
        result = PERIOD_101.play(optimizer, 3_000_000)
        if regret_there is not None:
            assert abs(result.average_regret[-1] - regret_there) < 1e-6
        assert abs(result.iterates[-1] - x) < 6e-4

    @compiled
    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(3))
    def test_stochastic(self, seed):
        adam, amsgrad = (STOCHASTIC.play(name, seed=seed) for name in ("adam", "amsgrad"))
        assert adam.rounds[-1] == 10**7
        assert adam.iterates[-1] > 0.9 and adam.average_regret[-1] > 0.25
        assert amsgrad.iterates[-1] < -0.7 and amsgrad.average_regret[-1] < 0.1

    @compiled
    def test_adopt_converges_where_adam_does_not(self):
        adam, adopt = (PERIOD_101.play(name, 10**5) for name in ("adam", "adopt"))
        assert adam.iterates[-1] > 0.9 and adopt.iterates[-1] < -0.9
        assert adopt.average_regret[-1] < 0.3 < 0.4 < adam.average_regret[-1]

    @pytest.mark.parametrize("name", ["SGD", "Adagrad", "Adam", "AMSGrad", "AdamNC", "ADOPT"])
    @pytest.mark.parametrize("problem", ["period-3", "period-101"])
    def test_equals_the_numpy_twin(self, name, problem):
        chosen = regret.PROBLEMS[problem]
        rounds = 1000 if BACKEND != "torch" or problem == "period-101" else 300
        optimizer = chosen.optimizer(name)
        alpha = chosen.sgd_learning_rate if name == "SGD" else chosen.learning_rate
        rate = alpha if name == "Adagrad" else lambda t: schedules.inverse_sqrt(t, alpha)
        known = getattr(twins, name).__dataclass_fields__
        betas = {key: value for key, value in chosen.settings.items() if key in known}
        twin = getattr(twins, name)(learning_rate=rate, **betas)
        slopes = chosen.costs(0).rows(1, rounds)
        path = play_numpy(twin, slopes, chosen.start)
        result = chosen.play(optimizer, rounds)
        assert abs(result.iterates[-1] - path[-1]) < 1e-9
        regret_there = np.sum(slopes * path[:-1]) + abs(np.sum(slopes))
        assert abs(result.regret[-1] - regret_there) < 1e-6
        assert abs(result.means[-1] - path[result.rounds[-2] : -1].mean()) < 1e-9


@pytest.mark.once
class TestTheorems:
    """What the paper proves."""

    rounds = 99 if BACKEND == "torch" else 600

    @hypothesis.settings(quick, max_examples=6)
    @hypothesis.given(
        c=st.floats(2.01, 100),
        share=st.floats(0.01, 0.99),
        decays=st.booleans(),
        scale=st.floats(1e-3, 1e3),
    )
    def test_1_adam_is_back_at_the_worst_point_after_every_cycle(self, c, share, decays, scale):
        """For every C > 2, beta_2 = 1 / (1 + C^2) and alpha < sqrt(1 - beta_2)."""
        beta_2 = 1 / (1 + c * c)
        alpha = share * np.sqrt(1 - beta_2)
        adam = kaf.Adam(kaf.InverseSqrt(alpha) if decays else alpha, 0.0, beta_2, **BARE)
        costs = regret.periodic(scale * c, -scale, 3)
        cycles = np.arange(3, self.rounds + 1, 3)
        result = regret.play(adam, costs, self.rounds, start=1.0, checkpoints=cycles)
        assert np.all(result.iterates == 1.0)
        # Never above +1, where each cycle costs C - 2 and the best point earns as much.
        assert result.average_regret[-1] >= scale * (2 * c - 4) / 3 * (1 - 1e-12)

    def test_1_needs_c_above_2(self):
        """At C < 2 the best point is +1 itself, and being there costs nothing."""
        adam = kaf.Adam(kaf.InverseSqrt(0.1), 0.0, 0.2, **BARE)
        result = regret.play(adam, regret.periodic(1.5, -1, 3), 1000)
        assert result.iterates[-1] > 0.9 and result.average_regret[-1] < 0.1

    @compiled
    @pytest.mark.parametrize("beta_1, beta_2, c", [(0.0, 0.5, 5), (0.5, 0.9, 11), (0.9, 0.99, 51)])
    def test_2_for_any_beta_1_below_the_root_of_beta_2(self, beta_1, beta_2, c):
        """One C in c rounds, else -1: Adam ends at +1, worth 2 / c a round; AMSGrad at -1."""
        optimizers = (
            kaf.Adam(kaf.InverseSqrt(1.0), beta_1, beta_2, **BARE),
            kaf.AMSGrad(kaf.InverseSqrt(1.0), beta_1, beta_2),
        )
        adam, amsgrad = (
            regret.play(o, regret.periodic(c, -1, c), 10**6, start=1.0) for o in optimizers
        )
        assert adam.means[-1] > 0.99 and adam.average_regret[-1] > 2 / c
        assert amsgrad.means[-1] < -0.99 and amsgrad.average_regret[-1] < 0.15 * 2 / c

    @pytest.mark.parametrize("problem", ["period-3", "period-101"])
    def test_adamnc_without_momentum_is_adagrad(self, problem):
        chosen = regret.PROBLEMS[problem]
        adamnc = kaf.AdamNC(kaf.InverseSqrt(0.1), beta_1=0.0)
        one, other = (chosen.play(o, LONG) for o in (adamnc, kaf.Adagrad(0.1, epsilon=0.0)))
        assert np.max(np.abs(one.iterates - other.iterates)) < 1e-14 * LONG
        assert np.allclose(one.regret, other.regret, rtol=1e-12)

    @compiled
    def test_kerass_amsgrad_is_not_the_papers(self):
        """Keras's flag computes our Keras form, and its regret differs from the paper's."""
        rate, betas = kaf.InverseSqrt(1.0), {"beta_1": 0.9, "beta_2": 0.99}
        theirs = PERIOD_101.play(keras.optimizers.Adam(rate, **betas, amsgrad=True), 10**4)
        assert abs(theirs.average_regret[-1] - 0.7382380968) < 1e-6
        paper = PERIOD_101.play("amsgrad", 10**4)
        assert abs(theirs.average_regret[-1] - paper.average_regret[-1]) > 0.03


class Sign(keras.optimizers.Optimizer):
    """An optimizer of a user's own."""

    def update_step(self, gradient, variable, learning_rate):
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * ops.sign(gradient))


class TestAnyOptimizer:
    """Ours, Keras's and the user's, through their own `apply`."""

    rounds = 20

    @pytest.mark.parametrize("name", kaf.names())
    def test_ours(self, name):
        result = regret.play(kaf.get(name), [1.0], self.rounds)
        assert -1 <= result.iterates[-1] < 0.0

    @pytest.mark.once
    @pytest.mark.parametrize(
        "name",
        ["SGD", "RMSprop", "Adagrad", "Adadelta", "Adam", "AdamW", "Adamax", "Nadam", "Ftrl"]
        + ["Lion", "Lamb", "Adafactor"],
    )
    def test_kerass(self, name):
        optimizer = getattr(keras.optimizers, name)(0.01)
        result = regret.play(optimizer, [1.0], self.rounds, start=0.5)
        assert -1 <= result.iterates[-1] < 0.5

    def test_a_users(self):
        result = regret.play(Sign(0.25), [1.0, -1.0, -1.0], 5, checkpoints=range(6)[1:])
        assert result.iterates.tolist() == [-0.25, 0.0, 0.25, 0.0, 0.25]

    def test_around_the_rule(self):
        """Clipping, decay and accumulation are the optimizer's own, and so in force."""
        optimizer = kaf.SGD(0.1, clipvalue=0.5, gradient_accumulation_steps=2)
        result = regret.play(optimizer, [3.0], 4, checkpoints=[1, 2, 3, 4])
        assert np.allclose(result.iterates, [0.0, -0.05, -0.05, -0.1])
        optimizer = kaf.SGDW(0.1, momentum=0.0, weight_decay=kaf.Decoupled(0.5))
        assert np.allclose(regret.play(optimizer, [0.0], 1, start=1.0).iterates, 0.5)

    def test_the_optimizer_keeps_its_last_state(self):
        optimizer = kaf.Adam(0.01)
        regret.play(optimizer, [1.0], 30)
        assert int(ops.convert_to_numpy(optimizer.iterations)) == 30
        momentum = ops.convert_to_numpy(optimizer.variables[-2])
        assert np.isclose(momentum, 1 - 0.9**30, rtol=1e-12) and momentum.dtype == "float64"

    def test_float32_is_float32(self):
        """And the sums are float64 all the same."""
        result = regret.play(kaf.SGD(0.0), [0.1], LONG, start=0.3, dtype="float32")
        assert result.iterates[-1] == np.float32(0.3)
        paid = LONG * 0.1 * np.float64(np.float32(0.3))
        assert abs(result.paid[-1] / paid - 1) < 1e-12


class TestBooks:
    """Checkpoints, windows, sums, and the best fixed point."""

    def test_closed_form(self):
        """SGD walks down by 0.1 a round, then stays: the walk is the regret."""
        result = regret.play(kaf.SGD(0.1), [1.0], 40, start=1.0)
        assert abs(result.regret[-1] - sum(2 - 0.1 * t for t in range(21))) < 1e-12
        assert result.iterates[-1] == -1 and result.best[-1] == -1
        assert abs(result.paid[-1] - (result.regret[-1] - 40)) < 1e-12

    def test_windows_are_of_the_points_played_since_the_checkpoint_before(self):
        points = [0.0, -0.5, -1.0, -0.5, -1.0, -1.0, -0.5]  # what SGD(0.5) plays
        result = regret.play(kaf.SGD(0.5), [1.0, 1.0, -1.0], 6, checkpoints=[1, 5, 6])
        assert result.rounds.tolist() == [1, 5, 6]
        assert result.iterates.tolist() == [points[1], points[5], points[6]]
        assert np.allclose(result.means, [0, np.mean(points[1:5]), points[5]])
        assert result.minima.tolist() == [0, -1, -1]
        assert result.maxima.tolist() == [0, -0.5, -1]
        assert np.allclose(result.paid, [0, -1.0, 0.0])
        assert np.allclose(result.regret, [1.0, 2.0, 2.0]), "the best point, -1, earns 1, 3, 2"
        assert np.allclose(result.distance, [0.5, 0.125, 0])

    def test_blocks_leave_no_trace(self, monkeypatch):
        """What one call of the loop plays is the same in many calls."""
        costs = regret.Stochastic([5.0, -1.0], [0.3, 0.7], seed=3)
        whole = regret.play(kaf.Adam(0.1), costs, 100)
        monkeypatch.setattr(loops, "CAPACITY", 7)
        parts = regret.play(kaf.Adam(0.1), costs, 100)
        assert np.array_equal(whole.iterates, parts.iterates)
        assert np.allclose(whole.regret, parts.regret, rtol=1e-12)
        assert np.allclose(whole.means, parts.means, rtol=1e-12)

    def test_checkpoints(self):
        stops = lambda *given: game._checkpoints(*given).tolist()  # noqa: E731
        assert stops("log", 1) == [1]
        log = stops("log", 25_000)
        assert {1, 10, 100, 1000, 10_000, 25_000} < set(log)
        assert log == sorted(set(log)) and len(log) < 100
        assert stops("linear", 1000) == list(range(5, 1001, 5))
        assert stops("linear", 3) == [1, 2, 3]
        assert stops([2, 7, 2], 9) == [2, 7, 9]
        assert stops([], 9) == [9]

    def test_best_fixed_point_of_vectors(self):
        """A box of another size in each coordinate, against all of its corners."""
        random = np.random.default_rng(0)
        slopes, low, high = random.normal(size=(7, 2, 2)), -random.random((2, 2)), 1.0
        result = regret.play(
            kaf.AMSGrad(0.1), slopes, 30, start=np.zeros((2, 2)), bounds=(low, high)
        )
        total = slopes[np.arange(30) % 7].sum(axis=0)
        corners = np.meshgrid(*[[bound, 1.0] for bound in low.ravel()])
        corners = np.stack([c.ravel() for c in corners], axis=1)
        best = min(float(corner @ total.ravel()) for corner in corners)
        assert abs(result.paid[-1] - result.regret[-1] - best) < 1e-12
        assert result.iterates.shape == (len(result.rounds), 2, 2)
        assert np.all(result.minima >= low) and np.all(result.maxima <= high)
        twin = twins.AMSGrad(learning_rate=0.1)
        path = play_numpy(twin, slopes[np.arange(30) % 7], np.zeros((2, 2)), low, high)
        assert np.allclose(result.iterates[-1], path[-1], rtol=0, atol=1e-12)

    def test_rounds_start_over_where_slopes_end(self):
        assert regret.Linear([1, 2, 3]).rows(3, 5).tolist() == [3, 1, 2, 3, 1]
        assert regret.periodic(3, -1, 3).rows(1, 4).tolist() == [3, -1, -1, 3]

    def test_draws_do_not_depend_on_how_they_are_asked_for(self):
        costs = regret.Stochastic([1010, -10], [0.01, 0.99], seed=5)
        rows = costs.rows(1, 100_000)
        assert np.array_equal(np.concatenate([costs.rows(1, 33), costs.rows(34, 99_967)]), rows)
        assert abs(np.mean(rows == 1010) - 0.01) < 1e-3
        assert set(rows) == {1010, -10}
        assert not np.array_equal(
            rows, regret.Stochastic([1010, -10], [0.01, 0.99], 6).rows(1, 10**5)
        )
        vectors = regret.Stochastic(np.eye(3), [0.2, 0.3, 0.5]).rows(1, 10_000)
        assert np.allclose(vectors.mean(axis=0), [0.2, 0.3, 0.5], atol=0.02)

    def test_json(self):
        result = PERIOD_3.play("adam", 12)
        read = json.loads(result.to_json())
        assert read["optimizer"] == "Adam" and read["low"] == -1.0
        assert read["rounds"] == result.rounds.tolist()
        assert read["average_regret"] == (result.regret / result.rounds).tolist()
        assert set(result.at(12)) == set(read) - {"optimizer", "costs", "low", "high"}
        assert "Adam on Linear([ 3., -1., -1.])" in repr(result)
        with pytest.raises(ValueError, match="`rounds` must be one of the 12 checkpoints"):
            result.at(13)

    def test_results_cannot_be_changed(self):
        with pytest.raises(AttributeError):
            PERIOD_3.play("adam", 3).regret = 0.0


class TestConvex:
    """Costs given by a function, differentiated by the backend."""

    rounds = 1000 if BACKEND != "torch" else 200

    def test_a_linear_cost_as_a_function_is_the_linear_cost(self):
        costs = regret.Convex(
            lambda x, t: ops.where(ops.equal(t % 3, 1), 3.0 * x, -1.0 * x), comparator=-1.0
        )
        one = PERIOD_3.play(player("Adam"), self.rounds)
        other = regret.play(player("Adam"), costs, self.rounds, start=1.0)
        assert np.allclose(one.iterates, other.iterates, rtol=0, atol=1e-12)
        assert np.allclose(one.paid, other.paid, rtol=1e-10)

    @pytest.mark.parametrize("power", [1, 2])
    def test_the_best_point_is_found(self, power):
        """The mean minimizes squares, the median distances, at every checkpoint."""
        aims = np.random.default_rng(1).uniform(-2, 1.2, size=self.rounds)

        def cost(x, t):
            aim = ops.take(ops.convert_to_tensor(aims, x.dtype), t - 1)
            return ops.abs(x - aim) if power == 1 else ops.square(x - aim)

        stops = [1, 10, 99, self.rounds]
        result = regret.play(kaf.Adagrad(0.5), cost, self.rounds, checkpoints=stops)
        for best, stop, paid, lost in zip(
            result.best, stops, result.paid, result.regret, strict=True
        ):
            seen = aims[:stop]
            truth = np.clip(np.median(seen) if power == 1 else np.mean(seen), -1, 1)
            least = np.sum(np.abs(seen - truth) ** power)
            assert abs(paid - lost - least) < 1e-7 * stop
            assert power == 1 or abs(best - truth) < 1e-6
        slope = lambda x, aim: np.sign(x - aim) if power == 1 else 2 * (x - aim)  # noqa: E731
        x, twin = 0.0, twins.Adagrad(learning_rate=0.5)
        for aim in aims:
            x = np.clip(twin.step(x, slope(x, aim)), -1, 1)
        assert abs(result.iterates[-1] - x) < 1e-9

    def test_several_dimensions_against_a_comparator(self):
        aim = np.array([0.5, -0.25])

        def cost(x, t):
            return ops.sum(ops.square(x - ops.convert_to_tensor(aim, x.dtype)))

        costs = regret.Convex(cost, comparator=aim)
        result = regret.play(kaf.SGD(0.1), costs, self.rounds, start=np.zeros(2))
        distances = np.sum(aim**2) * 0.8 ** (2 * np.arange(self.rounds))
        assert abs(result.regret[-1] - distances.sum()) < 1e-9
        assert np.allclose(result.best[-1], aim)

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    @pytest.mark.parametrize(
        "cost",
        [
            lambda x, t: 2.0,
            lambda x, t: np.float64(2.0),
            lambda x, t: ops.ones_like(x) + 1.0,
            lambda x, t: 2 * t - t - t + 2,
        ],
        ids=["Python", "NumPy", "tensor", "integers"],
    )
    def test_a_cost_that_does_not_depend_on_x_has_no_gradient(self, cost, dtype):
        result = regret.play(kaf.SGD(0.1), cost, 5, start=0.5, dtype=dtype)
        assert np.all(result.iterates == 0.5)
        assert result.paid[-1] == 10.0 and result.regret[-1] == 0.0

    def test_golden_section_finds_ends_and_kinks(self):
        for aim in (-3.0, -1.0, 0.123456789, 1.0, 2.0):
            found = cost_sequences._golden_section(lambda x, aim=aim: abs(x - aim), -1.0, 1.0)
            assert abs(found - np.clip(aim, -1, 1)) < 3e-9


class TestMistakes:
    """Each is refused before a round is played, in words that say what to do."""

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"optimizer": "adam"}, "`optimizer` must be a Keras optimizer that is not built"),
            ({"rounds": 0}, "`rounds` must be an integer >= 1. Received: rounds=0"),
            ({"rounds": 10.0}, "`rounds` must be an integer >= 1"),
            ({"rounds": 2**31}, "`rounds` must be at most 2147483647"),
            ({"start": 1.5}, r"`start` must be in the box \[-1.0, 1.0\]. Received: start=1.5"),
            ({"start": "here"}, "`start` must be a finite number"),
            ({"start": np.nan}, "`start` must be a finite number"),
            ({"start": [0.0, 0.0]}, r"shape of one round's slopes, \(\). Received: start of shape"),
            ({"bounds": (1, -1)}, "the lower one below the upper one. Received: low="),
            ({"bounds": (0, np.inf)}, "must be finite numbers"),
            ({"bounds": 1.0}, "`bounds` must be two numbers"),
            ({"bounds": (-1, 0, 1)}, "`bounds` must be two numbers"),
            ({"bounds": ([-1, -1], 1)}, "`bounds` must be two numbers, or two arrays of the shape"),
            ({"dtype": "bfloat16"}, "`dtype` must be one of 'float64', 'float32'"),
            ({"checkpoints": "often"}, "`checkpoints` must be one of 'log', 'linear'"),
            ({"checkpoints": [0]}, "`checkpoints` must be an integer >= 1"),
            (
                {"checkpoints": [11]},
                "`checkpoints` must be rounds up to the last, 10. Received: 11",
            ),
            ({"checkpoints": 3}, "`checkpoints` must be 'log', 'linear' or a list"),
            ({"costs": []}, "`slopes` must be an array of finite numbers"),
            ({"costs": [1.0, np.inf]}, "`slopes` must be an array of finite numbers"),
            ({"costs": "period-3"}, "`slopes` must be an array of finite numbers"),
            ({"costs": 3.0}, "`slopes` must be an array of finite numbers"),
            (
                {"costs": [[1.0, 2.0]]},
                r"`start` must be of the shape of one round's slopes, \(2,\)",
            ),
            ({"costs": lambda x, t: ops.stack([x, x])}, "must be a finite scalar. Received: array"),
            ({"costs": lambda x, t: x * np.inf}, "must be a finite scalar"),
            (
                {"costs": lambda x, t: ops.where(t < 7, x, np.nan)},
                "must be finite wherever it is played.*Received: nan for x=-0.6.*, t=7",
            ),
            (  # whose slope is infinity less infinity, so that there is no second point
                {"costs": lambda x, t: x + ops.sqrt(x - x)},
                "must be finite wherever it is played.*for x=nan, t=2",
            ),
            ({"costs": lambda x, t: x[0], "start": [0.0, 0.0]}, "`comparator` must be given"),
        ],
    )
    def test_play(self, changes, message):
        arguments = {"optimizer": kaf.SGD(0.1), "costs": [1.0], "rounds": 10, **changes}
        with pytest.raises(ValueError, match=message):
            regret.play(**arguments)

    def test_a_built_optimizer_is_refused(self):
        optimizer = kaf.Adam()
        regret.play(optimizer, [1.0], 2)
        with pytest.raises(ValueError, match="not built yet"):
            regret.play(optimizer, [1.0], 2)

    @pytest.mark.parametrize(
        "make, message",
        [
            (lambda: regret.periodic(3, -1, 1), "`period` must be an integer >= 2"),
            (lambda: regret.periodic("3", -1, 3), "`rare` must be a float"),
            (lambda: regret.periodic(3, np.nan, 3), "`usual` must be a float"),
            (lambda: regret.Stochastic([1, 2], [0.5, 0.6]), "with the sum 1"),
            (lambda: regret.Stochastic([1, 2], [1.5, -0.5]), "with the sum 1"),
            (lambda: regret.Stochastic([1, 2], [1.0]), "for 2 slopes"),
            (lambda: regret.Stochastic([1, 2], [0.5, 0.5], seed=-1), "`seed` must be an integer"),
            (lambda: regret.Convex(3.0), "`cost` must be a function"),
            (lambda: regret.Convex(abs, comparator=np.nan), "`comparator` must be a finite"),
            (lambda: PERIOD_3.optimizer("adamm"), "Unknown optimizer 'adamm'"),
            (lambda: PERIOD_3.optimizer("adam", schedule="cosine"), "`schedule` must be one of"),
            (lambda: PERIOD_3.optimizer("adam", beta_2=1.0), "`beta_2` must be a float"),
        ],
    )
    def test_makers(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()

    @pytest.mark.parametrize("comparator", [2.0, [0.0, 0.0]])
    def test_a_comparator_outside_the_box(self, comparator):
        costs = regret.Convex(lambda x, t: x * x, comparator)
        with pytest.raises(ValueError, match=r"must be a point of the box \[-1.0, 1.0\]"):
            regret.play(kaf.SGD(0.1), costs, 3)


class TestProblems:
    def test_settings_go_where_they_are_accepted(self):
        adam = PERIOD_101.optimizer("adam", beta_2=0.5)
        assert (adam.beta_1, adam.beta_2, adam.epsilon) == (0.9, 0.5, 1e-8)
        rate = adam.get_config()["learning_rate"]
        assert rate["class_name"] == "InverseSqrt" and rate["config"]["learning_rate"] == 1.0
        constant = PERIOD_3.optimizer("AMSGrad", schedule="constant", learning_rate=0.3)
        assert constant.get_config()["learning_rate"] == 0.3
        assert PERIOD_101.optimizer("sgd").initial_learning_rate == 0.001
        assert PERIOD_3.optimizer("adagrad").get_config()["learning_rate"] == 0.1
        assert PERIOD_3.optimizer("adamnc").beta_1 == 0.0

    @pytest.mark.parametrize("name", regret.PROBLEMS)
    def test_the_best_point_is_minus_one(self, name):
        costs = regret.PROBLEMS[name].costs(0)
        assert costs.rows(1, 30_300).sum() > 0

    def test_options_reach_the_game(self):
        result = PERIOD_3.play("sgd", 9, start=0.5, dtype="float32", checkpoints=[9])
        assert result.rounds.tolist() == [9] and result.maxima[0] == 0.5
        seeds = [STOCHASTIC.play("sgd", 500, seed=seed).regret[-1] for seed in (0, 0, 1)]
        assert seeds[0] == seeds[1] != seeds[2]


def test_box():
    box = regret.Box([-1.0, 0.0], 1.0)
    x = keras.Variable([-3.0, 0.5])
    assert np.array_equal(ops.convert_to_numpy(box(x)), [-1.0, 0.5])
    again = regret.Box(**box.get_config())
    assert np.array_equal(again.low, box.low) and np.array_equal(again.high, box.high)
    assert str(regret.Box(0, 2)) == "[0.0, 2.0]"
    with pytest.raises(ValueError, match="bounds of a box must be finite numbers"):
        regret.Box("a", 1)


def test_a_saved_model_keeps_its_box(tmp_path):
    dense = keras.layers.Dense(1, kernel_constraint=regret.Box(-0.5, [[0.5], [0.25]]))
    keras.Sequential([keras.Input((2,)), dense]).save(tmp_path / "model.keras")
    box = keras.saving.load_model(tmp_path / "model.keras").layers[0].kernel_constraint
    assert type(box) is regret.Box and box.get_config() == dense.kernel_constraint.get_config()


def test_the_picture_shows_every_optimizer(tmp_path):
    pytest.importorskip("matplotlib")
    from keras_adamfamily.regret import picture

    results = [PERIOD_3.play(name, 30) for name in ("adam", "amsgrad")]
    figure = picture.draw(results, "period-3")
    left, right = figure.axes
    assert [line.get_label() for line in right.lines] == ["Adam", "AMSGrad"]
    assert np.allclose(left.lines[1].get_ydata(), results[1].average_regret)
    picture.save(figure, tmp_path / "folder" / "picture.png")
    assert (tmp_path / "folder" / "picture.png").stat().st_size > 10_000


@pytest.mark.parametrize("module", [regret, cost_sequences, game, problems])
def test_examples_run(module):
    results = doctest.testmod(module)
    assert results.failed == 0 and results.attempted > 0


@pytest.mark.parametrize("name", sorted(set(regret.__all__) - {"PROBLEMS"}))
def test_docstrings(name):
    subject = getattr(regret, name)
    text = inspect.getdoc(subject)
    for argument in inspect.signature(subject).parameters:
        assert f"\n    {argument}:" in text, f"{argument} is not documented"
    assert name in ("Result", "Problem") or ("Raises:\n" in text and "Example:\n" in text)
