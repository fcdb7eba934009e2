/* Prints the largest error of the kernel's forward pass against plain loops, over some shapes. */

#include SOURCE

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static real *draw(size count) {
    real *numbers = malloc((count + LANES) * sizeof(real));
    for (size i = 0; i < count; i++) numbers[i] = rand() / (real)RAND_MAX * 2 - 1;
    return numbers;
}

static double error_of(size height, size width, size rows, size columns, size heads, size k, size v, size band) {
    const size pitch = vectors_of(least(columns, width)) * LANES, plane = rows * columns, batched = 3, threads = 2;
    const Sizes s = {.threads = threads, .parts = 2, .batch = 2, .height = height, .width = width,
                     .context_height = height, .context_width = width, .heads = heads, .key_depth = k,
                     .value_depth = v, .intra_depth = 1, .rows = rows, .columns = columns, .padded_value = v,
                     .query_stride = heads * k + 3, .value_stride = v + 5, .band = band, .span = band * pitch,
                     .batched_queries = batched};
    const size positions = s.batch * height * width;
    real *query = draw(positions * s.query_stride), *values = draw(positions * s.value_stride);
    real *table = draw(k * plane), *content = draw(s.batch * k * v), *scale = draw(heads * v), *shift = draw(heads * v);
    real *y = draw(positions * heads * v), *scratch = draw(threads * batched * heads * s.span + k * plane + LANES);
    forward(&s, query, values, table, content, scale, shift, 1, y, scratch);
    double largest = 0;
    for (size n = 0; n < positions; n++)
        for (size h = 0; h < heads; h++)
            for (size i = 0; i < v; i++) {
                const size image = n / (height * width), row = n / width % height, column = n % width;
                const real *q = query + n * s.query_stride + h * k;
                double sum = 0;
                for (size d = 0; d < k; d++) {
                    double lambda = content[(image * k + d) * v + i];
                    for (size m = 0; m < height * width; m++) {
                        const size r = m / width - row + rows / 2, c = m % width - column + columns / 2;
                        if (r >= 0 && r < rows && c >= 0 && c < columns)
                            lambda += (double)table[d * plane + r * columns + c] *
                                      values[(image * height * width + m) * s.value_stride + i];
                    }
                    sum += q[d] * lambda;
                }
                sum = fmax(0, sum * scale[h * v + i] + shift[h * v + i]);
                largest = fmax(largest, fabs(sum - y[(n * heads + h) * v + i]) / (1 + fabs(sum)));
            }
    return largest;
}

int main(void) {
    double largest = 0;
    largest = fmax(largest, error_of(7, 7, 13, 13, 4, 16, 4 * LANES, 7));
    largest = fmax(largest, error_of(6, 20, 3, 5, 3, 5, 5 * LANES, 3));
    largest = fmax(largest, error_of(5, 37, 9, 73, 6, 3, LANES, 2));
    largest = fmax(largest, error_of(9, 9, 7, 7, 1, 16, 11 * LANES, 3));
    printf("%g\n", largest);
}
