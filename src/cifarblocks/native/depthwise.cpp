// The gradients of a depthwise convolution over channels_last maps for its weight and its bias.
//
// gradient[tap, c] = Σ over images and places of output_gradient[n, y, x, c] · input[n, y·stride + i·dilation - padding, ..., c]
//
// A block of channels of one image is copied, padded, to buffers that stay in the cache; then a few rows of the output
// gradient at a time meet the rows of the input, for up to 7 taps, whose sums stay in registers.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "values.h"

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
constexpr int64_t BLOCK = 2 * LANES;  // channels: with 7 taps, 14 sums in registers
constexpr int64_t BAND = 128;         // places of the output at a time: their rows of the input stay in the first cache
constexpr int64_t CHUNKS = 16;        // of the batch, each summed alone, so that the result is the same on any number of threads

struct Sizes {
    int64_t batch, channels, height, width, out_height, out_width;
    int64_t kernel_height, kernel_width, stride_height, stride_width;
    int64_t padding_height, padding_width, dilation_height, dilation_width;
};

template <typename Sum>
struct Vector {
    typedef Sum type __attribute__((vector_size(LANES * sizeof(Sum))));
};

// Copy a block of channels of a map, (height, width, channels) → (height, pitch, BLOCK), zeros for missing channels.
template <typename Value, typename Sum>
void copy_block(const Value* from, Sum* to, int64_t height, int64_t width, int64_t channels, int64_t block, int64_t pitch) {
    for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < width; ++x) {
            const Value* pixel = from + (y * width + x) * channels;
            Sum* target = to + (y * pitch + x) * BLOCK;
            if (block == BLOCK)
                for (int64_t c = 0; c < BLOCK; ++c) target[c] = Sum(pixel[c]);
            else
                for (int64_t c = 0; c < block; ++c) target[c] = Sum(pixel[c]);
        }
}

// Rows of the output gradient, and the place of the input under their first tap.
template <typename Sum>
struct Rows {
    const Sum *gradient, *input;
    int64_t rows, columns, row_step, column_step;
};

// Add to the sums of some taps what these rows bring.
template <int TAPS, typename Sum>
void add(const Rows<Sum>& r, const int64_t* offsets, Sum* sums) {
    using V = typename Vector<Sum>::type;
    V low[TAPS], high[TAPS];
    for (int t = 0; t < TAPS; ++t) {
        std::memcpy(&low[t], sums + t * BLOCK, sizeof(V));
        std::memcpy(&high[t], sums + t * BLOCK + LANES, sizeof(V));
    }
    const Sum* gradient = r.gradient;
    for (int64_t y = 0; y < r.rows; ++y) {
        const Sum* input = r.input + y * r.row_step;
        for (int64_t x = 0; x < r.columns; ++x, gradient += BLOCK, input += r.column_step) {
            V g0, g1;
            std::memcpy(&g0, gradient, sizeof(V));
            std::memcpy(&g1, gradient + LANES, sizeof(V));
#pragma GCC unroll 8
            for (int t = 0; t < TAPS; ++t) {
                V x0, x1;
                std::memcpy(&x0, input + offsets[t], sizeof(V));
                std::memcpy(&x1, input + offsets[t] + LANES, sizeof(V));
                low[t] += g0 * x0;
                high[t] += g1 * x1;
            }
        }
    }
    for (int t = 0; t < TAPS; ++t) {
        std::memcpy(sums + t * BLOCK, &low[t], sizeof(V));
        std::memcpy(sums + t * BLOCK + LANES, &high[t], sizeof(V));
    }
}

// The same for all taps.
template <typename Sum>
void add_all(const Rows<Sum>& rows, const std::vector<int64_t>& offsets, Sum* sums) {
    const int64_t taps = offsets.size();
    int64_t t = 0;
    for (; t + 7 <= taps; t += 7) add<7>(rows, &offsets[t], sums + t * BLOCK);
    const int64_t* rest = offsets.data() + t;
    sums += t * BLOCK;
    switch (taps - t) {
        case 1: return add<1>(rows, rest, sums);
        case 2: return add<2>(rows, rest, sums);
        case 3: return add<3>(rows, rest, sums);
        case 4: return add<4>(rows, rest, sums);
        case 5: return add<5>(rows, rest, sums);
        case 6: return add<6>(rows, rest, sums);
    }
}

// Add to sums what the output gradient of all places is.
template <typename Sum>
void add_places(const Sum* gradient, int64_t places, Sum* sums) {
    for (int64_t place = 0; place < places; ++place)
        for (int64_t c = 0; c < BLOCK; ++c) sums[c] += gradient[place * BLOCK + c];
}

template <typename Value, typename Sum>
void depthwise_gradients(const Value* input, const Value* gradient, Sum* of_weight, Sum* of_bias, const Sizes& s,
                         int threads) {
    const int64_t taps = s.kernel_height * s.kernel_width, size = (taps + 1) * BLOCK;  // the bias comes last
    const int64_t blocks = (s.channels + BLOCK - 1) / BLOCK, chunks = std::min(s.batch, CHUNKS);
    const int64_t padded_height = s.height + 2 * s.padding_height, pitch = s.width + 2 * s.padding_width;
    const int64_t row_step = s.stride_height * pitch * BLOCK, band = std::max<int64_t>(1, BAND / s.out_width);
    std::vector<int64_t> offsets(taps);
    for (int64_t t = 0; t < taps; ++t)
        offsets[t] = (t / s.kernel_width * s.dilation_height * pitch + t % s.kernel_width * s.dilation_width) * BLOCK;
    std::vector<Sum> sums(chunks * blocks * size);

#pragma omp parallel num_threads(threads)
    {
        std::vector<Sum> padded(padded_height * pitch * BLOCK), rows(s.out_height * s.out_width * BLOCK);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < chunks * blocks; ++task) {
            const int64_t chunk = task / blocks, first = task % blocks * BLOCK, block = std::min(BLOCK, s.channels - first);
            if (block < BLOCK) {  // what another block left in the channels that this one lacks
                std::fill(padded.begin(), padded.end(), Sum(0));
                std::fill(rows.begin(), rows.end(), Sum(0));
            }
            Sum* own = sums.data() + task * size;
            for (int64_t n = chunk * s.batch / chunks; n < (chunk + 1) * s.batch / chunks; ++n) {
                copy_block(input + n * s.height * s.width * s.channels + first,
                           padded.data() + (s.padding_height * pitch + s.padding_width) * BLOCK,
                           s.height, s.width, s.channels, block, pitch);
                copy_block(gradient + n * s.out_height * s.out_width * s.channels + first, rows.data(),
                           s.out_height, s.out_width, s.channels, block, s.out_width);
                for (int64_t y = 0; y < s.out_height; y += band)
                    add_all<Sum>({rows.data() + y * s.out_width * BLOCK, padded.data() + y * row_step,
                                  std::min(band, s.out_height - y), s.out_width, row_step, s.stride_width * BLOCK},
                                 offsets, own);
                add_places(rows.data(), s.out_height * s.out_width, own + taps * BLOCK);
            }
        }
    }
    for (int64_t c = 0; c < s.channels; ++c)
        for (int64_t t = 0; t <= taps; ++t) {
            Sum sum = 0;
            for (int64_t chunk = 0; chunk < chunks; ++chunk)
                sum += sums[(chunk * blocks + c / BLOCK) * size + t * BLOCK + c % BLOCK];
            (t < taps ? of_weight[c * taps + t] : of_bias[c]) = sum;
        }
}

#define EXPORTED(NAME, VALUE, SUM)                                                                                 \
    extern "C" void depthwise_gradients_##NAME(const VALUE* x, const VALUE* gradient, SUM* of_weight, SUM* of_bias, \
                                               const Sizes* sizes, int threads) {                                  \
        depthwise_gradients(x, gradient, of_weight, of_bias, *sizes, threads);                                     \
    }
EXPORTED(bfloat16, bfloat16, float)
EXPORTED(float32, float, float)
EXPORTED(float64, double, double)
