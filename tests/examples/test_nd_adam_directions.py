import pytest

from tests.examples import JAX_ONLY

pytestmark = JAX_ONLY


def test_angles_are_those_of_theory(results):
    one, same, quarter, vectors, fewer, adam = results["last angle"].values()
    assert one == pytest.approx(0.0205, rel=0.1) and same == pytest.approx(one, rel=0.1)
    assert quarter == pytest.approx(one / 2, rel=0.1)
    assert vectors == pytest.approx(0.0057, rel=0.1)
    assert fewer == pytest.approx(vectors / 4, rel=0.15)


def test_adams_angle_falls_and_it_alone_leaves_the_span_of_the_inputs(results):
    *_, angles = results["angle"].values()
    assert angles[-200:].mean() < 0.5 * angles[300:500].mean()
    *others, adam = (share[-1] for share in results["outside"].values())
    assert adam > 0.5 and max(others) < 1e-5


def test_errors_are_those_of_the_header(results):
    expected = {"SGD": (1.6, 6.3), "Adam": (1.6, 4.1), "NDAdam": (1.5, 5.4)}
    for name, errors in expected.items():
        for noise, error in zip((0.0, 0.2), errors, strict=True):
            assert results["mean error"][noise, name] == pytest.approx(error, abs=1.0)
