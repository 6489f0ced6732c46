// Batch normalisation of channels_last maps in training, forward and backward, each in two passes over memory.
//
// The addition of another map and the ReLU after it are computed in the same passes. Without a ReLU the least value of
// the result is -∞.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "maps.h"
#include "values.h"

namespace {

// Of each channel over up to 16 pixels, from all over the map.
template <typename Sum, typename Value>
std::vector<Sum> mean_of_some(const Value* x, const Map& map) {
    const int64_t some = std::min<int64_t>(map.rows, 16);
    std::vector<Sum> mean(map.channels);
    for (int64_t pixel = 0; pixel < some; ++pixel)
        for (int64_t c = 0; c < map.channels; ++c) mean[c] += Sum(x[pixel * map.rows / some * map.channels + c]) / some;
    return mean;
}

template <typename Sum>
Sum least(bool rectified) {
    return rectified ? Sum(0) : -std::numeric_limits<Sum>::infinity();
}

// (x - mean) · scale + bias for each number of a wide row, the same to the bit in forward and backward.
template <typename Sum>
struct Normalised {
    const std::vector<Sum> means, scales, biases;

    Normalised(const Sum* weight, const Sum* bias, const Sum* mean, const Sum* inverse_deviation, const Map& map)
        : means(repeated(std::vector<Sum>(mean, mean + map.channels), map.width())),
          scales(repeated(products(weight, inverse_deviation, map.channels), map.width())),
          biases(repeated(std::vector<Sum>(bias, bias + map.channels), map.width())) {}

    static std::vector<Sum> products(const Sum* first, const Sum* second, int64_t n) {
        std::vector<Sum> result(n);
        for (int64_t i = 0; i < n; ++i) result[i] = first[i] * second[i];
        return result;
    }
};

// y = max(least, weight · (x - mean) / √(variance + eps) + bias + other), `other` a map or null.
//
// Keeps the mean and 1 / √(variance + eps), and moves the running statistics.
template <typename Value, typename Sum>
void forward(const Value* x, const Value* other, const Sum* weight, const Sum* bias, Sum* running_mean,
             Sum* running_variance, Value* y, Sum* mean, Sum* inverse_deviation, Map map, double eps, double momentum,
             bool rectified, int threads) {
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
    for (int64_t i = 0; i < c; ++i) {
        const double distance = sum[i] / map.rows, m = pivot[i] + distance;
        const double variance = std::max(square[i] / map.rows - distance * distance, 0.0);
        mean[i] = m;
        inverse_deviation[i] = 1 / std::sqrt(variance + eps);
        running_mean[i] += momentum * (m - running_mean[i]);
        running_variance[i] += momentum * (variance * map.rows / (map.rows - 1) - running_variance[i]);
    }
    const Normalised<Sum> normalised(weight, bias, mean, inverse_deviation, map);
    const Sum *means = normalised.means.data(), *scales = normalised.scales.data(), *biases = normalised.biases.data();
    const Sum low = least<Sum>(rectified);
    everywhere(map, threads, [=](int64_t start, int64_t n) {
        for (int64_t i = 0; i < n; ++i) {
            Sum value = (Sum(x[start + i]) - means[i]) * scales[i] + biases[i];
            if (other) value += Sum(other[start + i]);
            y[start + i] = Value(value <= low ? low : value);
        }
    });
}

// The gradients for x, weight, bias and the other map.
//
// Where y = low, it has no gradient. With another map, y tells; its gradient, dense, is then read in place of that of y.
template <typename Value, typename Sum>
void backward(const Value* x, const Value* y, const Value* gradient, const Sum* weight, const Sum* bias,
              const Sum* mean, const Sum* inverse_deviation, Value* x_gradient, Value* other_gradient,
              Sum* weight_gradient, Sum* bias_gradient, Map map, bool rectified, int threads) {
    const int64_t c = map.channels, width = map.width();
    const Normalised<Sum> normalised(weight, bias, mean, inverse_deviation, map);
    const Sum *means = normalised.means.data(), *scales = normalised.scales.data(), *biases = normalised.biases.data();
    const Sum low = least<Sum>(rectified && !y);
    const Value* known = y ? other_gradient : gradient;
    std::vector<double> sum(c), product(c);
    two_sums<Sum>(map, threads, sum, product, [=](int64_t start, int64_t n, Sum* s, Sum* p) {
        if (y)
            for (int64_t i = 0; i < n; ++i) {
                const Sum all = gradient[start + i];
                other_gradient[start + i] = Value(Sum(y[start + i]) <= 0 ? Sum(0) : all);
            }
        for (int64_t i = 0; i < n; ++i) {
            const Sum distance = Sum(x[start + i]) - means[i], all = known[start + i];
            const Sum g = distance * scales[i] + biases[i] <= low ? Sum(0) : all;
            s[i] += g;
            p[i] += g * distance;
        }
    });
    std::vector<Sum> of_distance(c), constant(c);
    for (int64_t i = 0; i < c; ++i) {
        const double inverse = inverse_deviation[i], factor = weight[i] * inverse;
        weight_gradient[i] = product[i] * inverse;
        bias_gradient[i] = sum[i];
        of_distance[i] = -factor * inverse * inverse * product[i] / map.rows;
        constant[i] = -factor * sum[i] / map.rows;
    }
    const std::vector<Sum> of_distances = repeated(of_distance, width), constants = repeated(constant, width);
    const Sum *b = of_distances.data(), *k = constants.data();
    everywhere(map, threads, [=](int64_t start, int64_t n) {
        for (int64_t i = 0; i < n; ++i) {
            const Sum distance = Sum(x[start + i]) - means[i], all = known[start + i];
            const Sum g = distance * scales[i] + biases[i] <= low ? Sum(0) : all;
            x_gradient[start + i] = Value(scales[i] * g + b[i] * distance + k[i]);
        }
    });
}

}  // namespace

#define EXPORTED(NAME, VALUE, SUM)                                                                                      \
    extern "C" void batch_norm_##NAME(const VALUE* x, const VALUE* other, const SUM* weight, const SUM* bias,           \
                                      SUM* running_mean, SUM* running_variance, VALUE* y, SUM* mean,                    \
                                      SUM* inverse_deviation, int64_t rows, int64_t channels, double eps,               \
                                      double momentum, int64_t rectified, int threads) {                                \
        forward(x, other, weight, bias, running_mean, running_variance, y, mean, inverse_deviation, {rows, channels},   \
                eps, momentum, rectified, threads);                                                                     \
    }                                                                                                                   \
    extern "C" void batch_norm_backward_##NAME(                                                                         \
        const VALUE* x, const VALUE* y, const VALUE* gradient, const SUM* weight, const SUM* bias, const SUM* mean,     \
        const SUM* inverse_deviation, VALUE* x_gradient, VALUE* other_gradient, SUM* weight_gradient,                   \
        SUM* bias_gradient, int64_t rows, int64_t channels, int64_t rectified, int threads) {                           \
        backward(x, y, gradient, weight, bias, mean, inverse_deviation, x_gradient, other_gradient, weight_gradient,    \
                 bias_gradient, {rows, channels}, rectified, threads);                                                  \
    }
EXPORTED(bfloat16, bfloat16, float)
EXPORTED(float32, float, float)
EXPORTED(float64, double, double)
