"""Whether steps depend on the scale of the gradients: for Adam's kin, without epsilon, they do not.

Multiplying all gradients by a power of two is exact in binary, so where the rule divides it out
again the weights are the same to the last bit.
"""

import numpy as np
import pytest

import keras_adamfamily as kaf
from keras_adamfamily import registry
from tests.steps import random_problem, trajectory

pytestmark = pytest.mark.once("torch")

#: Those whose steps do change, and why.
SCALE_DEPENDENT = {
    "SGD": "the step is the gradient",
    "SGDW": "the step is the gradient",
    "Adadelta": "epsilon is the scale of its first steps, and must be positive",
}
#: SWATS's tolerance is an absolute one: without it, it stays in its phase of Adam.
SETTINGS = {"SWATS": {"tolerance": 0.0}, "NDAdam": {"vectors": {"w0": 0}}}


def path(name, scale, **arguments):
    optimizer_class = registry.find(name).cls
    arguments = {**SETTINGS.get(name, {}), **arguments}
    if "epsilon" in registry.find(name).defaults and name != "Adadelta":
        arguments = {"epsilon": 0.0, **arguments}
    start, gradients = random_problem(steps=50)
    gradients = [[scale * g for g in grads] for grads in gradients]
    return np.concatenate(
        [
            np.concatenate([w.ravel() for w in weights])
            for weights in trajectory(optimizer_class(**arguments), start, gradients)
        ]
    )


@pytest.mark.parametrize("name", kaf.names())
def test_gradients_times_1024(name):
    paths = [path(name, scale) for scale in (1.0, 1024.0, 1 / 1024)]
    same = [np.array_equal(paths[0], other) for other in paths[1:]]
    assert same == [name not in SCALE_DEPENDENT] * 2


@pytest.mark.parametrize("name", [name for name in kaf.names() if name not in SCALE_DEPENDENT])
def test_a_large_epsilon_breaks_the_invariance(name):
    if "epsilon" not in registry.find(name).defaults:
        pytest.skip("it has no epsilon")
    assert not np.array_equal(path(name, 1.0, epsilon=0.1), path(name, 1024.0, epsilon=0.1))
