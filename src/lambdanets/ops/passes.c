/* Passes over memory in training: batch norms of the columns of a matrix (rows, channels), and transposes.
 *
 * Forward and backward of a batch norm read each operand twice, first for the statistics, and write each result once. All sums are of
 * REAL (float or double) over some rows, then of double; their order depends on the number of threads alone.
 *
 * The type of the input and its gradient is REAL, or bfloat16 with -DBF16_INPUT; that of the result and
 * its gradient is REAL, or bfloat16 with -DBF16_RESULT.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#ifdef __AVX512F__
#define BYTES 64
#else
#define BYTES 32
#endif

typedef REAL real;
typedef int64_t size;
typedef uint16_t bfloat16;
typedef real vec __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));
enum { LANES = BYTES / sizeof(real), TILE = 32 };

#ifdef BF16_INPUT
typedef bfloat16 input;
#else
typedef real input;
#endif
#ifdef BF16_RESULT
typedef bfloat16 result;
#else
typedef real result;
#endif

#define INLINE static inline __attribute__((always_inline))

typedef struct {
    size threads, rows, channels;
    size input_stride, result_stride; /* elements from one row to the next */
    size update;                      /* boolean: update the running statistics */
    double eps, momentum;
} Norm;

/* The first `count` elements of a vector; zeros behind them. */
INLINE vec load_real(const real *p, size count) {
    if (count >= LANES) return *(const vec *)p;
    vec x = {0};
    for (size i = 0; i < count; i++) x[i] = p[i];
    return x;
}

INLINE void store_real(real *p, vec x, size count) {
    if (count >= LANES) *(vec *)p = x;
    else for (size i = 0; i < count; i++) p[i] = x[i];
}

#if defined(BF16_INPUT) || defined(BF16_RESULT)
typedef uint16_t halves __attribute__((vector_size(BYTES / 2), aligned(2), may_alias));
typedef uint32_t words __attribute__((vector_size(BYTES), aligned(4), may_alias));

INLINE vec load_bfloat16(const bfloat16 *p, size count) {
    halves x = {0};
    if (count >= LANES) x = *(const halves *)p;
    else for (size i = 0; i < count; i++) x[i] = p[i];
    return (vec)(__builtin_convertvector(x, words) << 16);
}

/* Round to the nearest, ties to even; a nan stays one. */
INLINE void store_bfloat16(bfloat16 *p, vec x, size count) {
#ifdef __AVX512BF16__
    const halves y = (halves)_mm512_cvtneps_pbh((__m512)x);
#else
    const words bits = (words)x;
    const words nan = (words)(x != x);
    const words rounded = (((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) & ~nan) | (nan & 0x7fc0);
    const halves y = __builtin_convertvector(rounded, halves);
#endif
    if (count >= LANES) *(halves *)p = y;
    else for (size i = 0; i < count; i++) p[i] = y[i];
}
#endif

#ifdef BF16_INPUT
#define load_input load_bfloat16
#define store_input store_bfloat16
#else
#define load_input load_real
#define store_input store_real
#endif
#ifdef BF16_RESULT
#define load_result load_bfloat16
#define store_result store_bfloat16
#else
#define load_result load_real
#define store_result store_real
#endif

INLINE size least(size a, size b) { return a < b ? a : b; }

/* Loop over vectors of channels; `count` is a constant in all but the last. */
#define CHANNELS(...)                                                         \
    {                                                                         \
        size c = 0;                                                           \
        for (; c + LANES <= n->channels; c += LANES) { enum { count = LANES }; __VA_ARGS__ } \
        if (c < n->channels) { const size count = n->channels - c; __VA_ARGS__ } \
    }

/* Mean and sum of squared differences of some rows, added to those of `before` rows (Chan et al. 1979). */
static void add_statistics(const Norm *n, const input *x, size rows, size before, double *mean, double *squares,
                           real *sum) {
    const size stride = n->input_stride;
    memset(sum, 0, 2 * n->channels * sizeof(real));
    real *square = sum + n->channels;
    size row = 0;
    for (; row + 4 <= rows; row += 4) {
        const input *p = x + row * stride;
        CHANNELS({
            const vec a = load_input(p + c, count) + load_input(p + c + stride, count);
            const vec b = load_input(p + c + 2 * stride, count) + load_input(p + c + 3 * stride, count);
            store_real(sum + c, load_real(sum + c, count) + (a + b), count);
        })
    }
    for (; row < rows; row++)
        CHANNELS({ store_real(sum + c, load_real(sum + c, count) + load_input(x + row * stride + c, count), count); })
    CHANNELS({ store_real(sum + c, load_real(sum + c, count) / (real)rows, count); })
    for (row = 0; row + 4 <= rows; row += 4) {
        const input *p = x + row * stride;
        CHANNELS({
            const vec middle = load_real(sum + c, count);
            const vec d0 = load_input(p + c, count) - middle;
            const vec d1 = load_input(p + c + stride, count) - middle;
            const vec d2 = load_input(p + c + 2 * stride, count) - middle;
            const vec d3 = load_input(p + c + 3 * stride, count) - middle;
            store_real(square + c, load_real(square + c, count) + ((d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)), count);
        })
    }
    for (; row < rows; row++)
        CHANNELS({
            const vec d = load_input(x + row * stride + c, count) - load_real(sum + c, count);
            store_real(square + c, load_real(square + c, count) + d * d, count);
        })
    const double share = (double)rows / (before + rows), weight = before * share;
    for (size c = 0; c < n->channels; c++) {
        const double difference = sum[c] - mean[c];
        mean[c] += difference * share;
        squares[c] += square[c] + difference * difference * weight;
    }
}

/* y = gain · (x − mean) / √(variance + eps) + bias.
 *
 * Sets mean, rstd = 1 / √(variance + eps) and y; updates the running statistics. scratch has 5 · channels doubles per
 * thread. */
void normalize(const Norm *n, const input *x, const real *gain, const real *bias, real *running_mean,
               real *running_variance, real *mean, real *rstd, result *y, double *scratch) {
    const size channels = n->channels, threads = n->threads;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (size thread = 0; thread < threads; thread++) {
        double *means = scratch + thread * 5 * channels;
        memset(means, 0, 2 * channels * sizeof(double));
        const size first = thread * n->rows / threads, last = (thread + 1) * n->rows / threads;
        for (size row = first; row < last; row += TILE)
            add_statistics(n, x + row * n->input_stride, least(TILE, last - row), row - first, means, means + channels,
                           (real *)(means + 2 * channels));
    }
    for (size thread = 1, before = n->rows / threads; thread < threads; thread++) {
        const double rows = (thread + 1) * n->rows / threads - thread * n->rows / threads;
        const double *means = scratch + thread * 5 * channels;
        for (size c = 0; c < channels && rows; c++) {
            const double difference = means[c] - scratch[c];
            scratch[c] += difference * rows / (before + rows);
            scratch[channels + c] += means[channels + c] + difference * difference * before * rows / (before + rows);
        }
        before += (size)rows;
    }
    real *factor = (real *)(scratch + 2 * channels), *shift = factor + channels;
    for (size c = 0; c < channels; c++) {
        mean[c] = scratch[c];
        rstd[c] = 1 / sqrt(scratch[channels + c] / n->rows + n->eps);
        factor[c] = rstd[c] * gain[c];
        shift[c] = bias[c];
        if (n->update) {
            const double variance = scratch[channels + c] / (n->rows - 1);
            running_mean[c] = n->momentum * scratch[c] + (1 - n->momentum) * running_mean[c];
            running_variance[c] = n->momentum * variance + (1 - n->momentum) * running_variance[c];
        }
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size step = 1; step <= n->rows; step++) {
        const size row = n->rows - step; /* from the end, which is still in the cache */
        const input *p = x + row * n->input_stride;
        result *q = y + row * n->result_stride;
        CHANNELS({
            vec value = (load_input(p + c, count) - load_real(mean + c, count)) * load_real(factor + c, count);
            value += load_real(shift + c, count);
            store_result(q + c, value, count);
        })
    }
}

/* Given grad, the gradient of y: set d_x (rows d_stride apart), d_gain and d_bias. scratch has 5 · channels doubles per thread. */
void differentiate(const Norm *n, const input *x, const real *gain, const real *mean, const real *rstd,
                   const result *grad, size d_stride, input *d_x, real *d_gain, real *d_bias,
                   double *scratch) {
    const size channels = n->channels, threads = n->threads;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (size thread = 0; thread < threads; thread++) {
        double *total = scratch + thread * 5 * channels;
        real *sum = (real *)(total + 2 * channels), *product = sum + channels;
        memset(total, 0, 2 * channels * sizeof(double));
        const size last = (thread + 1) * n->rows / threads;
        for (size row = thread * n->rows / threads; row < last;) {
            memset(sum, 0, 2 * channels * sizeof(real));
            const size end = least(row + TILE, last);
            for (; row + 2 <= end; row += 2) {
                const size at = row * n->result_stride, stride = n->result_stride;
                const input *p = x + row * n->input_stride;
                CHANNELS({
                    const vec middle = load_real(mean + c, count);
                    const vec g0 = load_result(grad + at + c, count);
                    const vec g1 = load_result(grad + at + stride + c, count);
                    const vec d0 = load_input(p + c, count) - middle;
                    const vec d1 = load_input(p + n->input_stride + c, count) - middle;
                    store_real(sum + c, load_real(sum + c, count) + (g0 + g1), count);
                    store_real(product + c, load_real(product + c, count) + (g0 * d0 + g1 * d1), count);
                })
            }
            for (; row < end; row++)
                CHANNELS({
                    const vec g = load_result(grad + row * n->result_stride + c, count);
                    const vec d = load_input(x + row * n->input_stride + c, count) - load_real(mean + c, count);
                    store_real(sum + c, load_real(sum + c, count) + g, count);
                    store_real(product + c, load_real(product + c, count) + g * d, count);
                })
            for (size c = 0; c < channels; c++) {
                total[c] += sum[c];
                total[channels + c] += product[c];
            }
        }
    }
    for (size thread = 1; thread < threads; thread++)
        for (size c = 0; c < 2 * channels; c++) scratch[c] += scratch[thread * 5 * channels + c];
    real *of_grad = (real *)(scratch + 2 * channels), *of_x = of_grad + channels, *shift = of_x + channels;
    for (size c = 0; c < channels; c++) {
        d_bias[c] = scratch[c];
        d_gain[c] = scratch[channels + c] * rstd[c];
        const double factor = (double)gain[c] * rstd[c];
        of_grad[c] = factor;
        of_x[c] = -factor * rstd[c] * rstd[c] * scratch[channels + c] / n->rows;
        shift[c] = -factor * scratch[c] / n->rows;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size step = 1; step <= n->rows; step++) {
        const size row = n->rows - step, at = row * n->result_stride;
        const input *p = x + row * n->input_stride;
        CHANNELS({
            const vec g = load_result(grad + at + c, count);
            const vec d = load_input(p + c, count) - load_real(mean + c, count);
            const vec of_d = load_real(of_x + c, count) * d + load_real(shift + c, count);
            store_input(d_x + row * d_stride + c, load_real(of_grad + c, count) * g + of_d, count);
        })
    }
}

/* x (batch, rows, columns) -> y (batch, columns, rows) */
void transpose(size threads, size batch, size rows, size columns, const real *x, real *y) {
    const size blocks = (columns + LANES - 1) / LANES;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size item = 0; item < batch * blocks; item++) {
        const size column = item % blocks * LANES, width = least(LANES, columns - column);
        const real *from = x + item / blocks * rows * columns + column;
        real *to = y + (item / blocks * columns + column) * rows;
        for (size row = 0; row < rows; row += LANES) {
            const size height = least(LANES, rows - row);
            real tile[LANES][LANES];
            for (size r = 0; r < height; r++) store_real(tile[r], load_real(from + (row + r) * columns, width), LANES);
            for (size c = 0; c < width; c++)
                for (size r = 0; r < height; r++) to[c * rows + row + r] = tile[r][c];
        }
    }
}
