"""Rules as C loops at the size of `resnet50`: what arithmetic costs on top of the bytes that move.

    OMP_NUM_THREADS=2 python -m benchmarks.walls

Each loop is compiled as the floor of `benchmarks.floor` is, and takes turns with it for the same
bytes. What a loop written for one rule alone does not
reach, a library's compiler will not. Needs a C compiler.
"""

from __future__ import annotations

import ctypes
import statistics
import time

import numpy as np

from benchmarks.floor import compiled, mover

SIZE = 25_600_000

SOURCE = """
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t bits(float x) { uint32_t b; memcpy(&b, &x, 4); return b; }
static inline float number(uint32_t b) { float x; memcpy(&x, &b, 4); return x; }
static inline float wide(uint16_t x) { return number((uint32_t)x << 16); }
static inline uint32_t hashed(uint32_t x) {
  x = ((x >> 16) ^ x) * 0x45D9F3Bu;
  x = ((x >> 16) ^ x) * 0x45D9F3Bu;
  return (x >> 16) ^ x;
}
static inline uint16_t narrow(float x, float key, uint32_t salt) {
  return (bits(x) + (hashed((bits(x) ^ salt) + bits(key) * 0x3C6EF373u) & 0xFFFF)) >> 16;
}
#define LOOP _Pragma("omp parallel for simd schedule(dynamic, 65536)") \\
  for (ptrdiff_t i = 0; i < n; i++)

void adamw(float *restrict p, const float *restrict g, float *restrict m, float *restrict v,
           ptrdiff_t n) {
  LOOP {
    m[i] += 0.1f * (g[i] - m[i]);
    v[i] += 0.001f * (g[i] * g[i] - v[i]);
    p[i] -= 1e-5f * p[i] + 1e-3f * m[i] / (sqrtf(v[i]) + 1e-8f);
  }
}

/* as XLA on a CPU makes it: 12, 12 and 16 bytes a parameter for 28 */
void three(float *restrict p, const float *restrict g, float *restrict m, float *restrict v,
           ptrdiff_t n) {
  LOOP m[i] += 0.1f * (g[i] - m[i]);
  LOOP v[i] += 0.001f * (g[i] * g[i] - v[i]);
  LOOP p[i] -= 1e-5f * p[i] + 1e-3f * m[i] / (sqrtf(v[i]) + 1e-8f);
}

/* as Adam, with the two sums that the switch is decided by */
float swats(float *restrict p, const float *restrict g, float *restrict m, float *restrict v,
            ptrdiff_t n) {
  float p_p = 0, p_g = 0;
  _Pragma("omp parallel for schedule(dynamic) reduction(+:p_p, p_g)")
  for (ptrdiff_t start = 0; start < n; start += 65536) {
    ptrdiff_t end = start + 65536 < n ? start + 65536 : n;
    _Pragma("omp simd reduction(+:p_p, p_g)")
    for (ptrdiff_t i = start; i < end; i++) {
      float gradient = g[i], momentum = 0.9f * m[i] + 0.1f * gradient;
      float velocity = v[i] + 0.001f * (gradient * gradient - v[i]);
      float step = -1e-3f * momentum / (sqrtf(velocity) + 1e-9f);
      p_p += step * step;
      p_g += step * gradient;
      m[i] = momentum, v[i] = velocity, p[i] += step;
    }
  }
  return p_p / p_g;
}

/* Matrices of 5000 x 512, whose columns are vectors: along them what is summed is summed. So many
   columns at a time: a pass for g w, one for momentum and squares, one for lengths, one for w. */
static inline void ndadam_by(ptrdiff_t block, float *restrict p, const float *restrict g,
                             float *restrict m, float *restrict v, ptrdiff_t n) {
  enum { rows = 5000, columns = 512 };
  _Pragma("omp parallel for schedule(dynamic)")
  for (ptrdiff_t k = 0; k < n / rows / block; k++) {
    ptrdiff_t start = k * block / columns * rows * columns + k * block % columns;
    float along[columns] = {0}, square[columns] = {0}, length[columns] = {0}, rate[columns];
    for (ptrdiff_t i = start; i < start + rows * columns; i += columns)
      for (ptrdiff_t j = 0; j < block; j++) along[j] += g[i + j] * p[i + j];
    for (ptrdiff_t i = start; i < start + rows * columns; i += columns)
      for (ptrdiff_t j = 0; j < block; j++) {
        float gradient = g[i + j] - along[j] * p[i + j];
        square[j] += gradient * gradient;
        m[i + j] += 0.1f * (gradient - m[i + j]);
      }
    for (ptrdiff_t j = 0; j < block; j++) {
      v[k * block + j] += 0.001f * (square[j] - v[k * block + j]);
      rate[j] = 0.05f / (sqrtf(v[k * block + j]) + 1e-8f);
    }
    for (ptrdiff_t i = start; i < start + rows * columns; i += columns)
      for (ptrdiff_t j = 0; j < block; j++) {
        float moved = p[i + j] - rate[j] * m[i + j];
        length[j] += moved * moved;
      }
    for (ptrdiff_t i = start; i < start + rows * columns; i += columns)
      for (ptrdiff_t j = 0; j < block; j++)
        p[i + j] = (p[i + j] - rate[j] * m[i + j]) / sqrtf(length[j]);
  }
}
void ndadam(float *p, const float *g, float *m, float *v, ptrdiff_t n) {
  ndadam_by(512, p, g, m, v, n);
}
void columns(float *p, const float *g, float *m, float *v, ptrdiff_t n) {
  ndadam_by(16, p, g, m, v, n);
}

void clipped(float *restrict p, const float *restrict g, float *restrict m, float *restrict v,
             ptrdiff_t n) {
  float square = 0;
  _Pragma("omp parallel for simd reduction(+:square)")
  for (ptrdiff_t i = 0; i < n; i++) square += g[i] * g[i];
  float factor = 1.0f / fmaxf(sqrtf(square), 1.0f);
  LOOP {
    float clipped = factor * g[i];
    m[i] += 0.1f * (clipped - m[i]);
    v[i] += 0.001f * (clipped * clipped - v[i]);
    p[i] -= 1e-5f * p[i] + 1e-3f * m[i] / (sqrtf(v[i]) + 1e-8f);
  }
}

void sgdw(float *restrict p, const float *restrict g, float *restrict m, float *restrict v,
          ptrdiff_t n) {
  LOOP {
    m[i] = 0.9f * m[i] - 1e-2f * g[i];
    p[i] += m[i] - 1e-5f * p[i];
  }
}

void adadelta(float *restrict p, const float *restrict g, float *restrict m, float *restrict v,
              ptrdiff_t n) {
  LOOP {
    m[i] = 0.95f * m[i] + 0.05f * g[i] * g[i];
    float step = g[i] * sqrtf(v[i] + 1e-6f) / sqrtf(m[i] + 1e-6f);
    v[i] = 0.95f * v[i] + 0.05f * step * step;
    p[i] -= step;
  }
}

void bfloat16(float *restrict p, const float *restrict g, uint16_t *restrict m,
              uint16_t *restrict v, ptrdiff_t n) {
  LOOP {
    float momentum = wide(m[i]), velocity = wide(v[i]);
    momentum += 0.1f * (g[i] - momentum);
    velocity += 0.001f * (g[i] * g[i] - velocity);
    m[i] = narrow(momentum, g[i], 7u);
    v[i] = narrow(velocity, g[i], 8u);
    p[i] -= 1e-5f * p[i] + 1e-3f * momentum / (sqrtf(velocity) + 1e-8f);
  }
}
"""

#: What is measured: the function, and the streams of 4 bytes that it reads and writes.
RULES = {
    "AdamW": ("adamw", 4, 3),
    "AdamW, in three loops": ("three", 4, 3),
    "SWATS": ("swats", 4, 3),
    "ND-Adam": ("ndadam", 3, 2),
    "ND-Adam, 16 columns a time": ("columns", 3, 2),
    "AdamW, clipped": ("clipped", 5, 3),
    "SGDW": ("sgdw", 3, 2),
    "Adadelta": ("adadelta", 4, 3),
    "AdamW, state in bfloat16": ("bfloat16", 3, 2),
}


def measure(loop, reads: int, writes: int, rounds: int = 15) -> list[float]:
    """Times of the loop in units of the floor, one for each round."""
    random = np.random.default_rng(0)
    arrays = [random.random(SIZE + 4096 * k, "float32")[:SIZE] for k in range(4)]
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in arrays]
    floor, _ = mover(SIZE, reads, writes)

    def seconds(run):
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    def step():
        loop(*pointers, ctypes.c_ssize_t(SIZE))

    step(), floor()
    return [seconds(step) / seconds(floor) for _ in range(rounds)]


def main() -> None:
    loops = compiled(SOURCE)
    if loops is None:
        raise SystemExit("`benchmarks.walls` needs a C compiler, such as gcc")
    print(f"{'':26}x floor  quartiles")
    for name, (function, reads, writes) in RULES.items():
        low, middle, high = statistics.quantiles(measure(loops[function], reads, writes), n=4)
        print(f"{name:26}{middle:7.2f}  {low:.2f} to {high:.2f}")


if __name__ == "__main__":
    main()
