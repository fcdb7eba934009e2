/* Gates and poolings at the end of blocks, in one pass over maps (B, H, W, C) each; PyTorch makes several. */

#include <stdint.h>

typedef int64_t size;

/* y = act(y * factors + other), with factors (B, C) of squeeze-and-excitation. */
void scale_and_add(size threads, size batch, size positions, size channels, const float *factors, const float *other,
                   float *y, size relu) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size row = 0; row < batch * positions; row++) {
        const float *f = factors + row / positions * channels, *o = other + row * channels;
        float *out = y + row * channels;
        if (relu)
#pragma omp simd
            for (size c = 0; c < channels; c++) {
                const float sum = out[c] * f[c] + o[c];
                out[c] = sum < 0 ? 0 : sum; /* NaN stays */
            }
        else
#pragma omp simd
            for (size c = 0; c < channels; c++) out[c] = out[c] * f[c] + o[c];
    }
}

/* The 3x3 average pooling with stride 2 over the positions that exist, and optionally a ReLU: x (B, H, W, C) to
 * y (B, (H + 1) / 2, (W + 1) / 2, C). */
void pool(size threads, size batch, size height, size width, size channels, const float *x, float *y, size relu) {
    const size rows = (height + 1) / 2, columns = (width + 1) / 2;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size line = 0; line < batch * rows; line++) {
        const size row = line % rows, top = 2 * row > 0 ? 2 * row - 1 : 0;
        const size bottom = 2 * row + 2 < height ? 2 * row + 2 : height;
        for (size column = 0; column < columns; column++) {
            const size left = 2 * column > 0 ? 2 * column - 1 : 0;
            const size right = 2 * column + 2 < width ? 2 * column + 2 : width;
            const float share = 1.0f / ((bottom - top) * (right - left));
            float *out = y + (line * columns + column) * channels;
#pragma omp simd
            for (size c = 0; c < channels; c++) out[c] = 0;
            for (size i = top; i < bottom; i++)
                for (size j = left; j < right; j++) {
                    const float *in = x + ((line / rows * height + i) * width + j) * channels;
#pragma omp simd
                    for (size c = 0; c < channels; c++) out[c] += in[c];
                }
#pragma omp simd
            for (size c = 0; c < channels; c++) out[c] = relu && out[c] < 0 ? 0 : out[c] * share;
        }
    }
}
