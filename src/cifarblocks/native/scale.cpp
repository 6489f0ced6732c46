// A factor for each channel of a channels_last map, and its gradients, each in one pass over memory.

#include <cstdint>
#include <vector>

#include "maps.h"
#include "values.h"

namespace {

template <typename Value, typename Sum>
void forward(const Value* x, const Sum* factor, Sum* y, Map map, int threads) {
    const std::vector<Sum> factors = repeated(std::vector<Sum>(factor, factor + map.channels), map.width());
    const Sum* f = factors.data();
    everywhere(map, threads, [=](int64_t start, int64_t n) {
        for (int64_t i = 0; i < n; ++i) y[start + i] = Sum(x[start + i]) * f[i];
    });
}

template <typename Value, typename Sum>
void backward(const Value* x, const Sum* gradient, const Sum* factor, Value* x_gradient, Sum* factor_gradient, Map map,
              int threads) {
    const std::vector<Sum> factors = repeated(std::vector<Sum>(factor, factor + map.channels), map.width());
    const Sum* f = factors.data();
    std::vector<double> product(map.channels), unused(map.channels);
    two_sums<Sum>(map, threads, product, unused, [=](int64_t start, int64_t n, Sum* p, Sum*) {
        for (int64_t i = 0; i < n; ++i) {
            const Sum g = gradient[start + i];
            p[i] += g * Sum(x[start + i]);
            x_gradient[start + i] = Value(g * f[i]);
        }
    });
    std::copy(product.begin(), product.end(), factor_gradient);
}

}  // namespace

#define EXPORTED(NAME, VALUE, SUM)                                                                                      \
    extern "C" void scale_##NAME(const VALUE* x, const SUM* factor, SUM* y, int64_t rows, int64_t channels,             \
                                 int threads) {                                                                         \
        forward(x, factor, y, {rows, channels}, threads);                                                               \
    }                                                                                                                   \
    extern "C" void scale_backward_##NAME(const VALUE* x, const SUM* gradient, const SUM* factor, VALUE* x_gradient,    \
                                          SUM* factor_gradient, int64_t rows, int64_t channels, int threads) {          \
        backward(x, gradient, factor, x_gradient, factor_gradient, {rows, channels}, threads);                          \
    }
EXPORTED(bfloat16, bfloat16, float)
EXPORTED(float32, float, float)
EXPORTED(float64, double, double)
