/* Products of a few rows of activations with a packed weight matrix, for decode.c.
 *
 * A weight matrix (N x K, y = x W^T) lies in panels of 16 outputs, the inputs in groups that fill 4 bytes:
 *     float32   [N/16][K][16]        bfloat16   [N/16][K/2][16][2]        int8   [N/16][K/4][16][4]
 * so 64 bytes are always 16 outputs, and a panel is read from memory in one stream. N is padded to 16 and K to 64.
 *
 * int8 weights are symmetric with one scale per output. Activations then go in as 16-bit integers with one scale per
 * row, split into bytes: x = scale (256 high + low). Both halves meet the weights in exact integer arithmetic, so what
 * is lost is only what rounding the weights to 8 bits lost.
 *
 * Every output is summed over K in one fixed order, whatever the number of rows and threads: a row's result does not
 * depend on what else is in the batch (within one way of computing: AMX, AVX512 and plain C round differently in bfloat16).
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) || defined(__AMX_TILE__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
enum { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2 };

typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t i16 __attribute__((vector_size(64), aligned(4), may_alias));

INLINE v16 splat(float x) { return (v16){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
INLINE v16 low_half(i16 pair) { return (v16)(pair << 16); }             /* of two bfloat16 as floats */
INLINE v16 high_half(i16 pair) { return (v16)(pair & (int32_t)0xffff0000); }
INLINE float wide(uint16_t x) { uint32_t bits = (uint32_t)x << 16; float f; memcpy(&f, &bits, 4); return f; }
INLINE uint16_t narrow(float f) { /* to bfloat16, to nearest even */
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* ---------------------------------------------------------------- what is multiplied */

typedef struct { /* 40 bytes, as in decode.py */
    int32_t outputs, inputs;
    const void *data;
    const float *scale;   /* int8: one per output */
    const int32_t *sums;  /* int8: the sum of each output's weights */
    const float *bias;    /* or NULL */
} matrix;

INLINE size_t padded(size_t n, size_t to) { return (n + to - 1) / to * to; }
INLINE int panels_of(const matrix *w) { return (w->outputs + 15) / 16; }
/* Bytes from one row of activations to the next; never a multiple of 4096, which would crowd one set of the cache. */
INLINE size_t row_bytes(int kind, int inputs) {
    return padded(inputs, 64) * (kind == FLOAT32 ? 4 : kind == BFLOAT16 ? 2 : 1) + 64;
}

typedef struct { /* activations in the form that the weights ask for; rows are padded to 16 */
    int kind, rows, inputs;
    uint8_t *data;  /* float32, bfloat16, or the high bytes of int8's 16 bits (signed) */
    uint8_t *low;   /* int8: the low bytes (unsigned) */
    float *scale;   /* int8: one per row */
} activations;

INLINE size_t activation_bytes(int kind, int rows, int inputs) {
    return padded(rows, 16) * (row_bytes(kind, inputs) * (kind == INT8 ? 2 : 1) + 4) + 64;
}
INLINE activations activations_at(void *memory, int kind, int rows, int inputs) {
    size_t all = padded(rows, 16) * row_bytes(kind, inputs);
    uint8_t *data = memory;
    return (activations){kind, rows, inputs, data, data + all, (float *)(data + 2 * all)};
}

/* One row of floats into its form. */
static void set_row(const activations *a, int row, const float *x) {
    size_t stride = row_bytes(a->kind, a->inputs), filled = padded(a->inputs, 64);
    uint8_t *to = a->data + row * stride;
    if (a->kind == FLOAT32) {
        memcpy(to, x, 4 * (size_t)a->inputs);
        memset(to + 4 * (size_t)a->inputs, 0, 4 * (filled - a->inputs));
        return;
    }
    if (a->kind == BFLOAT16) {
        uint16_t *out = (uint16_t *)to;
        for (int i = 0; i < a->inputs; i++) out[i] = narrow(x[i]);
        memset(out + a->inputs, 0, 2 * (filled - a->inputs));
        return;
    }
    int32_t top_bits = 0; /* floats without their signs are ordered as integers, and NaN lies above infinity */
    for (int i = 0; i < a->inputs; i++) {
        int32_t bits;
        memcpy(&bits, x + i, 4);
        bits &= 0x7fffffff;
        top_bits = bits > top_bits ? bits : top_bits;
    }
    float top;
    memcpy(&top, &top_bits, 4);
    int is_broken = top_bits >= 0x7f800000;
    uint8_t *low = a->low + row * stride;
    float per_unit = top > 1e-30f && !is_broken ? 32512.0f / top : 0; /* 127 * 256: the high byte is -127..127 */
    a->scale[row] = is_broken ? NAN : top / 32512.0f;
    for (int i = 0; i < a->inputs; i++) {
        float scaled = is_broken ? 0 : x[i] * per_unit;
        int32_t q = (int32_t)(scaled + (scaled < 0 ? -0.5f : 0.5f));
        to[i] = (uint8_t)(q >> 8);
        low[i] = (uint8_t)(q & 255);
    }
    memset(to + a->inputs, 0, filled - a->inputs);
    memset(low + a->inputs, 0, filled - a->inputs);
}

typedef struct { /* where results go */
    float *out;    /* rows x stride */
    size_t stride; /* in floats, a multiple of 16 */
    int adds;      /* add to what is there (a residual) */
} result;

INLINE void emit(const result *to, const matrix *w, int row, int panel, v16 value) {
    v16 *at = (v16 *)(to->out + row * to->stride + 16 * (size_t)panel);
    if (w->bias) value += *(const v16 *)(w->bias + 16 * (size_t)panel);
    if (to->adds) value += *at;
    *at = value;
}

/* int8: from exact sums to a result. Not inlined: the compiler may reorder these factors, and must do so everywhere alike. */
static __attribute__((noinline)) void emit_bytes(const result *to, const activations *a, const matrix *w, int row,
                                                 int panel, const i16 *high, const i16 *low) {
    v16 sum = __builtin_convertvector(*high, v16) * 256.0f + __builtin_convertvector(*low, v16);
    emit(to, w, row, panel, sum * (*(const v16 *)(w->scale + 16 * (size_t)panel) * a->scale[row]));
}

/* ---------------------------------------------------------------- with vectors */

INLINE i16 dot_bytes(i16 sum, i16 weights, int32_t x) { /* four unsigned bytes of x with four signed of each lane */
#ifdef __AVX512VNNI__
    return (i16)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(x), (__m512i)weights);
#else
    for (int byte = 0; byte < 4; byte++)
        sum += ((weights << (24 - 8 * byte)) >> 24) * (int32_t)((uint32_t)x >> (8 * byte) & 255);
    return sum;
#endif
}

/* R rows times P panels; R and P are constants, so that the sums stay in registers. */
INLINE void block(int kind, int R, int P, const activations *a, const matrix *w, const result *to, int row, int panel) {
    size_t stride = row_bytes(kind, a->inputs), inputs = padded(a->inputs, 64);
    size_t panel_bytes = 64 * inputs / (kind == FLOAT32 ? 1 : kind == BFLOAT16 ? 2 : 4);
    const uint8_t *weights = (const uint8_t *)w->data + panel * panel_bytes, *x = a->data + row * stride;
    size_t groups = panel_bytes / 64; /* 4 bytes of every row a group */
    if (kind == INT8) {
        const uint8_t *x_low = a->low + row * stride;
        i16 high[4][4], low[4][4];
        for (int r = 0; r < R; r++)
            for (int p = 0; p < P; p++) high[r][p] = low[r][p] = (i16){0};
        for (size_t g = 0; g < groups; g++)
            for (int p = 0; p < P; p++) {
                i16 four = *(const i16 *)(weights + p * panel_bytes + 64 * g);
                for (int r = 0; r < R; r++) {
                    int32_t h, l;
                    memcpy(&h, x + r * stride + 4 * g, 4);
                    memcpy(&l, x_low + r * stride + 4 * g, 4);
                    high[r][p] = dot_bytes(high[r][p], four, h ^ (int32_t)0x80808080); /* + 128 each: unsigned */
                    low[r][p] = dot_bytes(low[r][p], four, l);
                }
            }
        for (int r = 0; r < R; r++)
            for (int p = 0; p < P; p++) {
                high[r][p] -= 128 * *(const i16 *)(w->sums + 16 * (size_t)(panel + p));
                emit_bytes(to, a, w, row + r, panel + p, &high[r][p], &low[r][p]);
            }
        return;
    }
    v16 sum[4][4];
    for (int r = 0; r < R; r++)
        for (int p = 0; p < P; p++) sum[r][p] = splat(0);
    for (size_t g = 0; g < groups; g++)
        for (int p = 0; p < P; p++) {
            const uint8_t *at = weights + p * panel_bytes + 64 * g;
            for (int r = 0; r < R; r++) {
                const uint8_t *given = x + r * stride + 4 * g;
                if (kind == FLOAT32) {
                    sum[r][p] += *(const v16 *)at * splat(*(const float *)given);
                } else {
                    uint32_t pair;
                    memcpy(&pair, given, 4);
#ifdef __AVX512BF16__
                    sum[r][p] = (v16)_mm512_dpbf16_ps((__m512)sum[r][p], (__m512bh)_mm512_set1_epi32((int)pair),
                                                      (__m512bh)_mm512_loadu_si512(at));
#else
                    i16 both = *(const i16 *)at;
                    sum[r][p] += low_half(both) * splat(wide((uint16_t)pair));
                    sum[r][p] += high_half(both) * splat(wide((uint16_t)(pair >> 16)));
#endif
                }
            }
        }
    for (int r = 0; r < R; r++)
        for (int p = 0; p < P; p++) emit(to, w, row + r, panel + p, sum[r][p]);
}

#define ROWS_OF(KIND, P)                                                        \
    for (int row = 0; row < a->rows;) {                                         \
        int left = a->rows - row;                                               \
        if (left >= 4) { block(KIND, 4, P, a, w, to, row, panel); row += 4; }   \
        else if (left >= 2) { block(KIND, 2, P, a, w, to, row, panel); row += 2; } \
        else { block(KIND, 1, P, a, w, to, row, panel); row += 1; }             \
    }
#define WITH_VECTORS(NAME, KIND, WIDE)                                                                   \
    static void NAME(const activations *a, const matrix *w, const result *to, int panel, int end) {      \
        for (; panel + WIDE <= end; panel += WIDE) { ROWS_OF(KIND, WIDE) }                               \
        for (; panel < end; panel++) { ROWS_OF(KIND, 1) }                                                \
    }
WITH_VECTORS(vectors_float32, FLOAT32, 4)
WITH_VECTORS(vectors_bfloat16, BFLOAT16, 4)
WITH_VECTORS(vectors_int8, INT8, 2)

/* ---------------------------------------------------------------- with AMX tiles */

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__)
#define HAS_AMX 1
#include <sys/syscall.h>
#include <unistd.h>

static int allow_amx(void) { /* Linux gives tiles to those who ask (arch_prctl ARCH_REQ_XCOMP_PERM, XTILEDATA) */
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
}

typedef struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } tile_shape;

static void shape_tiles(int rows) { /* 0-3: sums (rows x 16), 4-5: activations (rows x 64 bytes), 6-7: weights */
    tile_shape shape = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        shape.bytes[tile] = 64;
        shape.rows[tile] = tile < 6 ? rows : 16;
    }
    _tile_loadconfig(&shape);
}

/* The next weights come while these are multiplied: a tile load alone waits for memory. */
INLINE void fetch_tile(const uint8_t *tile) {
    for (int line = 0; line < 1024; line += 64) _mm_prefetch((const char *)tile + line, _MM_HINT_T0);
}
enum { AHEAD = 4096 };

INLINE void emit_tile(const activations *a, const matrix *w, const result *to, const float *sums, int row, int panel) {
    int rows = a->rows - row < 16 ? a->rows - row : 16;
    for (int r = 0; r < rows; r++) emit(to, w, row + r, panel, *(const v16 *)(sums + 16 * r));
}

static void tiles_bfloat16(const activations *a, const matrix *w, const result *to, int panel, int end) {
    size_t stride = row_bytes(BFLOAT16, a->inputs), panel_bytes = 32 * padded(a->inputs, 64);
    _Alignas(64) float sums[4][256];
    for (; panel + 2 <= end; panel += 2)
        for (int row = 0; row < a->rows; row += 32) {
            const uint8_t *b0 = (const uint8_t *)w->data + panel * panel_bytes, *b1 = b0 + panel_bytes;
            const uint8_t *a0 = a->data + row * stride, *a1 = a0 + 16 * stride;
            int both = row + 16 < a->rows;
            _tile_zero(0);
            _tile_zero(1);
            if (both) {
                _tile_zero(2);
                _tile_zero(3);
                for (size_t k = 0; k < panel_bytes; k += 1024, a0 += 64, a1 += 64) {
                    fetch_tile(b0 + k + AHEAD);
                    _tile_loadd(6, b0 + k, 64);
                    _tile_loadd(4, a0, stride);
                    _tile_dpbf16ps(0, 4, 6);
                    fetch_tile(b1 + k + AHEAD);
                    _tile_loadd(7, b1 + k, 64);
                    _tile_dpbf16ps(1, 4, 7);
                    _tile_loadd(5, a1, stride);
                    _tile_dpbf16ps(2, 5, 6);
                    _tile_dpbf16ps(3, 5, 7);
                }
                _tile_stored(2, sums[2], 64);
                _tile_stored(3, sums[3], 64);
                emit_tile(a, w, to, sums[2], row + 16, panel);
                emit_tile(a, w, to, sums[3], row + 16, panel + 1);
            } else {
                for (size_t k = 0; k < panel_bytes; k += 1024, a0 += 64) {
                    _tile_loadd(4, a0, stride);
                    fetch_tile(b0 + k + AHEAD);
                    _tile_loadd(6, b0 + k, 64);
                    _tile_dpbf16ps(0, 4, 6);
                    fetch_tile(b1 + k + AHEAD);
                    _tile_loadd(7, b1 + k, 64);
                    _tile_dpbf16ps(1, 4, 7);
                }
            }
            _tile_stored(0, sums[0], 64);
            _tile_stored(1, sums[1], 64);
            emit_tile(a, w, to, sums[0], row, panel);
            emit_tile(a, w, to, sums[1], row, panel + 1);
        }
    if (panel < end)
        for (int row = 0; row < a->rows; row += 16) {
            const uint8_t *b = (const uint8_t *)w->data + panel * panel_bytes, *x = a->data + row * stride;
            _tile_zero(0);
            for (size_t k = 0; k < panel_bytes; k += 1024, x += 64) {
                _tile_loadd(4, x, stride);
                _tile_loadd(6, b + k, 64);
                _tile_dpbf16ps(0, 4, 6);
            }
            _tile_stored(0, sums[0], 64);
            emit_tile(a, w, to, sums[0], row, panel);
        }
}

INLINE void emit_int8_tile(const activations *a, const matrix *w, const result *to, const int32_t *high,
                           const int32_t *low, int row, int panel) {
    int rows = a->rows - row < 16 ? a->rows - row : 16;
    for (int r = 0; r < rows; r++)
        emit_bytes(to, a, w, row + r, panel, (const i16 *)(high + 16 * r), (const i16 *)(low + 16 * r));
}

static void tiles_int8(const activations *a, const matrix *w, const result *to, int panel, int end) {
    size_t stride = row_bytes(INT8, a->inputs), panel_bytes = 16 * padded(a->inputs, 64);
    _Alignas(64) int32_t sums[4][256];
    for (; panel < end; panel += 2)
        for (int row = 0; row < a->rows; row += 16) {
            int both = panel + 1 < end;
            const uint8_t *b0 = (const uint8_t *)w->data + panel * panel_bytes, *b1 = b0 + panel_bytes;
            const uint8_t *high = a->data + row * stride, *low = a->low + row * stride;
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (size_t k = 0; k < panel_bytes; k += 1024, high += 64, low += 64) {
                _tile_loadd(4, high, stride);
                _tile_loadd(5, low, stride);
                fetch_tile(b0 + k + AHEAD);
                    _tile_loadd(6, b0 + k, 64);
                _tile_dpbssd(0, 4, 6);
                _tile_dpbusd(1, 5, 6);
                if (both) {
                    fetch_tile(b1 + k + AHEAD);
                    _tile_loadd(7, b1 + k, 64);
                    _tile_dpbssd(2, 4, 7);
                    _tile_dpbusd(3, 5, 7);
                }
            }
            _tile_stored(0, sums[0], 64);
            _tile_stored(1, sums[1], 64);
            emit_int8_tile(a, w, to, sums[0], sums[1], row, panel);
            if (both) {
                _tile_stored(2, sums[2], 64);
                _tile_stored(3, sums[3], 64);
                emit_int8_tile(a, w, to, sums[2], sums[3], row, panel + 1);
            }
        }
}
#else
#define HAS_AMX 0
static int allow_amx(void) { return 0; }
static void shape_tiles(int rows) { (void)rows; }
static void tiles_bfloat16(const activations *a, const matrix *w, const result *to, int panel, int end) {
    vectors_bfloat16(a, w, to, panel, end);
}
static void tiles_int8(const activations *a, const matrix *w, const result *to, int panel, int end) {
    vectors_int8(a, w, to, panel, end);
}
#endif

/* Panels `from` to `end` of the product. */
static void product(const activations *a, const matrix *w, const result *to, int from, int end, int uses_tiles) {
    if (a->kind == FLOAT32) vectors_float32(a, w, to, from, end);
    else if (a->kind == BFLOAT16) (uses_tiles ? tiles_bfloat16 : vectors_bfloat16)(a, w, to, from, end);
    else (uses_tiles ? tiles_int8 : vectors_int8)(a, w, to, from, end);
}
