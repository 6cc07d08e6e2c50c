/* Products on the matrix units of Intel processors (AMX, bfloat16 with fp32 sums) that torch computes slowly or not at all:
 * the gradient of a weight, and attention within documents, forward and backward.
 *
 * A tile is 16 rows of 64 bytes. In C += A B, a tile of A holds 16 rows of 32 numbers; one of B holds 32 rows of 16,
 * two rows interleaved (b[2i][j], b[2i+1][j] are neighbours); one of C 16 rows of 16 fp32 numbers. */
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_max_threads() 1
#endif
#include "common.h"

#include <stdlib.h>

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512VL__) && defined(__linux__)
#define HAS_AMX 1
#include <sys/syscall.h>
#include <unistd.h>
#endif

#ifndef HAS_AMX
int amx_ready(void) { return 0; }
#else

#define TILE 512 /* numbers in a tile of A or B */

/* Ask the kernel for the tiles' state, which a process has to do once. */
int amx_ready(void) { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

typedef struct {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
} TileConfig;

/* Set up all eight tiles; what was set up before (by oneDNN) is put back by `leave`. */
static void enter(TileConfig *before) {
  TileConfig config = {.palette = 1};
  for (int i = 0; i < 8; i++) config.row_bytes[i] = 64, config.rows[i] = 16;
  _tile_storeconfig(before);
  _tile_loadconfig(&config);
}

static void leave(const TileConfig *before) {
  if (before->palette)
    _tile_loadconfig(before);
  else
    _tile_release();
}

static void *scratch(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

/* ---------------------------------------------------------------- making tiles */

static inline void transpose16(__m512i r[16]) { /* 16 x 16 numbers of 32 bits */
  __m512i s[16];
  for (int i = 0; i < 16; i += 2) {
    s[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    s[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(s[i], s[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(s[i], s[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(s[i + 1], s[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(s[i + 1], s[i + 3]);
  }
  for (int i = 0; i < 16; i += 8)
    for (int j = 0; j < 4; j++) {
      s[i + j] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0x88);
      s[i + j + 4] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0xdd);
    }
  for (int j = 0; j < 8; j++) {
    r[j] = _mm512_shuffle_i32x4(s[j], s[j + 8], 0x88);
    r[j + 8] = _mm512_shuffle_i32x4(s[j], s[j + 8], 0xdd);
  }
}

/* rows 2i and 2i+1 of up to 32 rows of 16 numbers, interleaved */
static inline void interleaved(__m512i r[16], const bf16 *from, i64 stride, i64 rows, i64 columns) {
  __mmask16 wanted = columns >= 16 ? 0xffff : (__mmask16)((1u << columns) - 1);
  for (i64 i = 0; i < 16; i++) {
    __m256i a = 2 * i < rows ? _mm256_maskz_loadu_epi16(wanted, from + 2 * i * stride) : _mm256_setzero_si256();
    __m256i b = 2 * i + 1 < rows ? _mm256_maskz_loadu_epi16(wanted, from + (2 * i + 1) * stride) : _mm256_setzero_si256();
    r[i] = _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
  }
}

/* A tile of B: 32 rows of 16 columns, as they lie; what is not there is 0. */
static void tile_of(bf16 *to, const bf16 *from, i64 stride, i64 rows, i64 columns) {
  __m512i r[16];
  interleaved(r, from, stride, rows, columns);
  for (int i = 0; i < 16; i++) _mm512_store_si512(to + 32 * i, r[i]);
}

/* A tile of A from the same 32 x 16 numbers, transposed: row i is column i. */
static void tile_of_columns(bf16 *to, const bf16 *from, i64 stride, i64 rows, i64 columns) {
  __m512i r[16];
  interleaved(r, from, stride, rows, columns);
  transpose16(r);
  for (int i = 0; i < 16; i++) _mm512_store_si512(to + 32 * i, r[i]);
}

/* A tile of B from 16 rows of 32 numbers, transposed: column i is row i. */
static void tile_of_rows(bf16 *to, const bf16 *from, i64 stride, i64 rows) {
  __m512i r[16];
  for (i64 i = 0; i < 16; i++) r[i] = i < rows ? _mm512_loadu_si512(from + i * stride) : _mm512_setzero_si512();
  transpose16(r);
  for (int i = 0; i < 16; i++) _mm512_store_si512(to + 32 * i, r[i]);
}

/* Two neighbouring tiles of A, `next` numbers apart, from 32 x 32 numbers, transposed: whole cache lines are read. */
static inline void two_tiles_of_columns(bf16 *to, i64 next, const bf16 *from, i64 stride) {
  static const int column[16] = {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27}; /* where unpacklo puts them */
  __m512i low[16], high[16];
  for (int i = 0; i < 16; i++) {
    __m512i a = _mm512_loadu_si512(from + 2 * i * stride), b = _mm512_loadu_si512(from + (2 * i + 1) * stride);
    low[i] = _mm512_unpacklo_epi16(a, b);
    high[i] = _mm512_unpackhi_epi16(a, b);
  }
  transpose16(low);
  transpose16(high);
  for (int i = 0; i < 16; i++) {
    _mm512_store_si512(to + column[i] / 16 * next + column[i] % 16 * 32, low[i]);
    _mm512_store_si512(to + (column[i] + 4) / 16 * next + (column[i] + 4) % 16 * 32, high[i]);
  }
}

/* Two neighbouring tiles of B from 32 x 32 numbers, as they lie. */
static inline void two_tiles_of(bf16 *to, i64 next, const bf16 *from, i64 stride) {
  const __m512i first = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0), second = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
  for (int i = 0; i < 16; i++) {
    __m512i a = _mm512_loadu_si512(from + 2 * i * stride), b = _mm512_loadu_si512(from + (2 * i + 1) * stride);
    __m512i low = _mm512_unpacklo_epi16(a, b), high = _mm512_unpackhi_epi16(a, b);
    _mm512_store_si512(to + i * 32, _mm512_permutex2var_epi64(low, first, high));
    _mm512_store_si512(to + next + i * 32, _mm512_permutex2var_epi64(low, second, high));
  }
}

/* `rows` (at most 32) x `columns` numbers as tiles, `next` numbers apart, up to a multiple of 32 columns. */
static void strip(bf16 *to, i64 next, const bf16 *from, i64 stride, i64 rows, i64 columns, int transposes) {
  for (i64 at = 0; at < columns; at += 32, to += 2 * next, from += 32) {
    if (rows >= 32 && columns - at >= 32) {
      transposes ? two_tiles_of_columns(to, next, from, stride) : two_tiles_of(to, next, from, stride);
      continue;
    }
    for (i64 half = 0; half < 2; half++) {
      i64 left = columns - at - half * 16;
      if (left <= 0)
        memset(to + half * next, 0, TILE * sizeof(bf16));
      else if (transposes)
        tile_of_columns(to + half * next, from + half * 16, stride, rows, left);
      else
        tile_of(to + half * next, from + half * 16, stride, rows, left);
    }
  }
}

/* C (2 x 2 tiles, rows of `width` numbers) [+]= A B over `steps` tiles each; a[1], b[1] lie `a_next`, `b_next` numbers on. */
static inline void product_2x2(float *c, i64 width, const bf16 *a, i64 a_next, i64 a_step, const bf16 *b, i64 b_next,
                               i64 b_step, i64 steps, int adds) {
  float *c2 = c + 16 * width;
  if (adds) {
    _tile_loadd(0, c, width * 4);
    _tile_loadd(1, c + 16, width * 4);
    _tile_loadd(2, c2, width * 4);
    _tile_loadd(3, c2 + 16, width * 4);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (i64 s = 0; s < steps; s++) {
    _tile_loadd(4, a + s * a_step, 64);
    _tile_loadd(6, b + s * b_step, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + s * b_step + b_next, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a + s * a_step + a_next, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, width * 4);
  _tile_stored(1, c + 16, width * 4);
  _tile_stored(2, c2, width * 4);
  _tile_stored(3, c2 + 16, width * 4);
}

/* ---------------------------------------------------------------- the gradient of a weight */

#define PANEL 256 /* tokens taken at a time: more of them, and their tiles leave the first cache between two uses */
#define PART 512  /* of the longer side of the result, whose sums stay in the second cache */

/* The longer side in parts of at most PART and of whole tiles, equally many for each thread. */
static i64 part_width(i64 large) {
  i64 threads = omp_get_max_threads(), parts = (large + PART - 1) / PART;
  parts = (parts + threads - 1) / threads * threads;
  return ((large + parts - 1) / parts + 31) / 32 * 32;
}

/* grad `N, M`, x `N, K` -> out = grad^T x `M, K`, in fp32. */
void weight_gradient(const bf16 *grad, const bf16 *x, float *out, i64 n, i64 m, i64 k) {
  int by_rows = m >= k; /* the longer side is cut into parts; the other one's tiles are made once, for all of them */
  i64 small = by_rows ? k : m, large = by_rows ? m : k;
  i64 small_tiles = (small + 31) / 32 * 2, steps = (n + 31) / 32;
  const bf16 *one = by_rows ? x : grad, *other = by_rows ? grad : x;
  bf16 *shared = scratch((size_t)(steps * small_tiles) * TILE * sizeof(bf16)); /* panel by panel, tile by tile, step by step */
#pragma omp parallel for
  for (i64 step = 0; step < steps; step++) {
    i64 panel = step / (PANEL / 32), first = panel * (PANEL / 32);
    i64 here = steps - first < PANEL / 32 ? steps - first : PANEL / 32;
    strip(shared + (first * small_tiles + step - first) * TILE, here * TILE, one + step * 32 * small, small, n - step * 32, small,
          !by_rows);
  }
  i64 width_of_part = part_width(large);
#pragma omp parallel for
  for (i64 part = 0; part < large; part += width_of_part) {
    i64 length = large - part < width_of_part ? large - part : width_of_part, tiles = (length + 31) / 32 * 2;
    i64 width = 16 * (by_rows ? small_tiles : tiles), height = 16 * (by_rows ? tiles : small_tiles);
    bf16 *own = scratch((size_t)tiles * PANEL / 32 * TILE * sizeof(bf16));
    i64 rows = by_rows ? length : m, columns = by_rows ? k : length;
    float *to = out + (by_rows ? part * k : part);
    int fits = rows == height && columns == width; /* else sums have a place of their own, of whole tiles */
    float *sums = fits ? to : scratch((size_t)(width * height) * sizeof(float));
    i64 stride = fits ? k : width;
    TileConfig before;
    enter(&before);
    for (i64 first = 0; first < steps; first += PANEL / 32) {
      i64 here = steps - first < PANEL / 32 ? steps - first : PANEL / 32;
      for (i64 step = 0; step < here; step++)
        strip(own + step * TILE, here * TILE, other + (first + step) * 32 * large + part, large, n - (first + step) * 32,
              length, by_rows);
      const bf16 *others = shared + first * small_tiles * TILE, *a = by_rows ? own : others, *b = by_rows ? others : own;
      for (i64 i = 0; i < height / 16; i += 2)
        for (i64 j = 0; j < width / 16; j += 2)
          product_2x2(sums + i * 16 * stride + j * 16, stride, a + i * here * TILE, here * TILE, TILE, b + j * here * TILE,
                      here * TILE, TILE, here, first > 0);
    }
    leave(&before);
    free(own);
    if (fits) continue;
    for (i64 row = 0; row < rows; row++) memcpy(to + row * k, sums + row * width, (size_t)columns * sizeof(float));
    free(sums);
  }
  free(shared);
}

/* ---------------------------------------------------------------- attention
 *
 * One pair of (row of the batch, kv head) at a time; its queries are the rows r = t * G + g of q. Scores are made
 * transposed (keys down, queries across), so that softmax goes down columns, sixteen queries to a vector. Only blocks of
 * 32 keys that some query of 32 sees are computed. D is a multiple of 32, at most 128. */

typedef struct {
  const int32_t *first; /* of the queries' tokens, T */
  i64 t, g, d, rows;    /* rows = T * G */
} Queries;

/* Keys that the 32 queries from r on see: all in [low, high), the same for all in [all_low, all_high). */
typedef struct {
  i64 low, high, all_low, all_high;
  __m512i first[2], last[2]; /* per query; nothing for queries that are not there */
} Band;

static Band band_of(const Queries *q, i64 r) {
  Band band = {.low = q->t, .high = 0, .all_low = 0, .all_high = q->t};
  int32_t first[32], last[32];
  for (i64 i = 0; i < 32; i++) {
    i64 t = (r + i) / q->g;
    first[i] = r + i < q->rows ? q->first[t] : 1;
    last[i] = r + i < q->rows ? (int32_t)t : 0;
    if (r + i < q->rows) {
      band.low = first[i] < band.low ? first[i] : band.low;
      band.high = t + 1 > band.high ? t + 1 : band.high;
    }
    band.all_low = first[i] > band.all_low ? first[i] : band.all_low;
    band.all_high = last[i] + 1 < band.all_high ? last[i] + 1 : band.all_high;
  }
  band.low = band.low / 32 * 32;
  band.high = (band.high + 31) / 32 * 32;
  for (int half = 0; half < 2; half++) {
    band.first[half] = _mm512_loadu_si512(first + 16 * half);
    band.last[half] = _mm512_loadu_si512(last + 16 * half);
  }
  return band;
}

static inline __mmask16 sees(const Band *band, int half, i64 key) {
  __m512i at = _mm512_set1_epi32((int)key);
  return _mm512_cmple_epi32_mask(band->first[half], at) & _mm512_cmple_epi32_mask(at, band->last[half]);
}

/* rows of D numbers as tiles of A as they lie: tile (i, j) = rows 16 i ..., columns 32 j ... at (i * D / 32 + j) * TILE */
static void tiles_of_lines(bf16 *to, const bf16 *from, i64 rows, i64 padded, i64 d) {
  for (i64 row = 0; row < padded; row++)
    for (i64 j = 0; j < d / 32; j++)
      _mm512_store_si512(to + (row / 16 * (d / 32) + j) * TILE + row % 16 * 32,
                         row < rows ? _mm512_loadu_si512(from + row * d + j * 32) : _mm512_setzero_si512());
}

/* the same rows transposed, as tiles of A: tile (i, j) = columns 16 i ..., rows 32 j ... at (i * padded / 32 + j) * TILE */
static void tiles_of_transposed(bf16 *to, const bf16 *from, i64 rows, i64 padded, i64 d) {
  for (i64 j = 0; j < padded / 32; j++) strip(to + j * TILE, padded / 32 * TILE, from + j * 32 * d, d, rows - j * 32, d, 1);
}

/* 32 rows from `from` (of which `rows` are there, each `stride` numbers on) as tiles of B, transposed: tile (j, half) =
 * columns 32 j ... of rows 16 half ... at (2 j + half) * TILE */
static void tiles_of_32_rows(bf16 *to, const bf16 *from, i64 stride, i64 rows, i64 d) {
  for (i64 j = 0; j < d / 32; j++)
    for (i64 half = 0; half < 2; half++)
      tile_of_rows(to + (2 * j + half) * TILE, from + half * 16 * stride + j * 32, stride, rows - half * 16);
}

/* Two vectors of 16 probabilities, of the keys 2 i and 2 i + 1, as a row of a tile of B. */
static inline __m512i pair(v16 even, v16 odd) {
  __m512i a = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)even));
  __m512i b = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)odd));
  return _mm512_or_si512(a, _mm512_slli_epi32(b, 16));
}

/* Columns of `c` (`D` x 32 fp32), each times `scale`, as rows of 32 x D numbers in bfloat16, `stride` numbers apart. */
static void store_columns(bf16 *to, i64 stride, const float *c, const v16 scale[2], i64 rows, i64 d) {
  for (i64 half = 0; half < 2; half++)
    for (i64 i = 0; i < d; i += 16) {
      __m512i r[16];
      for (i64 j = 0; j < 16; j++) r[j] = (__m512i)(load16_float(c + (i + j) * 32 + half * 16) * scale[half]);
      transpose16(r);
      for (i64 j = 0; j < 16 && half * 16 + j < rows; j++) store16_bf16(to + (half * 16 + j) * stride + i, (v16)r[j]);
    }
}

/* q `B, Hkv, T, G, D` (scaled), k, v `B, Hkv, T, D`, first `B, T` -> out `B, T, Hkv, G, D`,
 * log_sums `B, Hkv, T, G` (fp32): the logarithm of the sum of each query's exponentials. */
void attention(const bf16 *q, const bf16 *k, const bf16 *v, const int32_t *first, bf16 *out, float *log_sums, i64 batch, i64 kv,
               i64 t, i64 g, i64 d) {
  i64 padded = (t + 31) / 32 * 32, rows = t * g;
#pragma omp parallel for
  for (i64 task = 0; task < batch * kv; task++) {
    Queries queries = {first + task / kv * t, t, g, d, rows};
    bf16 *keys = scratch((size_t)(padded * d) * 2), *values = scratch((size_t)(padded * d) * 2);
    bf16 *p = scratch((size_t)padded * 32 * 2), *block = scratch((size_t)d * 32 * 2), *line = scratch((size_t)d * 32 * 2);
    float *scores = scratch((size_t)padded * 32 * 4), *sums = scratch((size_t)d * 32 * 4);
    tiles_of_lines(keys, k + task * t * d, t, padded, d);
    tiles_of_transposed(values, v + task * t * d, t, padded, d);
    TileConfig before;
    enter(&before);
    for (i64 r = 0; r < rows; r += 32) {
      i64 here = rows - r < 32 ? rows - r : 32;
      Band band = band_of(&queries, r);
      tiles_of_32_rows(block, q + (task * rows + r) * d, d, here, d);
      v16 top[2] = {all16(-1e30f), all16(-1e30f)}, total[2] = {}, scale[2];
      for (i64 key = band.low; key < band.high; key += 32) {
        float *s = scores + key * 32;
        product_2x2(s, 32, keys + key / 16 * (d / 32) * TILE, d / 32 * TILE, TILE, block, TILE, 2 * TILE, d / 32, 0);
        if (key >= band.all_low && key + 32 <= band.all_high) {
          for (i64 i = 0; i < 32; i++)
            for (int half = 0; half < 2; half++) top[half] = max16(top[half], load16_float(s + i * 32 + half * 16));
        } else {
          for (i64 i = 0; i < 32; i++)
            for (int half = 0; half < 2; half++) {
              v16 x = (v16)_mm512_mask_blend_ps(sees(&band, half, key + i), _mm512_set1_ps(-1e30f),
                                                _mm512_load_ps(s + i * 32 + half * 16));
              store16_float(s + i * 32 + half * 16, x);
              top[half] = max16(top[half], x);
            }
        }
      }
      for (i64 key = band.low; key < band.high; key += 2) {
        bf16 *to = p + key / 32 * 2 * TILE + key % 32 / 2 * 32;
        for (int half = 0; half < 2; half++) {
          v16 even = exp16(load16_float(scores + key * 32 + half * 16) - top[half]);
          v16 odd = exp16(load16_float(scores + (key + 1) * 32 + half * 16) - top[half]);
          total[half] += even + odd;
          _mm512_store_si512(to + half * TILE, pair(even, odd));
        }
      }
      for (i64 i = 0; i < d; i += 32)
        product_2x2(sums + i * 32, 32, values + (i / 16 * (padded / 32) + band.low / 32) * TILE, padded / 32 * TILE, TILE,
                    p + band.low / 32 * 2 * TILE, TILE, 2 * TILE, (band.high - band.low) / 32, 0);
      float logs[32];
      for (int half = 0; half < 2; half++) {
        scale[half] = 1.0f / total[half];
        for (i64 i = 0; i < 16; i++) logs[half * 16 + i] = top[half][i] + logf(total[half][i]);
      }
      memcpy(log_sums + task * rows + r, logs, (size_t)here * 4);
      store_columns(line, d, sums, scale, here, d);
      for (i64 i = 0; i < here; i++) { /* row (t, g) of this pair goes to token t, head kv * G + g */
        i64 token = task / kv * t + (r + i) / g, head = task % kv * g + (r + i) % g;
        memcpy(out + (token * kv * g + head) * d, line + i * d, (size_t)d * 2);
      }
    }
    leave(&before);
    free(keys), free(values), free(p), free(block), free(line), free(scores), free(sums);
  }
}

#define QUERIES 128 /* taken together in the backward pass: enough for the sums of dk and dv to be added to rarely */

/* grad, out `B, T, Hkv, G, D`; the rest as `attention` has it -> dq, dk, dv as q, k, v lie. */
void attention_backward(const bf16 *grad, const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *out, const float *log_sums,
                        const int32_t *first, bf16 *dq, bf16 *dk, bf16 *dv, i64 batch, i64 kv, i64 t, i64 g, i64 d) {
  i64 padded = (t + 31) / 32 * 32, rows = t * g, parts = QUERIES / 32;
#pragma omp parallel for
  for (i64 task = 0; task < batch * kv; task++) {
    Queries queries = {first + task / kv * t, t, g, d, rows};
    size_t matrix = (size_t)(padded * d) * 2, some = (size_t)(QUERIES * d) * 2;
    bf16 *keys = scratch(matrix), *values = scratch(matrix), *keys_across = scratch(matrix);
    bf16 *q_here = scratch(some), *grad_here = scratch(some);
    bf16 *q_down = scratch(some), *grad_down = scratch(some), *q_along = scratch(some), *grad_along = scratch(some);
    bf16 *ds_along = scratch((size_t)padded * QUERIES * 2), *p_tiles = scratch(32 * QUERIES * 2), *ds_tiles = scratch(32 * QUERIES * 2);
    float *dk_sums = scratch(matrix * 2), *dv_sums = scratch(matrix * 2), *sums = scratch((size_t)d * 32 * 4);
    float *s = scratch(32 * 32 * 4), *dp = scratch(32 * 32 * 4);
    tiles_of_lines(keys, k + task * t * d, t, padded, d);
    tiles_of_lines(values, v + task * t * d, t, padded, d);
    tiles_of_transposed(keys_across, k + task * t * d, t, padded, d);
    memset(dk_sums, 0, matrix * 2);
    memset(dv_sums, 0, matrix * 2);
    TileConfig before;
    enter(&before);
    for (i64 r0 = 0; r0 < rows; r0 += QUERIES) {
      i64 here = rows - r0 < QUERIES ? rows - r0 : QUERIES;
      Band bands[QUERIES / 32];
      float logs[QUERIES], deltas[QUERIES];
      i64 low = padded, high = 0;
      for (i64 i = 0; i < QUERIES; i++) {
        logs[i] = deltas[i] = 0;
        bf16 *to = grad_here + i * d, *to_q = q_here + i * d;
        if (i >= here) {
          memset(to, 0, (size_t)d * 2);
          memset(to_q, 0, (size_t)d * 2);
          continue;
        }
        i64 token = task / kv * t + (r0 + i) / g, head = task % kv * g + (r0 + i) % g;
        const bf16 *from = grad + (token * kv * g + head) * d, *o = out + (token * kv * g + head) * d;
        v16 dot = {};
        for (i64 j = 0; j < d; j += 16) dot += load16_bf16(from + j) * load16_bf16(o + j);
        deltas[i] = sum_of(dot);
        logs[i] = log_sums[task * rows + r0 + i];
        memcpy(to, from, (size_t)d * 2);
        memcpy(to_q, q + (task * rows + r0 + i) * d, (size_t)d * 2);
      }
      for (i64 part = 0; part < parts; part++) {
        if (part * 32 >= here) {
          bands[part] = (Band){.low = padded, .high = 0};
          continue;
        }
        bands[part] = band_of(&queries, r0 + part * 32);
        low = bands[part].low < low ? bands[part].low : low;
        high = bands[part].high > high ? bands[part].high : high;
        bf16 *from = q_here + part * 32 * d, *from_grad = grad_here + part * 32 * d;
        i64 at = part * 32 * d;
        tiles_of_32_rows(q_down + at, from, d, 32, d);
        tiles_of_32_rows(grad_down + at, from_grad, d, 32, d);
        strip(q_along + part * TILE, parts * TILE, from, d, 32, d, 0); /* tile (column / 16, part) */
        strip(grad_along + part * TILE, parts * TILE, from_grad, d, 32, d, 0);
      }
      for (i64 key = low; key < high; key += 32) {
        const bf16 *key_tiles = keys + key / 16 * (d / 32) * TILE, *value_tiles = values + key / 16 * (d / 32) * TILE;
        i64 begin = parts, end = 0; /* the parts that see some of these keys: neighbours, as bands only move on */
        for (i64 part = 0; part < parts; part++) {
          Band *band = bands + part;
          if (key < band->low || key >= band->high) continue;
          begin = part < begin ? part : begin;
          end = part + 1;
          i64 at = part * 32 * d;
          product_2x2(s, 32, key_tiles, d / 32 * TILE, TILE, q_down + at, TILE, 2 * TILE, d / 32, 0);
          product_2x2(dp, 32, value_tiles, d / 32 * TILE, TILE, grad_down + at, TILE, 2 * TILE, d / 32, 0);
          int all = key >= band->all_low && key + 32 <= band->all_high;
          for (i64 i = 0; i < 32; i += 2)
            for (int half = 0; half < 2; half++) {
              v16 log = load16_float(logs + part * 32 + half * 16), delta = load16_float(deltas + part * 32 + half * 16);
              v16 prob[2], ds[2];
              for (int j = 0; j < 2; j++) {
                prob[j] = exp16(load16_float(s + (i + j) * 32 + half * 16) - log);
                if (!all) prob[j] = (v16)_mm512_maskz_mov_ps(sees(band, half, key + i + j), (__m512)prob[j]);
                ds[j] = prob[j] * (load16_float(dp + (i + j) * 32 + half * 16) - delta);
                /* row `key` of tiles of A: (key / 16, part) */
                i64 row = ((i + j) / 16 * parts + part) * TILE + (i + j) % 16 * 32 + half * 16;
                store16_bf16(p_tiles + row, prob[j]);
                store16_bf16(ds_tiles + row, ds[j]);
              }
              _mm512_store_si512(ds_along + ((key / 32 * parts + part) * 2 + half) * TILE + i / 2 * 32, pair(ds[0], ds[1]));
            }
        }
        for (i64 i = 0; i < d; i += 32) {
          product_2x2(dv_sums + key * d + i, d, p_tiles + begin * TILE, parts * TILE, TILE, grad_along + (i / 16 * parts + begin) * TILE,
                      parts * TILE, TILE, end - begin, 1);
          product_2x2(dk_sums + key * d + i, d, ds_tiles + begin * TILE, parts * TILE, TILE, q_along + (i / 16 * parts + begin) * TILE,
                      parts * TILE, TILE, end - begin, 1);
        }
      }
      v16 one[2] = {all16(1), all16(1)};
      for (i64 part = 0; part * 32 < here; part++) {
        Band *band = bands + part;
        for (i64 i = 0; i < d; i += 32)
          product_2x2(sums + i * 32, 32, keys_across + (i / 16 * (padded / 32) + band->low / 32) * TILE, padded / 32 * TILE, TILE,
                      ds_along + (band->low / 32 * parts + part) * 2 * TILE, TILE, parts * 2 * TILE, (band->high - band->low) / 32, 0);
        i64 count = here - part * 32 < 32 ? here - part * 32 : 32;
        store_columns(dq + (task * rows + r0 + part * 32) * d, d, sums, one, count, d);
      }
    }
    leave(&before);
    write_bf16(dk + task * t * d, dk_sums, t * d);
    write_bf16(dv + task * t * d, dv_sums, t * d);
    free(keys), free(values), free(keys_across), free(q_here), free(grad_here), free(q_down), free(grad_down), free(q_along);
    free(grad_along), free(ds_along), free(p_tiles), free(ds_tiles), free(dk_sums), free(dv_sums), free(sums), free(s), free(dp);
  }
}

#endif
