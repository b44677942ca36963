// The latency of a bundle, compared with that of its backend alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "mammoth/api.hpp"
#include "mammoth/bundle.hpp"

namespace mammoth {

struct Latency {
    double median_ms = 0;
    double p20_ms = 0;
    double p80_ms = 0;
    double images_per_second = 0;  ///< from the median latency
};

struct BenchmarkResult {
    Latency runtime;             ///< Bundle::run into memory of the caller
    Latency bare;                ///< the backend alone, see Bundle::bare_call
    double overhead_median = 0;  ///< median over rounds of runtime / bare - 1
    std::size_t rounds = 0;
};

/// Measures both interleaved, in alternating order, for about `seconds` after a warm-up, on random
/// input. Throws Error as Bundle::run, and contract if batch or seconds is not positive.
MAMMOTH_API BenchmarkResult benchmark(const Bundle& bundle, ReturnType type, std::int64_t batch,
                                      double seconds);

}  // namespace mammoth
