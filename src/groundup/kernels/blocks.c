/* The parts of a decoder block that are not matrix products, each in one pass over memory.
 *
 * Built twice from blocks.h: for bfloat16 activations (names end in _bf16) and for fp32 (_float). The residual stream
 * `N, C` and its gradient are fp32 in both. N = B * T tokens, H = Hkv * G heads of D numbers. */
#include "common.h"

#define ROW_BLOCKS 32 /* sums over rows are made of so many parts, whatever the number of threads: same result */

static inline v16 bias_part(const float *from, i64 n, float rest) {
  float x[16];
  for (i64 i = 0; i < 16; i++) x[i] = i < n ? from[i] : rest;
  return load16_float(x);
}

#define T bf16
#define NAME(f) f##_bf16
#define READ read_bf16
#define WRITE write_bf16
#define LOAD load16_bf16
#define STORE store16_bf16
#include "blocks.h"
#undef T
#undef NAME
#undef READ
#undef WRITE
#undef LOAD
#undef STORE

#define T float
#define NAME(f) f##_float
#define READ read_float
#define WRITE write_float
#define LOAD load16_float
#define STORE store16_float
#include "blocks.h"
