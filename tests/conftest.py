"""Two TensorFlow devices and four JAX devices on one CPU, set up before either starts.

Compiled programs go into a folder of the tests, each of them, however small: the workers of
pytest-xdist start from this process and share it.
"""

import os
import tempfile

compiled = tempfile.TemporaryDirectory()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", compiled.name)  # not the user's
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
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


#: What they test knows no backend but for `fit`, which shorter ones test on each.
LONG = {
    "test_leaderboard",
    "test_oracle",
    "test_report",
    "test_search",
    "test_sharing",
    "test_studies",
    "test_weights",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """By default the long tests of the tuner run on JAX alone, elsewhere with `-m slow`."""
    for item in items:
        if BACKEND != "jax" and item.module.__name__.rpartition(".")[2] in LONG:
            item.add_marker(pytest.mark.slow)


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
