"""What memory allows: a loop that moves a rule's bytes and computes almost nothing.

The floor of a step is the time to read `reads` streams and write `writes` of them, of so many
float32 numbers each: for Adam it reads p, g, m, v and writes p, m, v. On a CPU that is a C loop,
if there is a compiler, else NumPy; on a GPU it is copying as many bytes from device to device.
"""

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile

import numpy as np

SOURCE = """
#include <stddef.h>
void move(float **x, ptrdiff_t n) {{
  {pointers}
  #pragma omp parallel for simd schedule(dynamic, 65536) if(n > 1000000)
  for (ptrdiff_t i = 0; i < n; i++) {{
    float mean = {mean};  /* ones stay ones: denormal numbers are slow */
    {stores}
  }}
}}
"""


@functools.cache
def _c_loop(reads, writes):
    """The compiled loop, or None without a compiler."""
    terms = " + ".join(f"x{k}[i]" for k in range(reads))
    source = SOURCE.format(
        pointers="\n  ".join(f"float *restrict x{k} = x[{k}];" for k in range(reads)),
        mean=f"({terms}) * {1 / reads!r}f",
        stores="\n    ".join(f"x{k}[i] = mean;" for k in range(writes)),
    )
    library = compiled(source)
    return library and library.move


def compiled(source):
    """C code as a library, with OpenMP where there is it, or None without a compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    flags = ["-O3", "-march=native", "-ffast-math", "-shared", "-fPIC"]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "move")
        with open(f"{path}.c", "w") as file:
            file.write(source)
        for openmp in (["-fopenmp"], []):
            command = [compiler, *flags, *openmp, f"{path}.c", "-o", f"{path}.so", "-lm"]
            if subprocess.run(command, capture_output=True).returncode == 0:
                return ctypes.CDLL(f"{path}.so")
    return None


def mover(size: int, reads: int, writes: int):
    """A function that moves the streams once, and the name of what it is."""
    on_gpu = _gpu_mover(size, reads, writes)
    if on_gpu:
        return on_gpu, "device-to-device copy"
    # Streams a power of two apart share lines of the cache, which costs up to half the speed.
    streams = [np.ones(size + 4096 * k, "float32")[:size] for k in range(max(reads, writes))]
    loop = _c_loop(reads, writes)
    if loop is None:

        def step():
            for k in range(max(reads, writes)):
                np.multiply(streams[min(k, reads - 1)], 1.0, out=streams[min(k, writes - 1)])

        return step, "NumPy"
    pointers = (ctypes.POINTER(ctypes.c_float) * len(streams))(
        *(s.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) for s in streams)
    )

    def step(keep=streams):
        loop(pointers, ctypes.c_ssize_t(size))

    return step, "C loop"


def _gpu_mover(size, reads, writes):
    """The same number of bytes copied on the GPU that the backend uses, or None."""
    import keras

    count = size * (reads + writes) // 2
    if keras.backend.backend() == "torch":
        import torch

        if not torch.cuda.is_available():
            return None
        source, target = (torch.ones(count, device="cuda") for _ in range(2))

        def step():
            target.copy_(source)
            torch.cuda.synchronize()

        return step
    if keras.backend.backend() == "jax":
        import jax

        if jax.default_backend() == "cpu":
            return None
        copy = jax.jit(lambda x: x + 1.0, donate_argnums=0)
        held = [jax.numpy.ones(count)]

        def step():
            held[0] = copy(held[0]).block_until_ready()

        return step
    return None
