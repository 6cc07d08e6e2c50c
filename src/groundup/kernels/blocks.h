/* Included by blocks.c once per type `T` of activations. */

/* The last few numbers of a row: sixteen, of which the first n are there. */
static inline v16 NAME(load_part)(const T *from, i64 n, float rest) {
  float x[16];
  READ(x, from, n);
  for (i64 i = n; i < 16; i++) x[i] = rest;
  return load16_float(x);
}

static inline void NAME(store_part)(T *to, v16 x, i64 n) {
  float y[16];
  store16_float(y, x);
  WRITE(to, y, n);
}

/* ---------------------------------------------------------------- RMSNorm */

/* sum = x + added + bias (where given); y = w * sum / rms(sum). `sum` may be NULL where nothing is added. */
void NAME(norm)(const float *x, const T *added, const float *bias, const float *w, float eps, float *sum, T *y, float *rstd,
                i64 n, i64 c) {
#pragma omp parallel for
  for (i64 row = 0; row < n; row++) {
    float a[c];
    const float *from = x + row * c;
    if (added) {
      READ(a, added + row * c, c);
      for (i64 i = 0; i < c; i++) a[i] += from[i];
      if (bias)
        for (i64 i = 0; i < c; i++) a[i] += bias[i];
      memcpy(sum + row * c, a, (size_t)c * sizeof(float));
    } else {
      memcpy(a, from, (size_t)c * sizeof(float));
    }
    if (!y) continue;
    float squares = 0;
    for (i64 i = 0; i < c; i++) squares += a[i] * a[i];
    float r = 1.0f / sqrtf(squares / (float)c + eps);
    rstd[row] = r;
    for (i64 i = 0; i < c; i++) a[i] *= r * w[i];
    WRITE(y + row * c, a, c);
  }
}

/* From dy (of y = norm(x)) and the gradient `residual` that reaches x past the norm:
 * dx = residual + (w dy - xn mean(w dy xn)) / rms, with xn = x / rms. Also y again (for the weights' gradient), dx rounded,
 * and dw = sum over rows of dy xn, in ROW_BLOCKS parts. NULL leaves an output out. */
void NAME(norm_backward)(const T *dy, const float *residual, const float *x, const float *rstd, const float *w, float *dx,
                         T *dx_rounded, T *y, float *dw_parts, i64 n, i64 c) {
#pragma omp parallel for
  for (i64 block = 0; block < ROW_BLOCKS; block++) {
    float d[c], xn[c], dw[c];
    memset(dw, 0, sizeof(dw));
    for (i64 row = n * block / ROW_BLOCKS; row < n * (block + 1) / ROW_BLOCKS; row++) {
      const float *from = x + row * c, r = rstd[row];
      float dot = 0;
      READ(d, dy + row * c, c);
      for (i64 i = 0; i < c; i++) {
        xn[i] = from[i] * r;
        dw[i] += d[i] * xn[i];
        d[i] *= w[i];
        dot += d[i] * xn[i];
      }
      if (dx) {
        float mean = dot / (float)c;
        for (i64 i = 0; i < c; i++) d[i] = (d[i] - xn[i] * mean) * r;
        if (residual)
          for (i64 i = 0; i < c; i++) d[i] += residual[row * c + i];
        memcpy(dx + row * c, d, (size_t)c * sizeof(float));
        if (dx_rounded) WRITE(dx_rounded + row * c, d, c);
      }
      if (y) {
        for (i64 i = 0; i < c; i++) xn[i] *= w[i];
        WRITE(y + row * c, xn, c);
      }
    }
    if (dw_parts) memcpy(dw_parts + block * c, dw, sizeof(dw));
  }
}

void NAME(round)(const float *x, T *y, i64 n) {
  i64 step = 4096;
#pragma omp parallel for
  for (i64 i = 0; i < n; i += step) WRITE(y + i, x + i, n - i < step ? n - i : step);
}

/* ---------------------------------------------------------------- SwiGLU */

/* gate_up `N, 2F` (gates first), bias `2F` or NULL -> silu(gate) * up `N, F` */
void NAME(swiglu)(const T *gate_up, const float *bias, T *out, i64 n, i64 f) {
#pragma omp parallel for
  for (i64 row = 0; row < n; row++) {
    const T *gate = gate_up + row * 2 * f, *up = gate + f;
    for (i64 i = 0; i < f; i += 16) {
      i64 left = f - i;
      v16 g = left < 16 ? NAME(load_part)(gate + i, left, 0) : LOAD(gate + i);
      v16 u = left < 16 ? NAME(load_part)(up + i, left, 0) : LOAD(up + i);
      if (bias) {
        g += left < 16 ? bias_part(bias + i, left, 0) : load16_float(bias + i);
        u += left < 16 ? bias_part(bias + f + i, left, 0) : load16_float(bias + f + i);
      }
      v16 y = g * sigmoid16(g) * u;
      if (left < 16)
        NAME(store_part)(out + row * f + i, y, left);
      else
        STORE(out + row * f + i, y);
    }
  }
}

/* From the gradient `d` of silu(gate) * up: the gradient of gate_up, and silu(gate) * up again (into `out`). */
void NAME(swiglu_backward)(const T *gate_up, const float *bias, const T *d, T *d_gate_up, T *out, i64 n, i64 f) {
#pragma omp parallel for
  for (i64 row = 0; row < n; row++) {
    const T *gate = gate_up + row * 2 * f, *up = gate + f;
    T *d_gate = d_gate_up + row * 2 * f, *d_up = d_gate + f;
    for (i64 i = 0; i < f; i += 16) {
      i64 left = f - i;
      v16 g = left < 16 ? NAME(load_part)(gate + i, left, 0) : LOAD(gate + i);
      v16 u = left < 16 ? NAME(load_part)(up + i, left, 0) : LOAD(up + i);
      v16 grad = left < 16 ? NAME(load_part)(d + row * f + i, left, 0) : LOAD(d + row * f + i);
      if (bias) {
        g += left < 16 ? bias_part(bias + i, left, 0) : load16_float(bias + i);
        u += left < 16 ? bias_part(bias + f + i, left, 0) : load16_float(bias + f + i);
      }
      v16 sigmoid = sigmoid16(g), silu = g * sigmoid;
      v16 dg = grad * u * (sigmoid + silu * (1.0f - sigmoid)), du = grad * silu, y = silu * u;
      if (left < 16) {
        NAME(store_part)(d_gate + i, dg, left);
        NAME(store_part)(d_up + i, du, left);
        NAME(store_part)(out + row * f + i, y, left);
      } else {
        STORE(d_gate + i, dg);
        STORE(d_up + i, du);
        STORE(out + row * f + i, y);
      }
    }
  }
}

/* ---------------------------------------------------------------- heads: bias, q/k norm, rotation, order */

/* One head `d`, in place: norm (where w), then rotation of the two halves against each other (where cos), then scale. */
static inline void NAME(head)(float *x, const float *w, float eps, const float *cos, const float *sin, float scale, i64 d) {
  if (w) {
    float squares = 0;
    for (i64 i = 0; i < d; i++) squares += x[i] * x[i];
    float r = 1.0f / sqrtf(squares / (float)d + eps);
    for (i64 i = 0; i < d; i++) x[i] *= r * w[i];
  }
  i64 half = d / 2;
  if (cos) {
    for (i64 i = 0; i < half; i++) {
      float a = x[i], b = x[half + i];
      x[i] = (a * cos[i] - b * sin[i]) * scale;
      x[half + i] = (b * cos[i] + a * sin[i]) * scale;
    }
  } else if (scale != 1.0f) {
    for (i64 i = 0; i < d; i++) x[i] *= scale;
  }
}

/* The transpose of `head`: gradient of its output -> gradient of its input. `x` is the input, needed where w. */
static inline void NAME(head_backward)(float *grad, const float *x, const float *w, float *dw, float eps, const float *cos,
                                       const float *sin, float scale, i64 d) {
  i64 half = d / 2;
  if (cos) {
    for (i64 i = 0; i < half; i++) {
      float a = grad[i], b = grad[half + i];
      grad[i] = (a * cos[i] + b * sin[i]) * scale;
      grad[half + i] = (b * cos[i] - a * sin[i]) * scale;
    }
  } else if (scale != 1.0f) {
    for (i64 i = 0; i < d; i++) grad[i] *= scale;
  }
  if (w) {
    float squares = 0, dot = 0;
    for (i64 i = 0; i < d; i++) squares += x[i] * x[i];
    float r = 1.0f / sqrtf(squares / (float)d + eps);
    for (i64 i = 0; i < d; i++) {
      dw[i] += grad[i] * x[i] * r;
      grad[i] *= w[i];
      dot += grad[i] * x[i] * r;
    }
    dot /= (float)d;
    for (i64 i = 0; i < d; i++) grad[i] = (grad[i] - x[i] * r * dot) * r;
  }
}

/* qkv `B, T, (H + 2 Hkv) D` -> q `B, Hkv, T, G, D` (scaled), k and v `B, Hkv, T, D`.
 * cos, sin: tables `positions, D` as RotaryTable keeps them (the second half of each row is read), NULL for no rotation;
 * positions `1 or B, T` (`per_row` says which). bias `(H + 2 Hkv) D`, q_norm and k_norm `D`: NULL where there is none. */
void NAME(split_heads)(const T *qkv, const float *bias, const float *cos, const float *sin, const i64 *positions, i64 per_row,
                       const float *q_norm, const float *k_norm, float eps, float scale, T *q, T *k, T *v, i64 batch, i64 t,
                       i64 kv, i64 g, i64 d) {
  i64 h = kv * g, width = (h + 2 * kv) * d;
#pragma omp parallel for
  for (i64 token = 0; token < batch * t; token++) {
    i64 b = token / t, at = token % t;
    float x[d];
    i64 offset = cos ? positions[per_row ? token : at] * d + d / 2 : 0;
    for (i64 head = 0; head < h + 2 * kv; head++) {
      READ(x, qkv + token * width + head * d, d);
      if (bias)
        for (i64 i = 0; i < d; i++) x[i] += bias[head * d + i];
      if (head < h) {
        NAME(head)(x, q_norm, eps, cos ? cos + offset : 0, sin + offset, scale, d);
        WRITE(q + (((b * kv + head / g) * t + at) * g + head % g) * d, x, d);
      } else if (head < h + kv) {
        NAME(head)(x, k_norm, eps, cos ? cos + offset : 0, sin + offset, 1.0f, d);
        WRITE(k + ((b * kv + head - h) * t + at) * d, x, d);
      } else {
        WRITE(v + ((b * kv + head - h - kv) * t + at) * d, x, d);
      }
    }
  }
}

/* The transpose: dq, dk, dv as split_heads laid them out -> dqkv. With norms, `qkv` is what split_heads read, and
 * `dw_parts` `ROW_BLOCKS, 2 D` takes the sums for q_norm and k_norm. */
void NAME(join_heads)(const T *dq, const T *dk, const T *dv, const T *qkv, const float *bias, const float *cos,
                      const float *sin, const i64 *positions, i64 per_row, const float *q_norm, const float *k_norm,
                      float eps, float scale, T *dqkv, float *dw_parts, i64 batch, i64 t, i64 kv, i64 g, i64 d) {
  i64 h = kv * g, width = (h + 2 * kv) * d, n = batch * t;
#pragma omp parallel for
  for (i64 block = 0; block < ROW_BLOCKS; block++) {
    float grad[d], x[d], dw[2 * d];
    memset(dw, 0, sizeof(dw));
    for (i64 token = n * block / ROW_BLOCKS; token < n * (block + 1) / ROW_BLOCKS; token++) {
      i64 b = token / t, at = token % t;
      i64 offset = cos ? positions[per_row ? token : at] * d + d / 2 : 0;
      for (i64 head = 0; head < h + 2 * kv; head++) {
        if (q_norm && head < h + kv) {
          READ(x, qkv + token * width + head * d, d);
          if (bias)
            for (i64 i = 0; i < d; i++) x[i] += bias[head * d + i];
        }
        if (head < h) {
          READ(grad, dq + (((b * kv + head / g) * t + at) * g + head % g) * d, d);
          NAME(head_backward)(grad, x, q_norm, dw, eps, cos ? cos + offset : 0, sin + offset, scale, d);
        } else if (head < h + kv) {
          READ(grad, dk + ((b * kv + head - h) * t + at) * d, d);
          NAME(head_backward)(grad, x, k_norm, dw + d, eps, cos ? cos + offset : 0, sin + offset, 1.0f, d);
        } else {
          READ(grad, dv + ((b * kv + head - h - kv) * t + at) * d, d);
        }
        WRITE(dqkv + token * width + head * d, grad, d);
      }
    }
    if (dw_parts) memcpy(dw_parts + block * 2 * d, dw, sizeof(dw));
  }
}

/* ---------------------------------------------------------------- attention: softmax over what a token may see */

/* scores `B Hkv, queries G, keys` of the queries `start ...` of each row -> probabilities, in place.
 * Query t sees the keys first[b, t] ... t; what lies outside becomes 0. first `B, T`. */
void NAME(softmax)(T *scores, const int32_t *first, i64 batch, i64 t, i64 kv, i64 g, i64 start, i64 queries, i64 keys) {
#pragma omp parallel for collapse(2)
  for (i64 matrix = 0; matrix < batch * kv; matrix++) {
    for (i64 query = 0; query < queries; query++) {
      i64 low = first[matrix / kv * t + start + query], count = start + query + 1 - low, whole = count / 16 * 16;
      float p[whole + 16];
      for (i64 head = 0; head < g; head++) {
        T *row = scores + ((matrix * queries + query) * g + head) * keys, *seen = row + low;
        v16 tops = all16(-INFINITY), sums = {};
        for (i64 i = 0; i < whole; i += 16) tops = max16(tops, LOAD(seen + i));
        v16 last = NAME(load_part)(seen + whole, count - whole, -INFINITY);
        float top = max_of(max16(tops, last));
        for (i64 i = 0; i < whole; i += 16) {
          v16 e = exp16(LOAD(seen + i) - top);
          store16_float(p + i, e);
          sums += e;
        }
        last = exp16(last - top);
        for (i64 i = count - whole; i < 16; i++) last[i] = 0;
        float scale = 1.0f / sum_of(sums + last);
        memset(row, 0, (size_t)low * sizeof(T));
        for (i64 i = 0; i < whole; i += 16) STORE(seen + i, load16_float(p + i) * scale);
        NAME(store_part)(seen + whole, last * scale, count - whole);
        memset(seen + count, 0, (size_t)(keys - low - count) * sizeof(T));
      }
    }
  }
}

/* probabilities and their gradient `d` -> gradient of the scores, in place of `d`: p (d - sum(p d)). */
void NAME(softmax_backward)(const T *probabilities, T *d, const int32_t *first, i64 batch, i64 t, i64 kv, i64 g, i64 start,
                            i64 queries, i64 keys) {
#pragma omp parallel for collapse(2)
  for (i64 matrix = 0; matrix < batch * kv; matrix++) {
    for (i64 query = 0; query < queries; query++) {
      i64 low = first[matrix / kv * t + start + query], count = start + query + 1 - low, whole = count / 16 * 16;
      for (i64 head = 0; head < g; head++) {
        i64 at = ((matrix * queries + query) * g + head) * keys;
        const T *p = probabilities + at + low;
        T *grad = d + at + low;
        v16 last_p = NAME(load_part)(p + whole, count - whole, 0);
        v16 last_grad = NAME(load_part)(grad + whole, count - whole, 0), sums = last_p * last_grad;
        for (i64 i = 0; i < whole; i += 16) sums += LOAD(p + i) * LOAD(grad + i);
        float dot = sum_of(sums);
        memset(d + at, 0, (size_t)low * sizeof(T));
        for (i64 i = 0; i < whole; i += 16) STORE(grad + i, LOAD(p + i) * (LOAD(grad + i) - dot));
        NAME(store_part)(grad + whole, last_p * (last_grad - dot), count - whole);
        memset(grad + count, 0, (size_t)(keys - low - count) * sizeof(T));
      }
    }
  }
}

/* heads `B, Hkv, T, G D` -> tokens `B, T, Hkv, G D`, or back */
void NAME(heads_to_tokens)(const T *heads, T *tokens, i64 batch, i64 t, i64 kv, i64 width) {
#pragma omp parallel for
  for (i64 token = 0; token < batch * t; token++)
    for (i64 head = 0; head < kv; head++)
      memcpy(tokens + (token * kv + head) * width, heads + ((token / t * kv + head) * t + token % t) * width,
             (size_t)width * sizeof(T));
}

void NAME(tokens_to_heads)(const T *tokens, T *heads, i64 batch, i64 t, i64 kv, i64 width) {
#pragma omp parallel for
  for (i64 token = 0; token < batch * t; token++)
    for (i64 head = 0; head < kv; head++)
      memcpy(heads + ((token / t * kv + head) * t + token % t) * width, tokens + (token * kv + head) * width,
             (size_t)width * sizeof(T));
}

/* ---------------------------------------------------------------- cross entropy */

/* logits `N, V` -> onehot(target) - p, in place; logprobs `N`: log p(target). p = softmax(logits * scale). */
void NAME(target_logprobs)(T *logits, const i64 *targets, float scale, float *logprobs, i64 n, i64 vocabulary) {
#pragma omp parallel for
  for (i64 row = 0; row < n; row++) {
    T *x = logits + row * vocabulary;
    i64 whole = vocabulary / 16 * 16, left = vocabulary - whole;
    float target;
    READ(&target, x + targets[row], 1);
    v16 last = NAME(load_part)(x + whole, left, -INFINITY), tops = last, sums = {};
    for (i64 i = 0; i < whole; i += 16) tops = max16(tops, LOAD(x + i));
    float top = max_of(tops);
    for (i64 i = 0; i < whole; i += 16) sums += exp16((LOAD(x + i) - top) * scale);
    last = exp16((last - top) * scale);
    for (i64 i = left; i < 16; i++) last[i] = 0;
    float sum = sum_of(sums + last), minus = -1.0f / sum, p = expf((target - top) * scale) / sum;
    for (i64 i = 0; i < whole; i += 16) STORE(x + i, exp16((LOAD(x + i) - top) * scale) * minus);
    NAME(store_part)(x + whole, last * minus, left);
    p = 1.0f - p;
    WRITE(x + targets[row], &p, 1);
    logprobs[row] = (target - top) * scale - logf(sum);
  }
}
