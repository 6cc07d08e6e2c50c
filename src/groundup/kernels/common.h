/* What all kernels share: bfloat16, rows in fp32, an exponential that vectorises.
 *
 * Plain C that any compiler builds; where the processor has AVX512-BF16 the conversions are single instructions.
 * Everything is computed in fp32, whatever it is stored in. */
#ifndef GROUNDUP_COMMON_H
#define GROUNDUP_COMMON_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

typedef uint16_t bf16;
typedef int64_t i64;

static inline float bf16_to_float(bf16 value) {
  uint32_t bits = (uint32_t)value << 16;
  float out;
  memcpy(&out, &bits, 4);
  return out;
}

static inline bf16 float_to_bf16(float value) { /* to nearest, ties to even */
  uint32_t bits;
  memcpy(&bits, &value, 4);
  uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return (bf16)(value != value ? 0x7fc0u : rounded);
}

static inline void read_bf16(float *restrict to, const bf16 *restrict from, i64 n) {
  for (i64 i = 0; i < n; i++) to[i] = bf16_to_float(from[i]);
}

static inline void write_bf16(bf16 *restrict to, const float *restrict from, i64 n) {
  i64 i = 0;
#ifdef __AVX512BF16__
  for (; i + 32 <= n; i += 32)
    _mm512_storeu_si512(to + i, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + i + 16), _mm512_loadu_ps(from + i)));
#endif
  for (; i < n; i++) to[i] = float_to_bf16(from[i]);
}

static inline void read_float(float *restrict to, const float *restrict from, i64 n) {
  memcpy(to, from, (size_t)n * sizeof(float));
}

static inline void write_float(float *restrict to, const float *restrict from, i64 n) {
  memcpy(to, from, (size_t)n * sizeof(float));
}

/* ---------------------------------------------------------------- sixteen numbers at a time
 *
 * The compiler's own vectors: one instruction each with AVX512, several elsewhere. */
typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16x32 __attribute__((vector_size(64)));

static inline v16 all16(float x) { return x - (v16){}; }

static inline v16 load16_bf16(const bf16 *from) {
#ifdef __AVX512F__
  return (v16)_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16));
#else
  v16 out;
  for (int i = 0; i < 16; i++) out[i] = bf16_to_float(from[i]);
  return out;
#endif
}

static inline void store16_bf16(bf16 *to, v16 x) {
#ifdef __AVX512BF16__
  _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh((__m512)x));
#else
  for (int i = 0; i < 16; i++) to[i] = float_to_bf16(x[i]);
#endif
}

static inline v16 load16_float(const float *from) {
  v16 out;
  memcpy(&out, from, 64);
  return out;
}

static inline void store16_float(float *to, v16 x) { memcpy(to, &x, 64); }

static inline v16 max16(v16 a, v16 b) {
#ifdef __AVX512F__
  return (v16)_mm512_max_ps((__m512)a, (__m512)b);
#else
  for (int i = 0; i < 16; i++) a[i] = a[i] > b[i] ? a[i] : b[i];
  return a;
#endif
}

static inline v16 min16(v16 a, v16 b) { return -max16(-a, -b); }

static inline float sum_of(v16 x) { /* in pairs: the same on every machine */
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) x[i] += x[i + half];
  return x[0];
}

static inline float max_of(v16 x) {
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) x[i] = x[i] > x[i + half] ? x[i] : x[i + half];
  return x[0];
}

/* e^x to a few ulp for x from -87 on; below that 1e-38. 2^r with r = x / ln 2: the fraction of r by its Taylor series. */
static inline v16 exp16(v16 x) {
#ifdef __AVX512F__
  __m512 r = _mm512_max_ps((__m512)(x * 1.44269504088896341f), _mm512_set1_ps(-126.0f));
  __m512 whole = _mm512_roundscale_ps(r, 0);
  v16 f = (v16)_mm512_sub_ps(r, whole);
  v16 p = 0.00133335581f + f * 0.000154035304f;
  p = 1.0f + f * (0.693147181f + f * (0.240226507f + f * (0.0555041087f + f * (0.00961812911f + f * p))));
  return (v16)_mm512_scalef_ps((__m512)p, whole);
#else
  v16 r = min16(max16(x * 1.44269504088896341f, all16(-126.0f)), all16(127.0f));
  i16x32 whole = __builtin_convertvector(r + 126.5f, i16x32) - 126; /* to nearest: what is cut off is not negative */
  v16 f = r - __builtin_convertvector(whole, v16);
  v16 p = 0.00133335581f + f * 0.000154035304f;
  p = 1.0f + f * (0.693147181f + f * (0.240226507f + f * (0.0555041087f + f * (0.00961812911f + f * p))));
  return p * (v16)((whole + 127) << 23);
#endif
}

/* 1 / x to 1 ulp or so, without a division where there is a faster way. x positive. */
static inline v16 reciprocal16(v16 x) {
#ifdef __AVX512F__
  v16 y = (v16)_mm512_rcp14_ps((__m512)x);
  return y * (2.0f - x * y);
#else
  return 1.0f / x;
#endif
}

static inline v16 sigmoid16(v16 x) { return reciprocal16(1.0f + exp16(-x)); }

#endif
