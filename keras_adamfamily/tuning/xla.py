"""JAX set up for tuning: a device for each core, and programs that are compiled once for good."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import keras

if keras.backend.backend() == "jax":
    import jax
    from jax.experimental.compilation_cache import compilation_cache

#: The most that the folder of compiled programs may hold, in bytes, before the oldest go.
CACHE_SIZE = 2**30


def need_jax() -> None:
    """Raises `RuntimeError` unless Keras's backend is JAX."""
    if keras.backend.backend() != "jax":
        raise RuntimeError(
            "This needs Keras's JAX backend: set KERAS_BACKEND=jax. "
            f"The backend is {keras.backend.backend()!r}."
        )


def use_all_cores() -> None:
    """Makes a JAX device of each CPU core, so that each core trains lanes of its own.

    By default all cores are one device, of which small models keep one core busy. It has to be
    called before JAX starts, that is before anything is computed; after that, or where `XLA_FLAGS`
    or `JAX_NUM_CPU_DEVICES` say how many devices there are, it changes nothing.

    Raises:
        RuntimeError: If Keras's backend is not JAX.

    Example:

    >>> from keras_adamfamily.tuning import xla
    >>> xla.use_all_cores()
    """
    need_jax()
    flags = os.environ.get("XLA_FLAGS", "")
    if jax.config.jax_num_cpu_devices < 1 and "host_platform_device_count" not in flags:
        with contextlib.suppress(RuntimeError):  # JAX has started
            jax.config.update("jax_num_cpu_devices", os.cpu_count())


def use_compilation_cache(directory: str | os.PathLike | None = None) -> Path:
    """Keeps compiled programs in a folder, so that the next process need not compile them.

    This is JAX's own persistent cache. The folder should be one that only you can write to: JAX
    runs the machine code that it finds there.

    Args:
        directory: Where. By default where JAX is configured to (`JAX_COMPILATION_CACHE_DIR`), with
            its settings left as they are; else in the user's cache folder, at most 1 GiB.

    Returns:
        The folder.

    Raises:
        RuntimeError: If Keras's backend is not JAX.

    Example:

    >>> from keras_adamfamily.tuning import xla
    >>> xla.use_compilation_cache("runs/compiled")  # doctest: +SKIP
    """
    need_jax()
    configured = jax.config.jax_compilation_cache_dir
    if directory is None and configured:
        return Path(configured)
    folder = Path(directory) if directory is not None else cache_folder() / "xla"
    folder = folder.expanduser().absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Small programs too: each array of zeros of a model is one, and takes 20 ms.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.01)
    jax.config.update("jax_compilation_cache_max_size", CACHE_SIZE)
    compilation_cache.reset_cache()  # it looks at the settings once
    return folder


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Tracing makes many objects that stay, among which Python's collector would look for garbage.

    With Keras and JAX loaded it takes a third of the time of tracing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def return_memory() -> None:
    """Gives back to the system what compiling took; glibc would keep a hundred megabytes of it."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def cache_folder() -> Path:
    """The user's cache folder for this package, by the platform's convention."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "keras_adamfamily"
