// Batch normalisation of channels_last maps in training, forward and backward, each in two passes over memory.
//
// A map is `rows` pixels of `channels` numbers. Some pixels at a time are taken as one wide row, so that the inner loops
// are long where channels are few; what belongs to a channel is repeated along it. Sums are over fixed parts of the
// pixels, so that the result is the same on any number of threads, and are joined in float64.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "values.h"

namespace {

constexpr int64_t WIDTH = 512;  // numbers in a wide row, at least half of it: its sums stay in the first cache
constexpr int64_t PARTS = 16;

struct Map {
    int64_t rows, channels;
    int64_t width() const { return std::max<int64_t>(1, WIDTH / channels) * channels; }
    int64_t size() const { return rows * channels; }
};

template <typename Sum>
std::vector<Sum> repeated(const std::vector<Sum>& of_channel, int64_t width) {
    std::vector<Sum> result;
    while (int64_t(result.size()) < width) result.insert(result.end(), of_channel.begin(), of_channel.end());
    return result;
}

// Call body(start, numbers) for the wide rows of a part of the map.
template <typename Body>
void over_rows(const Map& map, int64_t part, Body body) {
    const int64_t width = map.width(), wide = (map.size() + width - 1) / width;
    for (int64_t row = part * wide / PARTS; row < (part + 1) * wide / PARTS; ++row)
        body(row * width, std::min(width, map.size() - row * width));
}

// Two sums for each channel, of what `add` adds to those of a wide row.
template <typename Sum, typename Add>
void two_sums(const Map& map, int threads, std::vector<double>& first, std::vector<double>& second, Add add) {
    const int64_t width = map.width();
    std::vector<Sum> sums(2 * PARTS * width);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t part = 0; part < PARTS; ++part) {
        Sum* own = sums.data() + 2 * part * width;
        over_rows(map, part, [&](int64_t start, int64_t n) { add(start, n, own, own + width); });
    }
    for (const Sum* own = sums.data(); own < sums.data() + sums.size(); own += 2 * width)
        for (int64_t i = 0; i < width; i += map.channels)
            for (int64_t c = 0; c < map.channels; ++c) {
                first[c] += own[i + c];
                second[c] += own[width + i + c];
            }
}

// Of each channel over up to 16 pixels, from all over the map.
template <typename Sum, typename Value>
std::vector<Sum> mean_of_some(const Value* x, const Map& map) {
    const int64_t some = std::min<int64_t>(map.rows, 16);
    std::vector<Sum> mean(map.channels);
    for (int64_t pixel = 0; pixel < some; ++pixel)
        for (int64_t c = 0; c < map.channels; ++c) mean[c] += Sum(x[pixel * map.rows / some * map.channels + c]) / some;
    return mean;
}

template <typename Each>
void everywhere(const Map& map, int threads, Each each) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t part = 0; part < PARTS; ++part) over_rows(map, part, each);
}

// y = weight · (x - mean) / √(variance + eps) + bias; keeps the mean and 1 / √(variance + eps), moves the running ones.
template <typename Value, typename Sum>
void forward(const Value* x, const Sum* weight, const Sum* bias, Sum* running_mean, Sum* running_variance, Value* y,
             Sum* mean, Sum* inverse_deviation, Map map, double eps, double momentum, int threads) {
    const int64_t c = map.channels, width = map.width();
    const std::vector<Sum> pivot = mean_of_some<Sum>(x, map);  // near that of all, so that squares do not cancel
    const std::vector<Sum> pivots = repeated(pivot, width);
    std::vector<double> sum(c), square(c);
    two_sums<Sum>(map, threads, sum, square, [&](int64_t start, int64_t n, Sum* s, Sum* q) {
        for (int64_t i = 0; i < n; ++i) {
            const Sum distance = Sum(x[start + i]) - pivots[i];
            s[i] += distance;
            q[i] += distance * distance;
        }
    });
    std::vector<Sum> scale(c), shift(c);
    for (int64_t i = 0; i < c; ++i) {
        const double distance = sum[i] / map.rows, m = pivot[i] + distance;
        const double variance = std::max(square[i] / map.rows - distance * distance, 0.0);
        const double inverse = 1 / std::sqrt(variance + eps);
        mean[i] = m;
        inverse_deviation[i] = inverse;
        running_mean[i] += momentum * (m - running_mean[i]);
        running_variance[i] += momentum * (variance * map.rows / (map.rows - 1) - running_variance[i]);
        scale[i] = weight[i] * inverse;
        shift[i] = bias[i] - m * weight[i] * inverse;
    }
    const std::vector<Sum> scales = repeated(scale, width), shifts = repeated(shift, width);
    everywhere(map, threads, [&](int64_t start, int64_t n) {
        for (int64_t i = 0; i < n; ++i) y[start + i] = Value(Sum(x[start + i]) * scales[i] + shifts[i]);
    });
}

// The gradients for x, weight and bias.
template <typename Value, typename Sum>
void backward(const Value* x, const Value* gradient, const Sum* weight, const Sum* mean, const Sum* inverse_deviation,
              Value* x_gradient, Sum* weight_gradient, Sum* bias_gradient, Map map, int threads) {
    const int64_t c = map.channels, width = map.width();
    const std::vector<Sum> means = repeated(std::vector<Sum>(mean, mean + c), width);
    std::vector<double> sum(c), product(c);
    two_sums<Sum>(map, threads, sum, product, [&](int64_t start, int64_t n, Sum* s, Sum* p) {
        for (int64_t i = 0; i < n; ++i) {
            const Sum g = gradient[start + i];
            s[i] += g;
            p[i] += g * (Sum(x[start + i]) - means[i]);
        }
    });
    std::vector<Sum> of_gradient(c), of_distance(c), constant(c);
    for (int64_t i = 0; i < c; ++i) {
        const double inverse = inverse_deviation[i], factor = weight[i] * inverse;
        weight_gradient[i] = product[i] * inverse;
        bias_gradient[i] = sum[i];
        of_gradient[i] = factor;
        of_distance[i] = -factor * inverse * inverse * product[i] / map.rows;
        constant[i] = -factor * sum[i] / map.rows;
    }
    const std::vector<Sum> a = repeated(of_gradient, width), b = repeated(of_distance, width), k = repeated(constant, width);
    everywhere(map, threads, [&](int64_t start, int64_t n) {
        for (int64_t i = 0; i < n; ++i)
            x_gradient[start + i] =
                Value(a[i] * Sum(gradient[start + i]) + b[i] * (Sum(x[start + i]) - means[i]) + k[i]);
    });
}

}  // namespace

#define EXPORTED(NAME, VALUE, SUM)                                                                                      \
    extern "C" void batch_norm_##NAME(const VALUE* x, const SUM* weight, const SUM* bias, SUM* running_mean,            \
                                      SUM* running_variance, VALUE* y, SUM* mean, SUM* inverse_deviation, int64_t rows, \
                                      int64_t channels, double eps, double momentum, int threads) {                     \
        forward(x, weight, bias, running_mean, running_variance, y, mean, inverse_deviation, {rows, channels}, eps,     \
                momentum, threads);                                                                                     \
    }                                                                                                                   \
    extern "C" void batch_norm_backward_##NAME(                                                                         \
        const VALUE* x, const VALUE* gradient, const SUM* weight, const SUM* mean, const SUM* inverse_deviation,        \
        VALUE* x_gradient, SUM* weight_gradient, SUM* bias_gradient, int64_t rows, int64_t channels, int threads) {     \
        backward(x, gradient, weight, mean, inverse_deviation, x_gradient, weight_gradient, bias_gradient,              \
                 {rows, channels}, threads);                                                                            \
    }
EXPORTED(bfloat16, bfloat16, float)
EXPORTED(float32, float, float)
EXPORTED(float64, double, double)
