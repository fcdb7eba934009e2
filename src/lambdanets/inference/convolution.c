/* Convolutions as products of matrices, whose weights are laid out beforehand as panels of a few vectors of outputs.
 *
 * 1x1: the rows of the map times the weights, plus bias and another map.
 *
 * 3x3: Winograd's F(2x2, 3x3) (Lavin and Gray 2016), 16 instead of 36 multiply-adds for four outputs. Each 2x2 tile of the output comes from a 4x4 patch d of the input. With the matrices
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
enum { LANES = BYTES / sizeof(float), PANEL = 4, INNER = 256, ENTRIES = 16 };

#define INLINE static inline __attribute__((always_inline))

#ifdef __x86_64__
#define HOLD(vector) __asm__("" : "+x"(vector))
#else
#define HOLD(vector)
#endif

/* Sizes of 3x3 convolutions. */
typedef struct {
    size threads, batch, height, width, channels, outputs;
    size tiles; /* that a thread computes at a time */
    size relu;
} Sizes;

/* Sizes of 1x1 convolutions. */
typedef struct {
    size threads, rows, channels, outputs;
    size chunk; /* rows that a thread computes at a time */
    size relu;
} Rows;

size lanes(void) { return LANES; }

INLINE size least(size a, size b) { return a < b ? a : b; }
INLINE vec positive(vec x) { return (vec)((mask)x & ~(mask)(x < 0)); } /* NaN stays */

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
            for (int j = 0; j < 2 && left + j < s->width; j++)
                *(vec *)(y + ((top + i) * s->width + left + j) * s->outputs + k) = s->relu ? positive(out[j]) : out[j];
        }
    }
}

/* Set c (rows, vectors) to a (rows, inner) times a panel (inner, vectors), or add it; the compiler knows the sizes. */
INLINE void block(const int rows, const int vectors, size inner, const float *a, size a_row, const float *panel,
                  float *c, size c_row, int add) {
    vec sum[6][PANEL];
    for (int r = 0; r < rows; r++)
        for (int n = 0; n < vectors; n++) sum[r][n] = add ? *(const vec *)(c + r * c_row + n * LANES) : (vec){0};
    for (size i = 0; i < inner; i++, panel += vectors * LANES) {
        vec column[PANEL];
        for (int n = 0; n < vectors; n++) {
            column[n] = *(const vec *)(panel + n * LANES);
            HOLD(column[n]);
        }
        for (int r = 0; r < rows; r++)
            for (int n = 0; n < vectors; n++) sum[r][n] += a[r * a_row + i] * column[n];
    }
    for (int r = 0; r < rows; r++)
        for (int n = 0; n < vectors; n++) *(vec *)(c + r * c_row + n * LANES) = sum[r][n];
}

static void multiply(size rows, size vectors, size inner, const float *a, size a_row, const float *panel, float *c,
                     size c_row, int add) {
    for (size r = 0; r < rows; r += 6)
        switch (8 * least(6, rows - r) + vectors) {
#define BLOCK(R, N) \
    case 8 * R + N: block(R, N, inner, a + r * a_row, a_row, panel, c + r * c_row, c_row, add); break;
#define BLOCKS(R) BLOCK(R, 1) BLOCK(R, 2) BLOCK(R, 3) BLOCK(R, 4)
            BLOCKS(1) BLOCKS(2) BLOCKS(3) BLOCKS(4) BLOCKS(5) BLOCKS(6)
        }
}

/* Add a bias and, unless it is null, another map to c (rows, vectors); then a ReLU. */
static void finish(size rows, size vectors, const float *bias, const float *other, float *c, size c_row, size relu) {
    for (size r = 0; r < rows; r++)
        for (size n = 0; n < vectors * LANES; n += LANES) {
            vec *out = (vec *)(c + r * c_row + n), sum = *out + *(const vec *)(bias + n);
            if (other) sum += *(const vec *)(other + r * c_row + n);
            *out = relu ? positive(sum) : sum;
        }
}

/* x (rows, C), u (K / panel, C, panel), bias (K), other (rows, K) or null -> y (rows, K). */
void pointwise(const Rows *s, const float *x, const float *u, const float *bias, const float *other, float *y) {
    const size panels = (s->outputs + PANEL * LANES - 1) / (PANEL * LANES), chunks = (s->rows + s->chunk - 1) / s->chunk;
    const size groups = chunks < s->threads ? least(panels, s->threads) : 1; /* few rows: threads share them */
#pragma omp parallel for num_threads(s->threads) schedule(dynamic)
    for (size task = 0; task < chunks * groups; task++) {
        const size first = task / groups * s->chunk, rows = least(s->chunk, s->rows - first), group = task % groups;
        for (size c = 0; c < s->channels; c += INNER)
            for (size p = group * panels / groups; p < (group + 1) * panels / groups; p++) {
                const size k = p * PANEL * LANES, vectors = least(PANEL, (s->outputs - k) / LANES);
                float *out = y + first * s->outputs + k;
                const size inner = least(INNER, s->channels - c);
                multiply(rows, vectors, inner, x + first * s->channels + c, s->channels,
                         u + k * s->channels + c * vectors * LANES, out, s->outputs, c > 0);
                if (c + inner == s->channels)
                    finish(rows, vectors, bias + k, other ? other + first * s->outputs + k : 0, out, s->outputs, s->relu);
            }
    }
}

/* x (B, H, W, C), u (16, K / panel, C, panel), bias (K) -> y (B, H, W, K); scratch (threads, 16, tiles, C + K). */
void winograd(const Sizes *s, const float *x, const float *u, const float *bias, float *y, float *scratch) {
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
            for (size k = 0; k < s->outputs; k += PANEL * LANES)
                multiply(tiles, least(PANEL, (s->outputs - k) / LANES), s->channels, v + entry * v_stride, s->channels,
                         u + (entry * s->outputs + k) * s->channels, m + entry * m_stride + k, s->outputs, 0);
        for (size t = 0; t < tiles; t++) {
            const size tile = first + t, image = tile / (rows * columns);
            const size row = tile / columns % rows, column = tile % columns;
            transform_output(s, m + t * s->outputs, m_stride, bias, y + image * s->height * s->width * s->outputs,
                             2 * row, 2 * column);
        }
    }
}
