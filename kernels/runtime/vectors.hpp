// Vectors of the widest registers, partial loads and stores, and working memory.

#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace {

#ifdef __AVX512F__
constexpr int lanes = 16;
#else
constexpr int lanes = 8;
#endif

using Index = std::int64_t;
typedef float Vector __attribute__((vector_size(4 * lanes)));
typedef float Unaligned __attribute__((vector_size(4 * lanes), aligned(4)));
typedef std::int32_t Integers __attribute__((vector_size(4 * lanes)));

inline Vector load(const float* from) {
    return *reinterpret_cast<const Unaligned*>(from);
}
inline void store(float* to, Vector value) {
    *reinterpret_cast<Unaligned*>(to) = value;
}

// The first `count` elements, then zeros.
inline Vector load(const float* from, Index count) {
    if (count >= lanes) return load(from);
    Vector value{};
    std::memcpy(&value, from, sizeof(float) * count);
    return value;
}
inline void store(float* to, Vector value, Index count) {
    if (count >= lanes)
        store(to, value);
    else
        std::memcpy(to, &value, sizeof(float) * count);
}

constexpr Index ceil_div(Index a, Index b) {
    return (a + b - 1) / b;
}
constexpr Index whole_vectors(Index count) {
    return ceil_div(count, lanes) * lanes;
}

// Working memory of one call, allocated by the calling thread, whose allocator keeps freed memory
// for the next call.
class Scratch {
  public:
    explicit Scratch(Index floats) {
        void* memory = nullptr;
        if (posix_memalign(&memory, 64, sizeof(float) * floats) == 0) start_.reset(memory);
    }
    explicit operator bool() const { return start_ != nullptr; }
    float* get() const { return static_cast<float*>(start_.get()); }

  private:
    struct Free {
        void operator()(void* memory) const { std::free(memory); }
    };
    std::unique_ptr<void, Free> start_;
};

}  // namespace
