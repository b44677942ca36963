// Vectors of the widest registers, partial loads and stores, and working memory.

#pragma once

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
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

// Loads and stores of the first `count` elements, at most a whole vector. The rest of the memory is
// not touched; a load fills the vector with zeros.
#ifdef __AVX512F__
inline __mmask16 mask_of(Index count) {
    return static_cast<__mmask16>((1u << std::min<Index>(count, lanes)) - 1);
}
inline Vector load(const float* from, Index count) {
    return _mm512_maskz_loadu_ps(mask_of(count), from);
}
inline void store(float* to, Vector value, Index count) {
    _mm512_mask_storeu_ps(to, mask_of(count), value);
}
#else
inline __m256i mask_of(Index count) {
    const __m256i numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const int end = static_cast<int>(std::min<Index>(count, lanes));
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(end), numbers);
}
inline Vector load(const float* from, Index count) {
    return _mm256_maskload_ps(from, mask_of(count));
}
inline void store(float* to, Vector value, Index count) {
    _mm256_maskstore_ps(to, mask_of(count), value);
}
#endif

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
