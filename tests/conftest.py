"""Two TensorFlow devices and four JAX devices on one CPU, set up before either starts.

Compiled programs go into a folder of the tests, also those that took a twentieth of a second.
"""

import gc
import os
import tempfile

compiled = tempfile.TemporaryDirectory()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", compiled.name)  # not the user's
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402
import pytest  # noqa: E402

BACKEND = keras.backend.backend()

if BACKEND == "tensorflow":
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )


#: Modules whose subject knows no backend but for `fit`, or follows from the equality with the
#: twins, and the tests (the beginnings of their names) that show on each that it works there. A
#: single test of that kind is marked `once`, which means on JAX, or `once("torch")`.
ONCE = {
    "test_leaderboard": (),
    "test_oracle": (),
    "test_report": (),
    "test_search": (),
    "test_sharing": (),
    "test_studies": (),
    "test_study_folder": (),
    "test_weights": (),
    "test_readme": (),
    "test_cli": ("test_other_backend", "test_backend_that"),
    "test_tuning": (
        "test_each_optimizer_gets_the_same_trials",
        "test_trial_is_what_a_plain_fit_gives",
        "test_leaderboard_is_the_mean",
        "test_wrong_shapes_stop",
        "test_wrong_data",
        "test_hypermodel",
        "test_facts_of",
    ),
    "test_validation": (
        "test_whole_numbers_are_floats",
        "test_integers_in_range_are_accepted",
        "test_choices_are_accepted",
        "test_later_assignments",
        "test_options_are_fixed_once_built",
    ),
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """By default what is to run once runs on one backend alone, elsewhere with `-m slow`."""
    for item in items:
        module = item.module.__name__.rpartition(".")[2]
        once = item.get_closest_marker("once")
        if once is None and module in ONCE and not item.name.startswith(ONCE[module]):
            once = pytest.mark.once.mark
        if once and BACKEND not in (once.args or ("jax",)):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish():
    """Garbage is looked for among what the tests make, not each time among all libraries."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def x64():
    """Float64 tensors, which JAX has to be asked for."""
    if BACKEND == "jax":
        import jax

        with jax.enable_x64(True):
            yield
    else:
        yield


@pytest.fixture(autouse=True)
def fresh_names():
    """Variables are named from zero in every test."""
    keras.utils.clear_session(free_memory=False)
