// bfloat16: the upper half of a float.

#pragma once

#include <cstdint>
#include <cstring>

struct bfloat16 {
    uint16_t bits;

    bfloat16() = default;

    // Rounded to nearest, ties to even.
    explicit bfloat16(float value) {
        uint32_t wide;
        std::memcpy(&wide, &value, 4);
        const uint32_t rounded = (wide + 0x7fff + (wide >> 16 & 1)) >> 16;
        bits = value == value ? rounded : 0x7fc0;
    }

    operator float() const {
        const uint32_t wide = uint32_t(bits) << 16;
        float value;
        std::memcpy(&value, &wide, 4);
        return value;
    }
};
