// Kernels for decoding and for small tensors. port/kernels/native.py says what each of them computes.
//
// Numbers are added in float (in double for double tensors), whatever the tensors hold, and are rounded once at the end.
// Nothing here needs alignment. All tensors are contiguous unless strides are given, which count elements.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif

struct bf16 {
    uint16_t bits;
};

template <class T> struct Sum { using type = float; };
template <> struct Sum<double> { using type = double; };
template <class T> using sum_t = typename Sum<T>::type;
template <class A> struct Vector { typedef A type __attribute__((vector_size(BYTES))); };
template <class A> using vec = typename Vector<A>::type;
template <class A> constexpr long LANES = BYTES / sizeof(A);

static inline float wide(float x) { return x; }
static inline double wide(double x) { return x; }
static inline float wide(bf16 x) {
    uint32_t bits = (uint32_t)x.bits << 16;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}
static inline void put(float &at, float x) { at = x; }
static inline void put(double &at, double x) { at = x; }
static inline void put(bf16 &at, float x) {  // to the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    at.bits = (uint16_t)(x != x ? 0x7fc0 : rounded);
}
template <class T> static inline sum_t<T> rounded(sum_t<T> x) {
    T at;
    put(at, x);
    return wide(at);
}

// Two vectors of neighbouring weights. Those of bf16 are split into even and odd places: that needs no shuffling.
template <class A> static inline vec<A> load(const A *p) {
    vec<A> v;
    std::memcpy(&v, p, BYTES);
    return v;
}
template <class A> static inline void load_pair(const A *p, vec<A> &a, vec<A> &b) {
    a = load(p);
    b = load(p + LANES<A>);
}
static inline void load_pair(const bf16 *p, vec<float> &a, vec<float> &b) {
    vec<uint32_t> raw;
    std::memcpy(&raw, p, BYTES);
    vec<uint32_t> even = raw << 16, odd = raw & 0xffff0000u;
    std::memcpy(&a, &even, BYTES);
    std::memcpy(&b, &odd, BYTES);
}
// The numbers that are multiplied with such pairs, in the same order.
template <class A> static void widen(const A *x, A *out, long rows, long width) { std::memcpy(out, x, rows * width * sizeof(A)); }
static void widen(const bf16 *x, float *out, long rows, long width) {
    const long pair = 2 * LANES<float>, whole = width / pair * pair;
    for (long row = 0; row < rows; row++, x += width, out += width) {
        for (long at = 0; at < whole; at += pair)
            for (long i = 0; i < LANES<float>; i++) {
                out[at + i] = wide(x[at + 2 * i]);
                out[at + LANES<float> + i] = wide(x[at + 2 * i + 1]);
            }
        for (long at = whole; at < width; at++) out[at] = wide(x[at]);
    }
}

template <class A> static inline A total(vec<A> v) {
    A out = 0;
    for (int i = 0; i < LANES<A>; i++) out += v[i];
    return out;
}

// M rows of x times R rows of w.
template <class T, int M, int R>
static inline void tile(const sum_t<T> *x, const T *w, const T *bias, T *y, long columns, long width) {
    using A = sum_t<T>;
    vec<A> even[M][R] = {}, odd[M][R] = {};
    long k = 0;
    for (; k + 2 * LANES<A> <= width; k += 2 * LANES<A>) {
        vec<A> b[R], c[R];
        for (int r = 0; r < R; r++) {
            load_pair(w + r * width + k, b[r], c[r]);
            __builtin_prefetch(w + (R + r) * width + k);  // the rows of the next tile; past the end it does nothing
        }
        for (int m = 0; m < M; m++) {
            vec<A> left = load(x + m * width + k), right = load(x + m * width + k + LANES<A>);
            for (int r = 0; r < R; r++) {
                even[m][r] += left * b[r];
                (M * R >= 8 ? even : odd)[m][r] += right * c[r];
            }
        }
    }
    for (int m = 0; m < M; m++)
        for (int r = 0; r < R; r++) {
            A out = total<A>(even[m][r] + odd[m][r]);
            for (long j = k; j < width; j++) out += x[m * width + j] * wide(w[r * width + j]);
            put(y[m * columns + r], bias ? out + wide(bias[r]) : out);
        }
}

template <class T, int M>
static inline void tiles(const sum_t<T> *x, const T *w, const T *bias, T *y, int rows, long columns, long width) {
    if (rows == 4) tile<T, M, 4>(x, w, bias, y, columns, width);
    else if (rows == 2) tile<T, M, 2>(x, w, bias, y, columns, width);
    else for (int r = 0; r < rows; r++) tile<T, M, 1>(x, w + r * width, bias ? bias + r : bias, y + r, columns, width);
}

constexpr int MOST = 3;  // products of one x

struct Product {  // w (columns, width), bias (columns) or null -> y (rows, columns)
    const void *w, *bias;
    void *y;
    long columns;
};

template <class T>
static void columns_of(const sum_t<T> *x, const Product &p, long n, int count, long rows, long width) {
    const T *w = (const T *)p.w + n * width, *bias = p.bias ? (const T *)p.bias + n : nullptr;
    T *y = (T *)p.y + n;
    long m = 0;
    for (; m + 4 <= rows; m += 4) tiles<T, 4>(x + m * width, w, bias, y + m * p.columns, count, p.columns, width);
    for (; m + 2 <= rows; m += 2) tiles<T, 2>(x + m * width, w, bias, y + m * p.columns, count, p.columns, width);
    for (; m < rows; m++) tiles<T, 1>(x + m * width, w, bias, y + m * p.columns, count, p.columns, width);
}

// x (rows, width) times several matrices
template <class T>
static void linears(const T *x, const Product *products, int many, long rows, long width, int threads) {
    using A = sum_t<T>;
    std::vector<A> wide_x(rows * width);
    const A *xs = wide_x.data();
    widen(x, wide_x.data(), rows, width);
    const long step = rows == 1 ? 4 : 2;
    long ends[MOST], blocks = 0, columns = 0;
    for (int i = 0; i < many; i++) {
        blocks += (products[i].columns + step - 1) / step, ends[i] = blocks;
        columns += products[i].columns;
    }
    const int used = rows * columns * width < 65536 ? 1 : threads;
#pragma omp parallel for num_threads(used) schedule(static) if (used > 1)
    for (long block = 0; block < blocks; block++) {
        int which = 0;
        while (block >= ends[which]) which++;
        const Product &p = products[which];
        const long n = (block - (which ? ends[which - 1] : 0)) * step, left = p.columns - n;
        columns_of<T>(xs, p, n, (int)(left < step ? left : step), rows, width);
    }
}

// x (rows, width), w (width): w * round(x / rms(x))
template <class T> static void rms_norm(const T *x, const T *w, T *y, long rows, long width, double eps, int threads) {
    using A = sum_t<T>;
    const int used = rows * width < 65536 ? 1 : threads;
#pragma omp parallel for num_threads(used) schedule(static) if (used > 1)
    for (long row = 0; row < rows; row++) {
        const T *in = x + row * width;
        T *out = y + row * width;
        A square = 0;
#pragma omp simd reduction(+ : square)
        for (long i = 0; i < width; i++) square += wide(in[i]) * wide(in[i]);
        const A scale = 1 / std::sqrt(square / width + (A)eps);
#pragma omp simd
        for (long i = 0; i < width; i++) put(out[i], wide(w[i]) * rounded<T>(wide(in[i]) * scale));
    }
}

// x (rows, heads, width) with a stride between rows, cos and sin (rows, width) -> y (rows, heads, width)
template <class T, class C>
static void rotary(const T *x, const C *cos, const C *sin, T *y, long rows, long heads, long width, long stride, int threads) {
    const long half = width / 2;
    const int used = rows * heads * width < 65536 ? 1 : threads;
#pragma omp parallel for num_threads(used) schedule(static) if (used > 1)
    for (long row = 0; row < rows; row++) {
        const C *c = cos + row * width, *s = sin + row * width;
        for (long head = 0; head < heads; head++) {
            const T *in = x + row * stride + head * width;
            T *out = y + (row * heads + head) * width;
#pragma omp simd
            for (long i = 0; i < half; i++) {
                const auto a = wide(in[i]), b = wide(in[i + half]);
                put(out[i], a * wide(c[i]) - b * wide(s[i]));
                put(out[i + half], b * wide(c[i + half]) + a * wide(s[i + half]));
            }
        }
    }
}

static inline double power(double x) { return std::exp(x); }
// e^x to about one ulp, without branches so that a compiler can vectorise it. Below -87 it is e^-87, about 1e-38.
static inline float power(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    const float shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
    const float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    float p = 1.9875691e-4f;
    p = p * r + 1.3981999e-3f;
    p = p * r + 8.3334519e-3f;
    p = p * r + 4.1665796e-2f;
    p = p * r + 1.6666665e-1f;
    p = p * r + 5.0000001e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, 4);
    return p * scale;
}

// silu(gate) * up, with silu(gate) rounded
template <class T> static void swiglu(const T *gate, const T *up, T *y, long count, int threads) {
    using A = sum_t<T>;
    const int used = count < 16384 ? 1 : threads;
#pragma omp parallel for simd num_threads(used) schedule(static) if (used > 1)
    for (long i = 0; i < count; i++) {
        const A g = wide(gate[i]);
        put(y[i], rounded<T>(g / (1 + power(-g))) * wide(up[i]));
    }
}

struct Shape {
    long batch, queries, heads, kv_heads, keys, width;
    long q_batch, q_token, q_head;  // strides of q
    long k_batch, k_head, k_token;  // strides of k
    long v_batch, v_head, v_token;  // strides of v
    double scale;
};

// q (B, S, H, D), k and v (B, K, T, D), each by its strides; mask (B, S, T), 0 where a key is hidden -> y (B, S, H, D)
template <class T>
static void attention(const T *q, const T *k, const T *v, const uint8_t *mask, T *y, const Shape &s, int threads) {
    using A = sum_t<T>;
    const long group = s.heads / s.kv_heads, tasks = s.batch * s.kv_heads;
    const int used = s.batch * s.heads * s.queries * s.keys * s.width < 65536 ? 1 : threads;
#pragma omp parallel num_threads(used) if (used > 1)
    {
        std::vector<A> shares(s.keys), turned(s.width), out(s.width);
#pragma omp for schedule(static)
        for (long task = 0; task < tasks; task++) {
            const long b = task / s.kv_heads, kv = task % s.kv_heads;
            const T *keys = k + b * s.k_batch + kv * s.k_head, *values = v + b * s.v_batch + kv * s.v_head;
            for (long each = 0; each < group * s.queries; each++) {
                const long head = kv * group + each / s.queries, token = each % s.queries;
                const T *query = q + b * s.q_batch + token * s.q_token + head * s.q_head;
                const uint8_t *seen = mask + (b * s.queries + token) * s.keys;
                for (long i = 0; i < s.width; i++) turned[i] = wide(query[i]) * (A)s.scale, out[i] = 0;
                const A *left = turned.data();
                A highest = -INFINITY;
                for (long t = 0; t < s.keys; t++) {
                    A score = -INFINITY;
                    if (seen[t]) {
                        const T *key = keys + t * s.k_token;
                        score = 0;
#pragma omp simd reduction(+ : score)
                        for (long i = 0; i < s.width; i++) score += left[i] * wide(key[i]);
                        highest = score > highest || score != score ? score : highest;
                    }
                    shares[t] = score;
                }
                A sum = 0;
                A *share = shares.data();
#pragma omp simd reduction(+ : sum)
                for (long t = 0; t < s.keys; t++) {
                    share[t] = seen[t] ? power(share[t] - highest) : 0;
                    sum += share[t];
                }
                A *to = out.data();
                for (long t = 0; t < s.keys; t++) {
                    if (!seen[t]) continue;
                    const T *value = values + t * s.v_token;
                    const A part = share[t];
#pragma omp simd
                    for (long i = 0; i < s.width; i++) to[i] += part * wide(value[i]);
                }
                T *result = y + ((b * s.queries + token) * s.heads + head) * s.width;
                for (long i = 0; i < s.width; i++) put(result[i], out[i] / sum);
            }
        }
    }
}

// Whether no float has all bits of its exponent set. U: the unsigned integer of the same width; inf: the bits of infinity.
template <class U> static int finite(const U *x, long count, U inf) {
    constexpr long BLOCK = 1 << 16;  // a bad number is found soon after it was read
    for (long start = 0; start < count; start += BLOCK) {
        const long end = start + BLOCK < count ? start + BLOCK : count;
        U bad = 0;
#pragma omp simd reduction(| : bad)
        for (long i = start; i < end; i++) bad |= (U)((x[i] & inf) == inf);
        if (bad) return 0;
    }
    return 1;
}

#define FOR_EACH(NAME, T)                                                                                             \
    void linears_##NAME(const T *x, const Product *products, int many, long rows, long width, int threads) {           \
        linears(x, products, many, rows, width, threads);                                                              \
    }                                                                                                                  \
    void rms_norm_##NAME(const T *x, const T *w, T *y, long rows, long width, double eps, int threads) {               \
        rms_norm(x, w, y, rows, width, eps, threads);                                                                  \
    }                                                                                                                  \
    void rotary_##NAME(const T *x, const T *cos, const T *sin, T *y, long rows, long heads, long width, long stride,   \
                       int threads) {                                                                                  \
        rotary(x, cos, sin, y, rows, heads, width, stride, threads);                                                   \
    }                                                                                                                  \
    void swiglu_##NAME(const T *gate, const T *up, T *y, long count, int threads) { swiglu(gate, up, y, count, threads); } \
    void attention_##NAME(const T *q, const T *k, const T *v, const uint8_t *mask, T *y, const Shape *shape, int threads) { \
        attention(q, k, v, mask, y, *shape, threads);                                                                  \
    }

extern "C" {
FOR_EACH(float32, float)
FOR_EACH(float64, double)
FOR_EACH(bfloat16, bf16)
void rotary_bfloat16_float32(const bf16 *x, const float *cos, const float *sin, bf16 *y, long rows, long heads,
                             long width, long stride, int threads) {
    rotary(x, cos, sin, y, rows, heads, width, stride, threads);
}
int finite_16(const uint16_t *x, long count, long inf) { return finite<uint16_t>(x, count, (uint16_t)inf); }
int finite_32(const uint32_t *x, long count, long inf) { return finite<uint32_t>(x, count, (uint32_t)inf); }
int finite_64(const uint64_t *x, long count, long inf) { return finite<uint64_t>(x, count, (uint64_t)inf); }
}
