// Layer normalisation over the last axis, forward and backward, each in one pass over memory.
//
// Some rows at a time are copied to buffers that stay in the first cache, so that the loops over what they all hold are
// long where rows are short. Sums over rows are over fixed parts of them, so that the result is the same on any number
// of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "values.h"

namespace {

constexpr int64_t WIDTH = 1024;  // numbers in some rows, or one row
constexpr int64_t PARTS = 16;

struct Rows {
    int64_t rows, channels;
    int64_t some() const { return std::max<int64_t>(1, WIDTH / channels); }
    int64_t width() const { return some() * channels; }
};

template <typename Sum>
std::vector<Sum> repeated(const Sum* of_channel, const Rows& map) {
    std::vector<Sum> result(map.width());
    for (int64_t i = 0; i < map.width(); ++i) result[i] = of_channel[i % map.channels];
    return result;
}

// Call body(first row, end) for some rows of a part at a time.
template <typename Body>
void over_rows(const Rows& map, int64_t part, Body body) {
    const int64_t end = (part + 1) * map.rows / PARTS;
    for (int64_t row = part * map.rows / PARTS; row < end; row += map.some()) body(row, std::min(row + map.some(), end));
}

// y = weight · (x - mean) / √(variance + eps) + bias; keeps the mean and 1 / √(variance + eps) of each row.
template <typename Value, typename Sum>
void forward(const Value* x, const Sum* weight, const Sum* bias, Value* y, Sum* mean, Sum* inverse_deviation, Rows map,
             double eps, int threads) {
    const int64_t channels = map.channels;
    const std::vector<Sum> weights = repeated(weight, map), biases = repeated(bias, map);
    const Sum *w = weights.data(), *b = biases.data();
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t part = 0; part < PARTS; ++part) {
        std::vector<Sum> buffer(map.width());
        Sum* numbers = buffer.data();
        over_rows(map, part, [=](int64_t first, int64_t end) {
            const int64_t start = first * channels, n = (end - first) * channels;
            for (int64_t i = 0; i < n; ++i) numbers[i] = x[start + i];
            for (int64_t r = first; r < end; ++r) {
                Sum *row = numbers + (r - first) * channels, sum = 0, square = 0;
                const Sum pivot = row[0];  // near the mean, or else the sum of large numbers would lose digits
#pragma omp simd reduction(+ : sum)
                for (int64_t c = 0; c < channels; ++c) sum += row[c] - pivot;
                const Sum m = pivot + sum / channels;
#pragma omp simd reduction(+ : square)
                for (int64_t c = 0; c < channels; ++c) square += (row[c] - m) * (row[c] - m);
                const Sum inverse = 1 / std::sqrt(square / channels + Sum(eps));
                for (int64_t c = 0; c < channels; ++c) row[c] = (row[c] - m) * inverse;
                mean[r] = m;
                inverse_deviation[r] = inverse;
            }
            for (int64_t i = 0; i < n; ++i) y[start + i] = Value(numbers[i] * w[i] + b[i]);
        });
    }
}

// The gradients for x, weight and bias.
template <typename Value, typename Sum>
void backward(const Value* x, const Value* gradient, const Sum* weight, const Sum* mean, const Sum* inverse_deviation,
              Value* x_gradient, Sum* weight_gradient, Sum* bias_gradient, Rows map, int threads) {
    const int64_t channels = map.channels, width = map.width();
    const std::vector<Sum> weights = repeated(weight, map);
    const Sum* w = weights.data();
    std::vector<Sum> sums(2 * PARTS * width);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t part = 0; part < PARTS; ++part) {
        std::vector<Sum> buffer(2 * width);
        Sum *distances = buffer.data(), *gradients = distances + width;
        Sum *of_weight = sums.data() + 2 * part * width, *of_bias = of_weight + width;
        over_rows(map, part, [=](int64_t first, int64_t end) {
            const int64_t start = first * channels, n = (end - first) * channels;
            for (int64_t i = 0; i < n; ++i) distances[i] = x[start + i];
            for (int64_t r = first; r < end; ++r) {
                Sum *row = distances + (r - first) * channels, m = mean[r], inverse = inverse_deviation[r];
                for (int64_t c = 0; c < channels; ++c) row[c] = (row[c] - m) * inverse;
            }
            for (int64_t i = 0; i < n; ++i) {
                const Sum g = gradient[start + i];
                of_weight[i] += g * distances[i];
                of_bias[i] += g;
                gradients[i] = g * w[i];
            }
            for (int64_t r = first; r < end; ++r) {
                const Sum* row = distances + (r - first) * channels;
                Sum *g = gradients + (r - first) * channels, inverse = inverse_deviation[r], sum = 0, product = 0;
#pragma omp simd reduction(+ : sum, product)
                for (int64_t c = 0; c < channels; ++c) {
                    sum += g[c];
                    product += g[c] * row[c];
                }
                sum /= channels;
                product /= channels;
                for (int64_t c = 0; c < channels; ++c) g[c] = (g[c] - sum - row[c] * product) * inverse;
            }
            for (int64_t i = 0; i < n; ++i) x_gradient[start + i] = Value(gradients[i]);
        });
    }
    for (int64_t c = 0; c < channels; ++c) {
        double of_weight = 0, of_bias = 0;
        for (int64_t i = c; i < int64_t(sums.size()); i += 2 * width)
            for (int64_t j = i; j < i + width; j += channels) {
                of_weight += sums[j];
                of_bias += sums[j + width];
            }
        weight_gradient[c] = of_weight;
        bias_gradient[c] = of_bias;
    }
}

}  // namespace

#define EXPORTED(NAME, VALUE, SUM)                                                                                     \
    extern "C" void layer_norm_##NAME(const VALUE* x, const SUM* weight, const SUM* bias, VALUE* y, SUM* mean,         \
                                      SUM* inverse_deviation, int64_t rows, int64_t channels, double eps,              \
                                      int threads) {                                                                   \
        forward(x, weight, bias, y, mean, inverse_deviation, {rows, channels}, eps, threads);                          \
    }                                                                                                                  \
    extern "C" void layer_norm_backward_##NAME(const VALUE* x, const VALUE* gradient, const SUM* weight,               \
                                               const SUM* mean, const SUM* inverse_deviation, VALUE* x_gradient,       \
                                               SUM* weight_gradient, SUM* bias_gradient, int64_t rows,                 \
                                               int64_t channels, int threads) {                                        \
        backward(x, gradient, weight, mean, inverse_deviation, x_gradient, weight_gradient, bias_gradient,             \
                 {rows, channels}, threads);                                                                           \
    }
EXPORTED(bfloat16, bfloat16, float)
EXPORTED(float32, float, float)
EXPORTED(float64, double, double)
