// Loops over channels_last maps: `rows` pixels of `channels` numbers.
//
// Some pixels at a time are taken as one wide row, so that the inner loops are long where channels are few; what belongs
// to a channel is repeated along it. Sums are over fixed parts of the pixels, so that the result is the same on any
// number of threads, and are joined in float64.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

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

template <typename Each>
void everywhere(const Map& map, int threads, Each each) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t part = 0; part < PARTS; ++part) over_rows(map, part, each);
}

}  // namespace
