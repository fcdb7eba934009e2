/* A 3x3 convolution by Winograd's F(2x2, 3x3) (Lavin and Gray 2016): 16 instead of 36 multiply-adds for four outputs.
 *
 * Each 2x2 tile of the output comes from a 4x4 patch d of the input. With the matrices
 *
 *          1  0 -1  0            1  0  0
 *     B' = 0  1  1  0      G =  .5 .5 .5     A' = 1 1  1  0
 *          0 -1  1  0           .5-.5 .5          0 1 -1 -1
 *          0  1  0 -1            0  0  1
 *
 * and U = G g G' of the weights g, made beforehand, the tile is A' [sum over channels of U * (B' d B)] A. For each of
 * the 16 entries, the sum over channels is one matrix product of all tiles.
 */

#include <omp.h>
#include <stdint.h>

#ifdef __AVX512F__
#define BYTES 64
#else
#define BYTES 32
#endif

typedef int64_t size;
typedef float vec __attribute__((vector_size(BYTES), aligned(sizeof(float)), may_alias));
typedef int32_t mask __attribute__((vector_size(BYTES)));
enum { LANES = BYTES / sizeof(float), ENTRIES = 16, PANEL = 4 }; /* vectors of outputs in a panel of U */

#define INLINE static inline __attribute__((always_inline))

#ifdef __x86_64__
#define HOLD(vector) __asm__("" : "+x"(vector))
#else
#define HOLD(vector)
#endif

typedef struct {
    size threads, batch, height, width, channels, outputs;
    size tiles; /* that a thread computes at a time */
    size relu;
} Sizes;

size lanes(void) { return LANES; }

INLINE size least(size a, size b) { return a < b ? a : b; }

/* Compute B' d B of one patch, for all channels. Positions outside of the map are zero. */
static void transform_input(const Sizes *s, const float *x, size top, size left, float *v, size stride) {
    const int inside = top >= 0 && left >= 0 && top + 4 <= s->height && left + 4 <= s->width;
    for (size c = 0; c < s->channels; c += LANES) {
        vec d[4][4], e[4][4];
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++) {
                const size row = top + i, column = left + j;
                const int visible = inside || (row >= 0 && column >= 0 && row < s->height && column < s->width);
                d[i][j] = visible ? *(const vec *)(x + (row * s->width + column) * s->channels + c) : (vec){0};
            }
        for (int j = 0; j < 4; j++) {
            e[0][j] = d[0][j] - d[2][j];
            e[1][j] = d[1][j] + d[2][j];
            e[2][j] = d[2][j] - d[1][j];
            e[3][j] = d[1][j] - d[3][j];
        }
        for (int i = 0; i < 4; i++) {
            float *out = v + 4 * i * stride + c;
            *(vec *)out = e[i][0] - e[i][2];
            *(vec *)(out + stride) = e[i][1] + e[i][2];
            *(vec *)(out + 2 * stride) = e[i][2] - e[i][1];
            *(vec *)(out + 3 * stride) = e[i][1] - e[i][3];
        }
    }
}

/* Compute A' m A + bias of one tile, for all outputs. */
static void transform_output(const Sizes *s, const float *m, size stride, const float *bias, float *y, size top, size left) {
    for (size k = 0; k < s->outputs; k += LANES) {
        vec e[2][4];
        for (int j = 0; j < 4; j++) {
            const vec m0 = *(const vec *)(m + j * stride + k), m1 = *(const vec *)(m + (4 + j) * stride + k);
            const vec m2 = *(const vec *)(m + (8 + j) * stride + k), m3 = *(const vec *)(m + (12 + j) * stride + k);
            e[0][j] = m0 + m1 + m2;
            e[1][j] = m1 - m2 - m3;
        }
        const vec shift = *(const vec *)(bias + k);
        for (int i = 0; i < 2 && top + i < s->height; i++) {
            vec out[2] = {e[i][0] + e[i][1] + e[i][2] + shift, e[i][1] - e[i][2] - e[i][3] + shift};
            for (int j = 0; j < 2 && left + j < s->width; j++) {
                if (s->relu) out[j] = (vec)((mask)out[j] & (mask)(out[j] > 0));
                *(vec *)(y + ((top + i) * s->width + left + j) * s->outputs + k) = out[j];
            }
        }
    }
}

/* Set m (rows, vectors) to v (rows, channels) times a panel of U (channels, vectors); the compiler knows the sizes. */
INLINE void block(const int rows, const int vectors, const Sizes *s, const float *v, const float *u, float *m) {
    vec sum[6][PANEL];
    for (int r = 0; r < rows; r++)
        for (int n = 0; n < vectors; n++) sum[r][n] = (vec){0};
    for (size c = 0; c < s->channels; c++, u += vectors * LANES) {
        vec column[PANEL];
        for (int n = 0; n < vectors; n++) {
            column[n] = *(const vec *)(u + n * LANES);
            HOLD(column[n]);
        }
        for (int r = 0; r < rows; r++)
            for (int n = 0; n < vectors; n++) sum[r][n] += v[r * s->channels + c] * column[n];
    }
    for (int r = 0; r < rows; r++)
        for (int n = 0; n < vectors; n++) *(vec *)(m + r * s->outputs + n * LANES) = sum[r][n];
}

static void multiply(const Sizes *s, size tiles, const float *v, const float *u, float *m) {
    for (size k = 0; k < s->outputs; k += PANEL * LANES) {
        const size vectors = least(PANEL, (s->outputs - k) / LANES);
        for (size r = 0; r < tiles; r += 6)
            switch (8 * least(6, tiles - r) + vectors) {
#define BLOCKS(R)                                                                                       \
    case 8 * R + 1: block(R, 1, s, v + r * s->channels, u + k * s->channels, m + r * s->outputs + k); break; \
    case 8 * R + 2: block(R, 2, s, v + r * s->channels, u + k * s->channels, m + r * s->outputs + k); break; \
    case 8 * R + 3: block(R, 3, s, v + r * s->channels, u + k * s->channels, m + r * s->outputs + k); break; \
    case 8 * R + 4: block(R, 4, s, v + r * s->channels, u + k * s->channels, m + r * s->outputs + k); break;
                BLOCKS(1) BLOCKS(2) BLOCKS(3) BLOCKS(4) BLOCKS(5) BLOCKS(6)
            }
    }
}

/* x (B, H, W, C), u (16, K / panel, C, panel), bias (K) -> y (B, H, W, K); scratch (threads, 16, tiles, C + K). */
void convolve(const Sizes *s, const float *x, const float *u, const float *bias, float *y, float *scratch) {
    const size rows = (s->height + 1) / 2, columns = (s->width + 1) / 2, count = s->batch * rows * columns;
    const size chunks = (count + s->tiles - 1) / s->tiles;
#pragma omp parallel for num_threads(s->threads) schedule(dynamic)
    for (size chunk = 0; chunk < chunks; chunk++) {
        const size thread = omp_get_thread_num();
        const size first = chunk * s->tiles, tiles = least(s->tiles, count - first);
        const size v_stride = s->tiles * s->channels, m_stride = s->tiles * s->outputs;
        float *v = scratch + thread * ENTRIES * (v_stride + m_stride), *m = v + ENTRIES * v_stride;
        for (size t = 0; t < tiles; t++) {
            const size tile = first + t, image = tile / (rows * columns);
            const size row = tile / columns % rows, column = tile % columns;
            transform_input(s, x + image * s->height * s->width * s->channels, 2 * row - 1, 2 * column - 1,
                            v + t * s->channels, v_stride);
        }
        for (size entry = 0; entry < ENTRIES; entry++)
            multiply(s, tiles, v + entry * v_stride, u + entry * s->channels * s->outputs, m + entry * m_stride);
        for (size t = 0; t < tiles; t++) {
            const size tile = first + t, image = tile / (rows * columns);
            const size row = tile / columns % rows, column = tile % columns;
            transform_output(s, m + t * s->outputs, m_stride, bias, y + image * s->height * s->width * s->outputs,
                             2 * row, 2 * column);
        }
    }
}
