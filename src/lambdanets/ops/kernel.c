/* Scores first, in one pass over the map: s_nm^h = q_n^h . E_nm, then y_n^h = sum over m of s_nm^h v_m.
 *
 * All work is one small matrix product, over and over. Its operands are rows of the map and of the table of embeddings
 * in place, so that nothing is gathered; the scores of a few queries at a time stay in the nearest cache.
 *
 * REAL is float or double. Depths that are read in vectors are padded to whole vectors. Tensors that are read from any
 * position on (in the backward table and turned_values) have memory for one more vector behind their end.
 */

#include <omp.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__aarch64__)
#define BYTES 16
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
#define NOINLINE static __attribute__((noinline))

/* Keep a vector in its register: reading it from memory in each multiplication would be the bottleneck. */
#ifdef __x86_64__
#define HOLD(vector) __asm__("" : "+v"(vector))
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
    size batched_queries;                 /* queries of a row whose scores are held at a time */
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
    size a_query, b_query; /* from one query to the next */
} Sum;

/* c[r, n] = the two sums, added to c[r, n] if `add`; then max(0, c[r, n] scale[r, n] + shift[r, n]), as far as given.
 * The same for a number of queries, and if `lines` isn't 0, for that many matrices b and c. */
typedef struct {
    Sum first, second;
    real *c;
    size c_row;
    size lines, b_line, c_line;
    size queries, c_query;
    const real *scale, *shift;
    int add, relu;
    int plain; /* there is nothing but the second sum */
} Product;

/* Blocks of the result that lie at equal distances; the first one starts at `row` and `vector`. */
typedef struct {
    size row, vector, count, b_step, c_step;
} Run;

#define UNROLL _Pragma("GCC unroll 4") /* early, or the compiler leaves the sums in memory */
#define EACH_ROW UNROLL for (int r = 0; r < rows; r++)
#define EACH_VECTOR UNROLL for (int n = 0; n < vectors; n++)
#define EACH EACH_ROW EACH_VECTOR

INLINE void accumulate(const int rows, const int vectors, vec sum[4][BLOCK], const Sum p, const real *a,
                       const real *b) {
    vec odd[4] = {0};
    for (size o = 0; o < p.outer; o++) {
        const real *x = a + o * p.a_outer, *y = b + o * p.b_outer;
        size i = 0;
        /* Two sums per row hide the latency of an addition where a block has few of them. */
        for (; vectors == 1 && i + 1 < p.inner; i += 2, x += 2 * p.a_inner, y += 2 * p.b_inner) {
            vec column = *(const vec *)y, next = *(const vec *)(y + p.b_inner);
            HOLD(column);
            HOLD(next);
            EACH_ROW sum[r][0] += x[r * p.a_row] * column;
            EACH_ROW odd[r] += x[r * p.a_row + p.a_inner] * next;
        }
        for (; i < p.inner; i++, x += p.a_inner, y += p.b_inner) {
            vec column[BLOCK];
            EACH_VECTOR {
                column[n] = *(const vec *)(y + n * p.b_vector);
                HOLD(column[n]);
            }
            EACH sum[r][n] += x[r * p.a_row] * column[n];
        }
    }
    if (vectors == 1)
        EACH_ROW sum[r][0] += odd[r];
}

/* Blocks small enough for the registers; the compiler knows `rows` and `vectors`. */
INLINE void compute(const int rows, const int vectors, const int plain, const Product *p, const Run run) {
    const Sum first = p->first, second = p->second;
    const size c_row = p->c_row, start = run.row * c_row + run.vector * LANES;
    for (size query = 0; query < p->queries; query++) {
        const real *q = first.a + run.row * first.a_row + query * first.a_query;
        const real *a = second.a + run.row * second.a_row + query * second.a_query;
        const real *b = second.b + run.vector * second.b_vector + query * second.b_query;
        for (size t = 0; t < run.count; t++, b += run.b_step) {
            vec sum[4][BLOCK];
            const size at = start + t * run.c_step;
            real *c = p->c + query * p->c_query + at;
            if (!plain && p->add)
                EACH sum[r][n] = *(const vec *)(c + r * c_row + n * LANES);
            else
                EACH sum[r][n] = (vec){0};
            if (!plain && first.outer)
                accumulate(rows, vectors, sum, first, q, first.b + run.vector * first.b_vector + t * run.b_step);
            accumulate(rows, vectors, sum, second, a, b);
            if (!plain && p->scale)
                EACH sum[r][n] *= *(const vec *)(p->scale + at + r * c_row + n * LANES);
            if (!plain && p->shift)
                EACH sum[r][n] += *(const vec *)(p->shift + at + r * c_row + n * LANES);
            if (!plain && p->relu)
                EACH sum[r][n] = (vec)((bits)sum[r][n] & ~(sum[r][n] < (vec){0}));
            EACH *(vec *)(c + r * c_row + n * LANES) = sum[r][n];
        }
    }
}

/* A function of its own for each size of blocks: the compiler then uses the registers better. */
#define DEFINE(R, N) \
    NOINLINE void compute_##R##_##N(const Product *p, const Run *run) { compute(R, N, 0, p, *run); } \
    NOINLINE void scores_##R##_##N(const Product *p, const Run *run) { compute(R, N, 1, p, *run); }
#define NAME(R, N) {compute_##R##_##N, scores_##R##_##N},
#if BLOCK == 4
#define SIZES(DO, R) DO(R, 1) DO(R, 2) DO(R, 3) DO(R, 4)
#else
#define SIZES(DO, R) DO(R, 1) DO(R, 2) DO(R, 3)
#endif
SIZES(DEFINE, 1) SIZES(DEFINE, 2) SIZES(DEFINE, 3) SIZES(DEFINE, 4)
static void (*const computes[4][BLOCK][2])(const Product *p, const Run *run) = {
    {SIZES(NAME, 1)}, {SIZES(NAME, 2)}, {SIZES(NAME, 3)}, {SIZES(NAME, 4)}};

/* Large products, or those of many queries. */
INLINE void product(size rows, size vectors, const Product p) {
    for (size n = 0, step, count; n < vectors; n += step * count) {
        const size left = vectors - n;
        step = left == BLOCK + 1 ? BLOCK - 1 : least(BLOCK, left); /* a single vector is slow */
        count = p.lines || left < 2 * BLOCK + 2 ? 1 : (left - 2) / BLOCK;
        for (size r = 0; r < rows; r += 4) {
            const Run blocks = {r, n, count, step * p.second.b_vector, step * LANES};
            const Run lines = {r, n, p.lines, p.b_line, p.c_line};
            computes[least(4, rows - r) - 1][step - 1][p.plain](&p, p.lines ? &lines : &blocks);
        }
    }
}

/* The same for small products: a call would take longer than they do. */
INLINE void small_product(size rows, size vectors, const Product p) {
    for (size n = 0, step; n < vectors; n += step) {
        step = vectors - n == 4 ? 2 : least(3, vectors - n);
        for (size r = 0; r < rows; r += 4)
            switch (4 * least(4, rows - r) + step) {
#define CASE(R, N) case 4 * R + N: compute(R, N, 0, &p, (Run){r, n, 1, 0, 0}); break;
#define CASES(R) CASE(R, 1) CASE(R, 2) CASE(R, 3)
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
    size top, rows, left, columns, offset, pitch;
    size queries, next_left; /* queries of a row with views of one size; `left` moves by 0 or 1 from one to the next */
} View;

INLINE size vectors_of(size positions) { return (positions + LANES - 1) / LANES; }

INLINE View view_of(const Sizes *s, size y, size x, size top, size rows) {
    const size left = most(0, x - s->columns / 2), right = least(s->context_width, x + s->columns / 2 + 1);
    const size columns = most(0, right - left); /* the context may be smaller than the map of queries */
    const size offset = (top - y + s->rows / 2) * s->columns + left - x + s->columns / 2;
    return (View){top, rows, left, columns, offset, vectors_of(columns) * LANES, 1, 0};
}

/* Extend a view to the next queries of its row, as long as theirs only differ by their left end. */
INLINE void gather(const Sizes *s, View *view, size y, size x, size end) {
    for (size left = view->left; view->queries < least(s->batched_queries, end - x); view->queries++) {
        const View next = view_of(s, y, x + view->queries, view->top, view->rows);
        if (view->queries == 1) view->next_left = next.left - left;
        if (next.columns != view->columns || next.left - left != view->next_left) break;
        left = next.left;
    }
}

/* Compute a[h] . b[m] for each head and all positions m of a view; b is (depth, rows, columns). For further queries, b
 * is a table of embeddings. */
INLINE void to_scores(const Sizes *s, const int small, View view, const real *a, size a_row, size a_query,
                      const real *b, size depth, size b_depth, size b_row, real *scores) {
    size lines = 0, vectors = view.rows, step = b_row;
    if (view.pitch == b_row)
        vectors = vectors_of((view.rows - 1) * b_row + view.columns), step = LANES;
    else if (view.pitch != LANES)
        lines = view.rows, vectors = view.pitch / LANES, step = LANES;
    const Product p = {
        .second = {.outer = 1, .inner = depth, .a = a, .a_row = a_row, .a_inner = 1,
                   .b = b, .b_inner = b_depth, .b_vector = step, .a_query = a_query, .b_query = view.next_left - 1},
        .lines = lines, .b_line = b_row, .c_line = view.pitch, .c = scores, .c_row = s->span, .plain = 1,
        .queries = view.queries, .c_query = s->heads * s->span};
    small ? small_product(s->heads, vectors, p) : product(s->heads, vectors, p);
}

/* The sum over m of scores[h, m] b[m] for each head h; b is (rows, columns, depth). */
INLINE Sum sum_of(const Sizes *s, View view, const real *scores, const real *b, size b_row, size b_column) {
    return (Sum){.outer = view.rows, .inner = view.columns, .a = scores, .a_row = s->span, .a_outer = view.pitch,
                 .a_inner = 1, .b = b, .b_outer = b_row, .b_inner = b_column, .b_vector = LANES,
                 .a_query = s->heads * s->span, .b_query = view.next_left * b_column};
}

/* Add the sum over h of scores[h, m] a[h] to c[m]; c is (rows, columns, depth). h counts the heads of one query, or of
 * several queries with the same view. */
INLINE void add_outer(const Sizes *s, View view, size heads, const real *scores, const real *a, size depth, real *c,
                      size c_row, size c_column) {
    for (size y = 0; y < view.rows; y++)
        small_product(view.columns, depth / LANES, (Product){
            .second = {.outer = 1, .inner = heads, .a = scores + y * view.pitch, .a_row = 1, .a_inner = s->span,
                       .b = a, .b_inner = depth, .b_vector = LANES},
            .c = c + y * c_row, .c_row = c_column, .add = 1, .queries = 1});
}

/* Set c to a b, or add to it: a (rows, inner), b (inner, columns), c (rows, columns), all row by row. */
INLINE void multiply(size rows, size columns, size inner, const real *a, size a_row, size a_inner, const real *b,
                     real *c, int add) {
    small_product(rows, columns / LANES, (Product){
        .second = {.outer = 1, .inner = inner, .a = a, .a_row = a_row, .a_inner = a_inner,
                   .b = b, .b_inner = columns, .b_vector = LANES},
        .c = c, .c_row = columns, .add = add, .queries = 1});
}

/* query (B, H, W, h, k), values (B, H', W', u, v), table (k, u, R, C), content (B, k, v) -> y (B, H, W, h, v), then
 * times scale (h, v), plus shift (h, v) and at least 0, as far as given. */
void forward(const Sizes *s, const real *query, const real *values, const real *table, const real *content,
             const real *scale, const real *shift, int relu, real *y, real *scratch) {
    const size depth = s->padded_value, plane = s->rows * s->columns, last_u = s->intra_depth - 1;
    const size v_row = s->context_width * s->value_stride, entries = s->key_depth * s->intra_depth * plane;
    /* A copy with memory for one more vector behind its end. */
    real *embeddings = scratch + s->threads * s->batched_queries * s->heads * s->span;
    memcpy(embeddings, table, entries * sizeof(real));
#pragma omp parallel for num_threads(s->threads) schedule(dynamic)
    for (size item = 0; item < s->batch * s->height * s->parts; item++) {
        real *scores = scratch + omp_get_thread_num() * s->batched_queries * s->heads * s->span;
        const size part = item % s->parts, line = item / s->parts, image = line / s->height, row = line % s->height;
        const real *lambda = content + image * s->key_depth * depth;
        const size first = most(0, row - s->rows / 2), last = least(s->context_height, row + s->rows / 2 + 1);
        size top = first;
        do {
            const size rows = most(0, least(s->band, last - top));
            const real *v_top = values + (image * s->context_height + top) * v_row;
            for (size u = 0; u <= last_u; u++)
                for (size x = part * s->width / s->parts, end = (part + 1) * s->width / s->parts; x < end;) {
                    const real *q = query + (line * s->width + x) * s->query_stride;
                    View view = view_of(s, row, x, top, rows);
                    gather(s, &view, row, x, end);
                    if (vectors_of((rows - 1) * s->columns + view.columns) < rows * view.pitch / LANES)
                        view.pitch = s->columns;
                    to_scores(s, 0, view, q, s->key_depth, s->query_stride, embeddings + u * plane + view.offset,
                              s->key_depth, s->intra_depth * plane, s->columns, scores);
                    const int begins = top == first && u == 0, ends = top + rows >= last && u == last_u;
                    product(s->heads, depth / LANES, (Product){
                        .first = {.outer = begins, .inner = s->key_depth, .a = q, .a_row = s->key_depth, .a_inner = 1,
                                  .b = lambda, .b_inner = depth, .b_vector = LANES, .a_query = s->query_stride},
                        .second = sum_of(s, view, scores, v_top + view.left * s->value_stride + u * depth, v_row,
                                         s->value_stride),
                        .c = y + (line * s->width + x) * s->heads * depth, .c_row = depth,
                        .queries = view.queries, .c_query = s->heads * depth,
                        .add = !begins, .scale = ends ? scale : 0, .shift = ends ? shift : 0, .relu = ends && relu});
                    x += view.queries;
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
                            to_scores(s, 1, view, q_x, keys, 0, table + u * plane + view.offset, s->key_depth,
                                      s->intra_depth * plane, s->columns, scores_x);
                            to_scores(s, 1, view, g_x, depth, 0, v + top * s->context_width + view.left, s->value_depth,
                                      context, s->context_width, d_scores);
                            if (slot == s->batched_queries - 1 || x == s->width - 1)
                                add_outer(s, view, (slot + 1) * s->heads, scores, g_x - slot * s->heads * depth, depth,
                                          d_v, v_row, v_column);
                            add_outer(s, view, s->heads, d_scores, q_x, keys, d_embeddings + entry, s->columns * keys,
                                      keys);
                            small_product(s->heads, keys / LANES, (Product){
                                .second = sum_of(s, view, d_scores, turned_table + entry, s->columns * keys, keys),
                                .c = d_q + x * s->heads * keys, .c_row = keys, .add = 1, .queries = 1});
                        }
            }
        }
    }
}
