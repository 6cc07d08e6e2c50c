/* A whole decoder, from token ids to logits, in one call: what generation runs for every token.
 *
 * A call takes tokens in any number and mix: one for each of many sequences, a prompt of hundreds, or both. Each token
 * names its slot in the cache and its position there; it attends to what its slot holds up to that position. There is
 * no padding, so nothing has to be masked. Products: decode_products.h. Reference: model/decoder.py, in torch.
 *
 * Cache: keys and values of a layer, each [slot][kv head][capacity x head width], capacity a multiple of 16, the width
 * padded to 16. Keys lie in blocks of 16 positions with the pairs of one head inside, [position/16][width/2][2][16] in
 * float32 and [position/16][width/2][16][2] in bfloat16: 16 scores come from multiply-adds alone, with no sum across
 * lanes. Values lie in pairs of positions, [position/2][2][width] or [position/2][width][2].
 */
#ifdef _OPENMP
#include <omp.h>
#define BARRIER _Pragma("omp barrier")
#else
#define omp_get_thread_num() 0
#define omp_get_num_threads() 1
#define BARRIER
#endif
#include "decode_products.h"

enum { AT_ONCE = 256, PRIVATE_ROWS = 4 }; /* tokens worked on together; rows that each thread prepares for itself */

typedef struct {
    matrix qkv, out, gate_up, down; /* gate_up: panels of 16 gates and 16 ups in turn */
    const float *attention_norm, *mlp_norm, *q_norm, *k_norm; /* the last two NULL where there are none */
    int32_t window, uses_rope;                                 /* window 0: all that came before */
} layer;

typedef struct {
    int32_t kind, layers, hidden, heads, kv_heads, head_dim, intermediate, vocab;
    float eps;
    int32_t uses_tiles;
    const layer *layer;
    const void *embedding; /* vocab x hidden; float32 where kind is, else bfloat16 */
    const float *norm;
    matrix head;
} decoder;

typedef struct {
    int32_t tokens, wanted, threads, slots, capacity, positions;
    const int32_t *ids, *slot, *position; /* of each token */
    const int32_t *wanted_tokens;         /* whose logits are asked for, ascending */
    const float *cos, *sin;               /* positions x head_dim/2 */
    void *keys, *values;                  /* [layer] of the cache above */
    float *logits;                        /* wanted x padded(vocab, 16) */
    void *workspace;
} call;

INLINE int share(int all, int thread, int threads) { return (int)((int64_t)all * thread / threads); }
INLINE int most(int a, int b) { return a > b ? a : b; }

/* ---------------------------------------------------------------- pieces */

INLINE v16 exp16(v16 x) { /* e^x to 1e-7 (1 + |x|); 0 below -87 */
    const v16 lowest = splat(-87.33f), highest = splat(88.0f);
    i16 gone = x < lowest;
    x = (v16)(((i16)lowest & gone) | ((i16)x & ~gone));
    i16 over = x > highest;
    x = (v16)(((i16)highest & over) | ((i16)x & ~over));
    v16 doublings = x * 1.44269504f, above = doublings + 0.5f;
    i16 n = __builtin_convertvector(above, i16);
    n += __builtin_convertvector(n, v16) > above; /* truncated towards 0; true is -1 */
    v16 r = (doublings - __builtin_convertvector(n, v16)) * 0.693147181f;
    v16 p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return (v16)(((i16)p + (n << 23)) & ~gone);
}
INLINE float sum16(v16 x) {
    float sum = 0;
    for (int i = 0; i < 16; i++) sum += x[i];
    return sum;
}

static void rms_norm(const float *x, const float *weight, float eps, int n, float *out) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] * x[i];
    float scale = 1.0f / sqrtf(sum / n + eps);
    for (int i = 0; i < n; i++) out[i] = x[i] * scale * weight[i];
}

static void rotate(float *x, const float *cos, const float *sin, int half) { /* Llama's halves, not neighbours */
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[half + i];
        x[i] = a * cos[i] - b * sin[i];
        x[half + i] = b * cos[i] + a * sin[i];
    }
}

static void swiglu(const float *gate_up, int n, float *out) { /* silu(gate) up; n is padded to 16 in both */
    for (int i = 0; i < n; i += 16, gate_up += 32) {
        v16 gate = *(const v16 *)gate_up, up = *(const v16 *)(gate_up + 16);
        *(v16 *)(out + i) = gate / (1.0f + exp16(-gate)) * up;
    }
}

/* ---------------------------------------------------------------- attention */

/* Two neighbours in the cache, 16 lanes each. */
INLINE void load_pair(int is_wide, const void *from, size_t at, size_t apart, v16 *first, v16 *second) {
    if (is_wide) { /* the second lies `apart` floats behind the first */
        *first = *(const v16 *)((const float *)from + at);
        *second = *(const v16 *)((const float *)from + at + apart);
    } else {
        i16 both = *(const i16 *)((const uint16_t *)from + at);
        *first = low_half(both);
        *second = high_half(both);
    }
}

/* G query heads (a constant) of one kv head against positions start..last. q: G x width, scaled; scores: G x room. */
INLINE void attend(int is_wide, int G, const float *q, const void *keys, const void *values, int start, int last,
                   int width, float *scores, size_t room, float *out) {
    v16 top[4];
    for (int g = 0; g < G; g++) top[g] = splat(-INFINITY);
    const i16 lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    int first = start & ~15;
    for (int at = first; at <= last; at += 16) {
        v16 sum[4];
        for (int g = 0; g < G; g++) sum[g] = splat(0);
        for (int d = 0; d < width; d += 2) {
            v16 even, odd;
            size_t line = ((size_t)at * width + 16 * (size_t)d) * (is_wide ? 4 : 2); /* comes while keys are read */
            __builtin_prefetch((const char *)values + line);
            load_pair(is_wide, keys, (size_t)at * width + 16 * (size_t)d, 16, &even, &odd);
            for (int g = 0; g < G; g++) sum[g] += even * q[g * width + d] + odd * q[g * width + d + 1];
        }
        i16 position = lanes + at, seen = (position >= start) & (position <= last);
        for (int g = 0; g < G; g++) {
            sum[g] = (v16)(((i16)sum[g] & seen) | ((i16)splat(-INFINITY) & ~seen));
            i16 larger = sum[g] > top[g];
            top[g] = (v16)(((i16)sum[g] & larger) | ((i16)top[g] & ~larger));
            *(v16 *)(scores + g * room + (at - first)) = sum[g];
        }
    }
    float scale[4];
    for (int g = 0; g < G; g++) {
        float best = -INFINITY;
        for (int i = 0; i < 16; i++) best = top[g][i] > best ? top[g][i] : best;
        v16 sum = splat(0);
        for (int at = first; at <= last; at += 16) {
            v16 *p = (v16 *)(scores + g * room + (at - first));
            *p = exp16(*p - best);
            sum += *p;
        }
        scale[g] = 1.0f / sum16(sum);
    }
    for (int d = 0; d < width; d += 32) {
        int two = d + 16 < width;
        v16 sum[4][2];
        for (int g = 0; g < G; g++) sum[g][0] = sum[g][1] = splat(0);
        for (int at = start & ~1; at <= last; at += 2) {
            size_t pair = (size_t)at * width;
            v16 even[2], odd[2];
            load_pair(is_wide, values, pair + (is_wide ? 1 : 2) * (size_t)d, width, &even[0], &odd[0]);
            load_pair(is_wide, values, pair + (is_wide ? 1 : 2) * (size_t)(d + 16 * two), width, &even[1], &odd[1]);
            if (at < start) even[0] = even[1] = splat(0); /* weighed by 0, but what lies there may be no number */
            if (at == last) odd[0] = odd[1] = splat(0);
            for (int g = 0; g < G; g++) {
                float p = scores[g * room + (at - first)], next = scores[g * room + (at - first) + 1];
                sum[g][0] += even[0] * p + odd[0] * next;
                sum[g][1] += even[1] * p + odd[1] * next;
            }
        }
        for (int g = 0; g < G; g++) {
            *(v16 *)(out + g * width + d) = sum[g][0] * scale[g];
            if (two) *(v16 *)(out + g * width + d + 16) = sum[g][1] * scale[g];
        }
    }
}

typedef struct { /* where one layer's cache of one slot and kv head begins, and how to go through it */
    void *keys, *values;
    int width;
} span;

INLINE span span_of(const decoder *m, const call *c, int number, int slot, int kv) {
    size_t width = padded(m->head_dim, 16), size = c->capacity * width;
    size_t at = (((size_t)number * c->slots + slot) * m->kv_heads + kv) * size * (m->kind == FLOAT32 ? 4 : 2);
    return (span){(char *)c->keys + at, (char *)c->values + at, (int)width};
}

static void store(const decoder *m, span to, int position, const float *k, const float *v) {
    size_t width = to.width, block = (size_t)(position & ~15) * width, pair = (size_t)(position & ~1) * width;
    int lane = position & 15, odd = position & 1;
    for (int d = 0; d < m->head_dim; d++) {
        if (m->kind == FLOAT32) {
            ((float *)to.keys)[block + 16 * d + lane] = k[d];
            ((float *)to.values)[pair + odd * width + d] = v[d];
        } else {
            ((uint16_t *)to.keys)[block + 32 * (d / 2) + 2 * lane + (d & 1)] = narrow(k[d]);
            ((uint16_t *)to.values)[pair + 2 * d + odd] = narrow(v[d]);
        }
    }
}

/* Norm and rotation of the heads that one kv head serves, in place, and its key and value into the cache. */
static void heads_in(const decoder *m, const call *c, int number, int token, int kv, float *qkv) {
    const layer *l = m->layer + number;
    int D = m->head_dim, half = D / 2, group = m->heads / m->kv_heads, position = c->position[token];
    float *k = qkv + (m->heads + kv) * D, *v = k + m->kv_heads * D;
    for (int head = 0; head <= group; head++) {
        float *x = head < group ? qkv + (kv * group + head) * D : k;
        const float *weight = head < group ? l->q_norm : l->k_norm;
        if (weight) rms_norm(x, weight, m->eps, D, x);
        if (l->uses_rope) rotate(x, c->cos + (size_t)position * half, c->sin + (size_t)position * half, half);
    }
    store(m, span_of(m, c, number, c->slot[token], kv), position, k, v);
}

static void heads_out(const decoder *m, const call *c, int number, int token, int kv, const float *qkv, float *out,
                      float *scratch) {
    int D = m->head_dim, group = m->heads / m->kv_heads, last = c->position[token], window = m->layer[number].window;
    int start = window > 0 ? most(0, last - window + 1) : 0;
    span at = span_of(m, c, number, c->slot[token], kv);
    int width = at.width;
    float *q = scratch, *result = q + 4 * width, *scores = result + 4 * width;
    float scale = 1.0f / sqrtf((float)D);
    for (int from = 0; from < group; from += 4) {
        int G = group - from < 4 ? group - from : 4;
        for (int g = 0; g < G; g++) {
            const float *x = qkv + (kv * group + from + g) * D;
            for (int d = 0; d < width; d++) q[g * width + d] = d < D ? x[d] * scale : 0;
        }
#define ATTEND(WIDE, N) attend(WIDE, N, q, at.keys, at.values, start, last, width, scores, c->capacity + 16, result)
#define GROUPS(WIDE) \
        switch (G) { case 1: ATTEND(WIDE, 1); break; case 2: ATTEND(WIDE, 2); break; \
                     case 3: ATTEND(WIDE, 3); break; default: ATTEND(WIDE, 4); }
        if (m->kind == FLOAT32) { GROUPS(1) } else { GROUPS(0) }
        for (int g = 0; g < G; g++)
            memcpy(out + (kv * group + from + g) * D, result + g * width, 4 * (size_t)D);
    }
}

/* ---------------------------------------------------------------- the whole */

typedef struct { /* one block of memory, cut up; every part begins at a multiple of 64 bytes */
    float *x, *qkv, *heads, *gate_up, *last; /* rows x padded widths */
    char *shared;                            /* activations of all rows */
    char *own;                               /* one thread's: activations of a few rows, then scratch */
    size_t own_bytes, bytes;
} memory;

static size_t widest(const decoder *m) {
    return padded(most(most(m->hidden, m->intermediate), m->heads * m->head_dim), 64);
}
INLINE size_t qkv_stride(const decoder *m) {
    return padded((m->heads + 2 * m->kv_heads) * m->head_dim, 16);
}

static memory cut(const decoder *m, int tokens, int wanted, int threads, int capacity, void *base) {
    size_t rows = padded(tokens < AT_ONCE ? tokens : AT_ONCE, 16), at = 0;
    memory a;
#define PART(NAME, TYPE, BYTES) a.NAME = (TYPE)((char *)base + at), at += padded(BYTES, 64)
    PART(x, float *, 4 * rows * padded(m->hidden, 16));
    PART(qkv, float *, 4 * rows * qkv_stride(m));
    PART(heads, float *, 4 * rows * padded(m->heads * m->head_dim, 16));
    PART(gate_up, float *, 8 * rows * padded(m->intermediate, 16));
    PART(last, float *, 4 * padded(most(wanted, 1), 16) * padded(m->hidden, 16));
    PART(shared, char *, activation_bytes(m->kind, most(rows, wanted), widest(m)));
    a.own_bytes = padded(activation_bytes(m->kind, PRIVATE_ROWS, widest(m)), 64) + 4 * widest(m) +
                  padded(4 * (8 * padded(m->head_dim, 16) + 4 * ((size_t)capacity + 16)), 64);
    PART(own, char *, a.own_bytes * threads);
    a.bytes = at;
    return a;
}

size_t decode_workspace(const decoder *m, int tokens, int wanted, int threads, int capacity) {
    return cut(m, tokens, wanted, threads, capacity, NULL).bytes;
}

enum { NORMED, PLAIN, SWIGLU };

/* Rows of floats into the form of the next product. A few rows: each thread makes its own copy, and nobody waits. */
static activations prepare(const decoder *m, const memory *a, int how, const float *x, size_t stride, int rows,
                           int inputs, const float *norm, int thread, int threads) {
    char *own = a->own + thread * a->own_bytes;
    float *row_memory = (float *)(own + padded(activation_bytes(m->kind, PRIVATE_ROWS, widest(m)), 64));
    int is_private = rows <= PRIVATE_ROWS;
    activations result = activations_at(is_private ? own : a->shared, m->kind, rows, inputs);
    int from = is_private ? 0 : share(rows, thread, threads), end = is_private ? rows : share(rows, thread + 1, threads);
    for (int row = from; row < end; row++) {
        const float *given = x + row * stride;
        if (how == NORMED) rms_norm(given, norm, m->eps, inputs, row_memory);
        if (how == SWIGLU) swiglu(given, (int)padded(inputs, 16), row_memory);
        set_row(&result, row, how == PLAIN ? given : row_memory);
    }
    if (!is_private) { BARRIER }
    return result;
}

static void multiply(const decoder *m, const activations *a, const matrix *w, float *out, size_t stride, int adds,
                     int thread, int threads) {
    int panels = panels_of(w);
    result to = {out, stride, adds};
    product(a, w, &to, share(panels, thread, threads), share(panels, thread + 1, threads), m->uses_tiles);
    BARRIER
}

/* Whether every token is the only one of its slot: then it waits for no other token's key. */
static int are_alone(const call *c, int from, int tokens) {
    for (int t = from + 1; t < from + tokens; t++)
        if (c->slot[t] <= c->slot[t - 1]) return 0;
    return 1;
}

static void run_layers(const decoder *m, const call *c, const memory *a, int from, int tokens, int thread,
                       int threads) {
    int D = m->head_dim, units = tokens * m->kv_heads, is_alone = are_alone(c, from, tokens);
    size_t hidden = padded(m->hidden, 16), qkv = qkv_stride(m), heads = padded(m->heads * D, 16);
    size_t gate_up = 2 * padded(m->intermediate, 16);
    float *scratch = (float *)(a->own + (thread + 1) * a->own_bytes) -
                     padded(8 * padded(D, 16) + 4 * ((size_t)c->capacity + 16), 16);
    for (int t = share(tokens, thread, threads); t < share(tokens, thread + 1, threads); t++) {
        float *x = a->x + t * hidden;
        size_t at = (size_t)c->ids[from + t] * m->hidden;
        for (int i = 0; i < m->hidden; i++)
            x[i] = m->kind == FLOAT32 ? ((const float *)m->embedding)[at + i] : wide(((const uint16_t *)m->embedding)[at + i]);
    }
    BARRIER
    for (int number = 0; number < m->layers; number++) {
        const layer *l = m->layer + number;
        activations in = prepare(m, a, NORMED, a->x, hidden, tokens, m->hidden, l->attention_norm, thread, threads);
        multiply(m, &in, &l->qkv, a->qkv, qkv, 0, thread, threads);
        int unit = share(units, thread, threads), end = share(units, thread + 1, threads);
        for (int pass = 0; pass < 2; pass++) {
            for (int u = unit; u < end; u++) {
                int t = u / m->kv_heads, kv = u % m->kv_heads;
                if (pass == 0) heads_in(m, c, number, from + t, kv, a->qkv + t * qkv);
                if (pass == 1 || is_alone)
                    heads_out(m, c, number, from + t, kv, a->qkv + t * qkv, a->heads + t * heads, scratch);
            }
            if (is_alone) break;
            if (pass == 0) { BARRIER }
        }
        BARRIER
        in = prepare(m, a, PLAIN, a->heads, heads, tokens, m->heads * D, NULL, thread, threads);
        multiply(m, &in, &l->out, a->x, hidden, 1, thread, threads);
        in = prepare(m, a, NORMED, a->x, hidden, tokens, m->hidden, l->mlp_norm, thread, threads);
        multiply(m, &in, &l->gate_up, a->gate_up, gate_up, 0, thread, threads);
        in = prepare(m, a, SWIGLU, a->gate_up, gate_up, tokens, m->intermediate, NULL, thread, threads);
        multiply(m, &in, &l->down, a->x, hidden, 1, thread, threads);
    }
}

/* Read tokens, fill the cache, give logits. Returns 0; 1 where a token, slot or position is out of range. */
int decode_forward(const decoder *m, const call *c) {
    for (int t = 0; t < c->tokens; t++)
        if (c->ids[t] < 0 || c->ids[t] >= m->vocab || c->slot[t] < 0 || c->slot[t] >= c->slots || c->position[t] < 0 ||
            c->position[t] >= c->capacity || c->position[t] >= c->positions)
            return 1;
    memory a = cut(m, c->tokens, c->wanted, c->threads, c->capacity, c->workspace);
    size_t hidden = padded(m->hidden, 16);
#pragma omp parallel num_threads(c->threads)
    {
        int thread = omp_get_thread_num(), threads = omp_get_num_threads(); /* may be fewer than asked for */
        if (m->uses_tiles) shape_tiles(c->tokens < 16 ? c->tokens : 16);
        int want = 0;
        for (int from = 0; from < c->tokens; from += AT_ONCE) {
            int tokens = c->tokens - from < AT_ONCE ? c->tokens - from : AT_ONCE;
            run_layers(m, c, &a, from, tokens, thread, threads);
            for (; want < c->wanted && c->wanted_tokens[want] < from + tokens; want++)
                if (want % threads == thread)
                    memcpy(a.last + want * hidden, a.x + (c->wanted_tokens[want] - from) * hidden, 4 * hidden);
            BARRIER
        }
        if (c->wanted > 0) {
            activations in =
                prepare(m, &a, NORMED, a.last, hidden, c->wanted, m->hidden, m->norm, thread, threads);
            multiply(m, &in, &m->head, c->logits, padded(m->vocab, 16), 0, thread, threads);
        }
#if HAS_AMX
        if (m->uses_tiles) _tile_release();
#endif
    }
    return 0;
}

/* 1: AMX tiles may be used by this process from now on. */
int decode_allow_tiles(void) { return HAS_AMX && allow_amx(); }
/* Instructions that it was built with. Without them the same is computed in more steps, slower than torch. */
int decode_instructions(void) {
    int found = HAS_AMX ? 8 : 0;
#ifdef __AVX512F__
    found |= 1;
#endif
#ifdef __AVX512BF16__
    found |= 2;
#endif
#ifdef __AVX512VNNI__
    found |= 4;
#endif
    return found;
}
