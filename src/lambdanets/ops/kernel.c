/* Scores first, in one pass over the map: s_nm^h = q_n^h . E_nm, then y_n^h = sum over m of s_nm^h v_m.
 *
 * All work is one small matrix product, over and over. Its operands are rows of the map and of the table of embeddings
 * in place, so that nothing is gathered; the scores of one query at a time stay in the nearest cache.
 *
 * REAL is float or double. Depths that are read in vectors are padded to whole vectors. Tensors that are read from any
 * position on (table, turned_values) have memory for one more vector behind their end.
 */

#include <omp.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
#define BYTES 64
#else
#define BYTES 32
#endif

typedef REAL real;
typedef int64_t size;
typedef real vec __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));
typedef __typeof__((vec){0} < (vec){0}) bits;
enum { LANES = BYTES / sizeof(real) };

/* Vectors per row of a block of 4 rows, as many as the registers hold. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define BLOCK 4
#else
#define BLOCK 3
#endif

#define INLINE static inline __attribute__((always_inline))

/* Keep a vector in its register: reading it from memory in each multiplication would be the bottleneck. */
#ifdef __x86_64__
#define HOLD(vector) __asm__("" : "+x"(vector))
#else
#define HOLD(vector)
#endif

typedef struct {
    size threads, groups;
    size parts; /* shares of the work: in the forward of a row of queries, in the backward of an image's queries */
    size batch, height, width;           /* of the map of queries */
    size context_height, context_width;
    size heads, key_depth, value_depth, intra_depth;
    size rows, columns;                   /* of the table, odd */
    size padded_key, padded_value;        /* depths in whole vectors */
    size query_stride, value_stride;      /* from one position to the next, in the forward */
    size band;                            /* rows of the context whose scores are held at a time, in the forward */
    size span;                            /* size of one head's scores */
    size batched_queries;                 /* queries of a row whose gradients of values are summed in one product */
} Sizes;

size lanes(void) { return LANES; }

INLINE size least(size a, size b) { return a < b ? a : b; }
INLINE size most(size a, size b) { return a > b ? a : b; }

/* The sum over o < outer and i < inner of a[r, o, i] b[o, i, n]; n counts vectors. */
typedef struct {
    size outer, inner;
    const real *a;
    size a_row, a_outer, a_inner;
    const real *b;
    size b_outer, b_inner, b_vector;
} Sum;

/* c[r, n] = the two sums, added to c[r, n] if `add`; then max(0, c[r, n] scale[r, n] + shift[r, n]), as far as given. */
typedef struct {
    Sum first, second;
    real *c;
    size c_row, c_vector;
    int add, relu;
    const real *scale, *shift;
} Product;

INLINE void accumulate(const int rows, const int vectors, vec sum[4][BLOCK], const Sum *p, size row, size vector) {
    const real *a = p->a + row * p->a_row, *b = p->b + vector * p->b_vector;
    for (size o = 0; o < p->outer; o++) {
        const real *x = a + o * p->a_outer, *y = b + o * p->b_outer;
        for (size i = 0; i < p->inner; i++, x += p->a_inner, y += p->b_inner) {
            vec column[BLOCK];
            for (int n = 0; n < vectors; n++) {
                column[n] = *(const vec *)(y + n * p->b_vector);
                HOLD(column[n]);
            }
            for (int r = 0; r < rows; r++)
                for (int n = 0; n < vectors; n++) sum[r][n] += x[r * p->a_row] * column[n];
        }
    }
}

/* One block of the result, small enough for the registers; the compiler knows `rows` and `vectors`. */
INLINE void block(const int rows, const int vectors, const Product *p, size row, size vector) {
    const size start = row * p->c_row + vector * p->c_vector;
    vec sum[4][BLOCK];
    for (int r = 0; r < rows; r++)
        for (int n = 0; n < vectors; n++)
            sum[r][n] = p->add ? *(const vec *)(p->c + start + r * p->c_row + n * p->c_vector) : (vec){0};
    accumulate(rows, vectors, sum, &p->first, row, vector);
    accumulate(rows, vectors, sum, &p->second, row, vector);
    for (int r = 0; r < rows; r++)
        for (int n = 0; n < vectors; n++) {
            const size at = start + r * p->c_row + n * p->c_vector;
            if (p->scale) sum[r][n] *= *(const vec *)(p->scale + at);
            if (p->shift) sum[r][n] += *(const vec *)(p->shift + at);
            if (p->relu) sum[r][n] = (vec)((bits)sum[r][n] & ~(sum[r][n] < (vec){0}));
            *(vec *)(p->c + at) = sum[r][n];
        }
}

INLINE void product(size rows, size vectors, const Product p) {
    for (size n = 0, step; n < vectors; n += step) {
        step = vectors - n == BLOCK + 1 ? BLOCK - 1 : least(BLOCK, vectors - n);
        for (size r = 0; r < rows; r += 4)
            switch (4 * least(4, rows - r) + step - 1) {
#define CASE(R, N) case 4 * R + N - 1: block(R, N, &p, r, n); break;
#if BLOCK == 4
#define CASES(R) CASE(R, 1) CASE(R, 2) CASE(R, 3) CASE(R, 4)
#else
#define CASES(R) CASE(R, 1) CASE(R, 2) CASE(R, 3)
#endif
                CASES(1) CASES(2) CASES(3) CASES(4)
            }
    }
}

/* Positions of the context that a query sees: `rows` from `top` on, `columns` from `left` on; `offset` is the index of
 * the first one's embedding in the table.
 *
 * Scores are computed in vectors: of each visible row, or of all that lies between the first and the last visible
 * position in the table, whichever takes fewer. The scores of two rows are `pitch` apart.
 */
typedef struct {
    size top, rows, left, columns, offset;
    size pitch;
} View;

INLINE size vectors_of(size positions) { return (positions + LANES - 1) / LANES; }

INLINE View view_of(const Sizes *s, size y, size x, size top, size rows) {
    const size left = most(0, x - s->columns / 2), right = least(s->context_width, x + s->columns / 2 + 1);
    const size columns = most(0, right - left); /* the context may be smaller than the map of queries */
    const size offset = (top - y + s->rows / 2) * s->columns + left - x + s->columns / 2;
    return (View){top, rows, left, columns, offset, vectors_of(columns) * LANES};
}

/* Compute a[h] . b[m] for each head and all positions m of a view; b is (depth, rows, columns). */
INLINE void to_scores(const Sizes *s, View view, const real *a, size a_row, const real *b, size depth, size b_depth,
                      size b_row, real *scores) {
    size lines = 1, vectors = view.rows, step = b_row;
    if (view.pitch == b_row)
        vectors = vectors_of((view.rows - 1) * b_row + view.columns), step = LANES;
    else if (view.pitch != LANES)
        lines = view.rows, vectors = view.pitch / LANES, step = LANES;
    for (size line = 0; line < lines; line++)
        product(s->heads, vectors, (Product){
            .second = {.outer = 1, .inner = depth, .a = a, .a_row = a_row, .a_inner = 1,
                       .b = b + line * b_row, .b_inner = b_depth, .b_vector = step},
            .c = scores + line * view.pitch, .c_row = s->span, .c_vector = LANES});
}

/* The sum over m of scores[h, m] b[m] for each head h; b is (rows, columns, depth). */
INLINE Sum sum_of(const Sizes *s, View view, const real *scores, const real *b, size b_row, size b_column) {
    return (Sum){.outer = view.rows, .inner = view.columns, .a = scores, .a_row = s->span, .a_outer = view.pitch,
                 .a_inner = 1, .b = b, .b_outer = b_row, .b_inner = b_column, .b_vector = LANES};
}

/* Add the sum over h of scores[h, m] a[h] to c[m]; c is (rows, columns, depth). h counts the heads of one query, or of
 * several queries with the same view. */
INLINE void add_outer(const Sizes *s, View view, size heads, const real *scores, const real *a, size depth, real *c,
                      size c_row, size c_column) {
    for (size y = 0; y < view.rows; y++)
        product(view.columns, depth / LANES, (Product){
            .second = {.outer = 1, .inner = heads, .a = scores + y * view.pitch, .a_row = 1, .a_inner = s->span,
                       .b = a, .b_inner = depth, .b_vector = LANES},
            .c = c + y * c_row, .c_row = c_column, .c_vector = LANES, .add = 1});
}

/* Set c to a b, or add to it: a (rows, inner), b (inner, columns), c (rows, columns), all row by row. */
INLINE void multiply(size rows, size columns, size inner, const real *a, size a_row, size a_inner, const real *b,
                     real *c, int add) {
    product(rows, columns / LANES, (Product){
        .second = {.outer = 1, .inner = inner, .a = a, .a_row = a_row, .a_inner = a_inner,
                   .b = b, .b_inner = columns, .b_vector = LANES},
        .c = c, .c_row = columns, .c_vector = LANES, .add = add});
}

/* query (B, H, W, h, k), values (B, H', W', u, v), table (k, u, R, C), content (B, k, v) -> y (B, H, W, h, v), then
 * times scale (h, v), plus shift (h, v) and at least 0, as far as given. */
void forward(const Sizes *s, const real *query, const real *values, const real *table, const real *content,
             const real *scale, const real *shift, int relu, real *y, real *scratch) {
    const size depth = s->padded_value, plane = s->rows * s->columns, last_u = s->intra_depth - 1;
    const size v_row = s->context_width * s->value_stride, entries = s->key_depth * s->intra_depth * plane;
    real *embeddings = scratch + s->threads * s->heads * s->span; /* with memory for one more vector behind its end */
    memcpy(embeddings, table, entries * sizeof(real));
#pragma omp parallel for num_threads(s->threads) schedule(dynamic)
    for (size item = 0; item < s->batch * s->height * s->parts; item++) {
        real *scores = scratch + omp_get_thread_num() * s->heads * s->span;
        const size part = item % s->parts, line = item / s->parts, image = line / s->height, row = line % s->height;
        const real *lambda = content + image * s->key_depth * depth;
        const size first = most(0, row - s->rows / 2), last = least(s->context_height, row + s->rows / 2 + 1);
        size top = first;
        do {
            const size rows = most(0, least(s->band, last - top));
            const real *v_top = values + (image * s->context_height + top) * v_row;
            for (size u = 0; u <= last_u; u++)
                for (size x = part * s->width / s->parts; x < (part + 1) * s->width / s->parts; x++) {
                    const real *q = query + (line * s->width + x) * s->query_stride;
                    View view = view_of(s, row, x, top, rows);
                    if (vectors_of((rows - 1) * s->columns + view.columns) < rows * view.pitch / LANES)
                        view.pitch = s->columns;
                    to_scores(s, view, q, s->key_depth, embeddings + u * plane + view.offset, s->key_depth,
                              s->intra_depth * plane, s->columns, scores);
                    const int begins = top == first && u == 0, ends = top + rows >= last && u == last_u;
                    product(s->heads, depth / LANES, (Product){
                        .first = {.outer = begins, .inner = s->key_depth, .a = q, .a_row = s->key_depth, .a_inner = 1,
                                  .b = lambda, .b_inner = depth, .b_vector = LANES},
                        .second = sum_of(s, view, scores, v_top + view.left * s->value_stride + u * depth, v_row,
                                         s->value_stride),
                        .c = y + (line * s->width + x) * s->heads * depth, .c_row = depth, .c_vector = LANES,
                        .add = !begins, .scale = ends ? scale : 0, .shift = ends ? shift : 0, .relu = ends && relu});
                }
            top += s->band;
        } while (top < last);
    }
}

/* As above, with grad (B, H, W, h, v), turned_values (B, u, v, H', W'), turned_table (u, R, C, k), turned_content
 * (B, v, k). Sets d_query; adds to d_values (parts, B, H', W', u, v), d_content (parts, B, k, v) and d_table (groups,
 * u, R, C, k). The order of summation doesn't depend on the speed of threads. */
void backward(const Sizes *s, const real *grad, const real *query, const real *turned_values, const real *table,
              const real *turned_table, const real *turned_content, real *d_query, real *d_values, real *d_table,
              real *d_content, real *scratch) {
    const size keys = s->padded_key, depth = s->padded_value, plane = s->rows * s->columns;
    const size context = s->context_height * s->context_width;
    const size v_column = s->intra_depth * depth, v_row = s->context_width * v_column;
#pragma omp parallel for num_threads(s->threads) schedule(dynamic)
    for (size group = 0; group < s->groups; group++) {
        real *scores = scratch + group * (s->batched_queries + 1) * s->heads * s->span;
        real *d_scores = scores + s->batched_queries * s->heads * s->span;
        real *d_embeddings = d_table + group * s->intra_depth * plane * keys;
        for (size item = group; item < s->parts * s->batch; item += s->groups) {
            const size part = item / s->batch, image = item % s->batch;
            for (size row = part * s->height / s->parts; row < (part + 1) * s->height / s->parts; row++) {
                const size line = (image * s->height + row) * s->width * s->heads;
                const real *q = query + line * keys, *g = grad + line * depth;
                real *d_q = d_query + line * keys;
                multiply(s->width * s->heads, keys, s->value_depth, g, depth, 1,
                         turned_content + image * s->value_depth * keys, d_q, 0);
                multiply(s->key_depth, depth, s->width * s->heads, q, 1, keys, g,
                         d_content + item * s->key_depth * depth, 1);
                const size first = most(0, row - s->rows / 2), last = least(s->context_height, row + s->rows / 2 + 1);
                const size band = least(s->columns, s->context_width) <= LANES ? last - first : 1;
                for (size top = first; top < last; top += band)
                    for (size u = 0; u < s->intra_depth; u++)
                        for (size x = 0; x < s->width; x++) {
                            const View view = view_of(s, row, x, top, band);
                            if (view.columns <= 0) continue;
                            const size entry = (u * plane + view.offset) * keys, slot = x % s->batched_queries;
                            const real *q_x = q + x * s->heads * keys, *g_x = g + x * s->heads * depth;
                            const real *v = turned_values + (image * s->intra_depth + u) * s->value_depth * context;
                            real *d_v = d_values + (item * s->context_height + top) * v_row;
                            d_v += view.left * v_column + u * depth;
                            real *scores_x = scores + slot * s->heads * s->span;
                            to_scores(s, view, q_x, keys, table + u * plane + view.offset, s->key_depth,
                                      s->intra_depth * plane, s->columns, scores_x);
                            to_scores(s, view, g_x, depth, v + top * s->context_width + view.left, s->value_depth,
                                      context, s->context_width, d_scores);
                            if (slot == s->batched_queries - 1 || x == s->width - 1)
                                add_outer(s, view, (slot + 1) * s->heads, scores, g_x - slot * s->heads * depth, depth,
                                          d_v, v_row, v_column);
                            add_outer(s, view, s->heads, d_scores, q_x, keys, d_embeddings + entry, s->columns * keys, keys);
                            product(s->heads, keys / LANES, (Product){
                                .second = sum_of(s, view, d_scores, turned_table + entry, s->columns * keys, keys),
                                .c = d_q + x * s->heads * keys, .c_row = keys, .c_vector = LANES, .add = 1});
                        }
            }
        }
    }
}
