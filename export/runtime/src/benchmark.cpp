#include "mammoth/benchmark.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <random>
#include <vector>

namespace mammoth {
namespace {

constexpr std::size_t fewest_rounds = 10;
constexpr std::size_t warm_up_rounds = 3;

/// Returns random values with the shape and dtype of the input; the same ones in every call.
Tensor random_input(const Contract& contract, std::int64_t batch) {
    Shape shape{batch};
    std::ranges::copy(contract.input.item, std::back_inserter(shape));
    const auto count = element_count(shape);
    std::mt19937 generator(0);
    if (contract.input.dtype == DType::uint8) {
        std::uniform_int_distribution<int> pixels(0, 255);
        std::vector<std::uint8_t> values(count);
        std::ranges::generate(values, [&] { return static_cast<std::uint8_t>(pixels(generator)); });
        return {std::move(values), std::move(shape)};
    }
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    std::ranges::generate(values, [&] { return normal(generator); });
    return {std::move(values), std::move(shape)};
}

double milliseconds(const std::function<void()>& call) {
    const auto start = std::chrono::steady_clock::now();
    call();
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
        .count();
}

/// Returns a quantile of sorted values, with linear interpolation.
double quantile(const std::vector<double>& sorted, double fraction) {
    const auto position = fraction * static_cast<double>(sorted.size() - 1);
    const auto below = static_cast<std::size_t>(position);
    const auto above = std::min(below + 1, sorted.size() - 1);
    return std::lerp(sorted[below], sorted[above], position - static_cast<double>(below));
}

Latency summarise(std::vector<double> times, std::int64_t batch) {
    std::ranges::sort(times);
    const auto median = quantile(times, 0.5);
    return {.median_ms = median,
            .p20_ms = quantile(times, 0.2),
            .p80_ms = quantile(times, 0.8),
            .images_per_second = 1000.0 * static_cast<double>(batch) / median};
}

std::vector<float> buffer_of(const TensorInfo* output, std::int64_t batch) {
    return std::vector<float>(
        output == nullptr ? 0 : element_count(output->item) * static_cast<std::size_t>(batch));
}

}  // namespace

BenchmarkResult benchmark(const Bundle& bundle, ReturnType type, std::int64_t batch,
                          double seconds) {
    if (batch < 1 || !(seconds > 0))
        throw Error(ErrorCode::contract, "batch and seconds must be positive");
    const auto& contract = bundle.manifest().contract;
    const auto input = random_input(contract, batch);
    const auto view = input.view();
    auto out = buffer_of(contract.output("out"), batch);
    auto features = buffer_of(contract.output("features"), batch);
    const Buffers buffers{out, features};
    const std::function<void()> runtime = [&] { bundle.run(view, type, buffers); };
    const auto bare = bundle.bare_call(view, type, buffers);
    for (std::size_t i = 0; i < warm_up_rounds; ++i) runtime(), bare();

    std::vector<double> runtime_times, bare_times, overheads;
    const auto start = std::chrono::steady_clock::now();
    const std::chrono::duration<double> limit(seconds);
    while (overheads.size() < fewest_rounds || std::chrono::steady_clock::now() - start < limit) {
        double first = 0;
        if (overheads.size() % 2 == 0) first = milliseconds(runtime);
        bare_times.push_back(milliseconds(bare));
        runtime_times.push_back(overheads.size() % 2 == 0 ? first : milliseconds(runtime));
        overheads.push_back(runtime_times.back() / bare_times.back() - 1);
    }
    std::ranges::sort(overheads);
    return {.runtime = summarise(runtime_times, batch),
            .bare = summarise(bare_times, batch),
            .overhead_median = quantile(overheads, 0.5),
            .rounds = overheads.size()};
}

}  // namespace mammoth
