// usage: golden_test BUNDLE BACKEND
// An exported bundle must reproduce its golden outputs, and raise clear errors for invalid inputs.
#include <algorithm>
#include <barrier>
#include <cmath>
#include <fstream>
#include <iterator>
#include <numeric>
#include <thread>

#include "check.hpp"
#include "files.hpp"
#include "mammoth/benchmark.hpp"
#include "mammoth/bundle.hpp"
#include "mammoth/image.hpp"

using namespace mammoth;
using namespace mammoth::test;

namespace {

std::filesystem::path directory;
Backend backend;

constexpr std::array types{ReturnType::out, ReturnType::features, ReturnType::both};

Bundle open() {
    return Bundle::open(directory, backend);
}

Tensor golden_input() {
    return read_npy(directory / open().manifest().golden->input);
}

Tensor golden_output(const std::string& name) {
    return read_npy(directory / open().manifest().golden->outputs.at(name));
}

/// Returns whether values are within the bound of the exporter for float32 models.
bool near(std::span<const float> got, std::span<const float> wanted) {
    const auto largest = [](float most, float value) { return std::max(most, std::abs(value)); };
    const auto size = std::accumulate(wanted.begin(), wanted.end(), 0.0F, largest);
    return std::ranges::equal(
        got, wanted, [&](float a, float b) { return std::abs(a - b) <= 1e-5F + 1e-4F * size; });
}

bool golden(const Outputs& outputs, ReturnType type) {
    const auto fits = [](const Tensor& got, const std::string& name, bool asked) {
        if (!asked) return got.empty();
        const auto wanted = golden_output(name);
        return got.shape() == wanted.shape() && near(got.floats(), wanted.floats());
    };
    return fits(outputs.out, "out", type != ReturnType::features) &&
           fits(outputs.features, "features", type != ReturnType::out);
}

/// Returns the first images of a batch.
TensorView first(const Tensor& input, std::int64_t batch) {
    Shape shape = input.shape();
    shape.front() = batch;
    const auto count = element_count(shape);
    if (input.dtype() == DType::uint8) return {input.bytes().first(count), shape};
    return {input.floats().first(count), shape};
}

double cosine(std::span<const float> a, std::span<const float> b) {
    const auto dot = [](auto x, auto y) {
        return std::inner_product(x.begin(), x.end(), y.begin(), 0.0);
    };
    return dot(a, b) / std::sqrt(dot(a, a) * dot(b, b));
}

std::string text_of(const std::filesystem::path& path) {
    std::ifstream stream(path, std::ios::binary);
    return {std::istreambuf_iterator(stream), {}};
}

}  // namespace

TEST(golden_outputs_are_reproduced) {
    const auto bundle = open();
    const auto input = golden_input();
    CHECK(!bundle.backend_version().empty());
    for (const auto type : types) {
        CHECK(bundle.answers(type));
        bundle.prepare(type);
        CHECK(golden(bundle.run(input.view(), type), type));
    }
}

TEST(outputs_are_written_to_the_callers_memory) {
    const auto bundle = open();
    const auto input = golden_input();
    std::vector<float> out(golden_output("out").floats().size());
    std::vector<float> features(golden_output("features").floats().size());
    bundle.run(input.view(), ReturnType::out, {.out = out});
    CHECK(near(out, golden_output("out").floats()));
    CHECK(std::ranges::all_of(features, [](float value) { return value == 0; }));
    std::ranges::fill(out, 0.0F);
    bundle.run(input.view(), ReturnType::both, {out, features});
    CHECK(near(out, golden_output("out").floats()));
    CHECK(near(features, golden_output("features").floats()));
}

TEST(every_batch_size_runs) {
    const auto bundle = open();
    const auto input = golden_input();
    const auto wanted = golden_output("out");
    const auto width = static_cast<std::size_t>(wanted.shape().back());
    for (std::int64_t batch = 1; batch <= input.shape().front(); ++batch) {
        const auto got = bundle.run(first(input, batch));
        CHECK((got.out.shape() == Shape{batch, wanted.shape().back()}));
        CHECK(
            near(got.out.floats(), wanted.floats().first(static_cast<std::size_t>(batch) * width)));
    }
}

TEST(concurrent_runs_agree) {
    const auto bundle = open();  // loads nothing yet, so that loading is concurrent too
    const auto input = golden_input();
    constexpr std::size_t threads = 6;
    std::vector<Outputs> answers(threads);
    {
        std::vector<std::jthread> workers;
        for (std::size_t i = 0; i < threads; ++i)
            workers.emplace_back([&, i] {
                for (int round = 0; round < 20; ++round)
                    answers[i] = bundle.run(input.view(), types[i % types.size()]);
            });
    }
    for (std::size_t i = 0; i < threads; ++i) CHECK(golden(answers[i], types[i % types.size()]));
}

TEST(types_may_be_loaded_at_once) {
    const auto input = golden_input();
    for (int round = 0; round < 20; ++round) {
        const auto bundle = open();
        std::vector<Outputs> answers(types.size());
        std::barrier start(static_cast<std::ptrdiff_t>(types.size()));
        {
            std::vector<std::jthread> workers;
            for (std::size_t i = 0; i < types.size(); ++i)
                workers.emplace_back([&, i] {
                    start.arrive_and_wait();
                    answers[i] = bundle.run(input.view(), types[i]);
                });
        }
        for (std::size_t i = 0; i < types.size(); ++i) CHECK(golden(answers[i], types[i]));
    }
}

TEST(invalid_inputs_are_refused) {
    const auto bundle = open();
    const auto input = golden_input();
    const bool stored = input.dtype() == DType::uint8;
    const std::string dtype(to_string(input.dtype()));
    const auto refused = [&](const Shape& shape) {
        const auto count = element_count(shape);
        const auto wrong = stored ? Tensor(std::vector<std::uint8_t>(count), shape)
                                  : Tensor(std::vector<float>(count), shape);
        CHECK_ERROR(contract, ", not " + dtype + " " + to_string(shape), bundle.run(wrong.view()));
    };
    for (std::size_t axis = 1; axis < input.shape().size(); ++axis) {
        Shape shape = input.shape();
        ++shape[axis];
        refused(shape);
    }
    refused({static_cast<std::int64_t>(element_count(input.shape()))});
    refused({});
    refused(Shape(input.shape().begin() + 1, input.shape().end()));
    CHECK_ERROR(contract, "the input must be " + dtype + " [batch, ", bundle.run(first(input, 0)));
    const auto count = element_count(input.shape());
    const auto other = stored ? Tensor(std::vector<float>(count), input.shape())
                              : Tensor(std::vector<std::uint8_t>(count), input.shape());
    CHECK_ERROR(contract, "the input must be " + dtype, bundle.run(other.view()));
}

TEST(smaller_variants_are_close) {
    const auto bundle = open();
    const auto input = golden_input();
    for (const auto& file : bundle.manifest().files) {
        if (file.format != to_string(backend) || file.precision == "fp32") continue;
        const auto variant = Bundle::open(directory, backend, {.precision = file.precision});
        const auto answer = variant.run(input.view(), ReturnType::both);
        CHECK(cosine(answer.out.floats(), golden_output("out").floats()) > 0.99);
        CHECK(cosine(answer.features.floats(), golden_output("features").floats()) > 0.99);
        CHECK(!near(answer.features.floats(), golden_output("features").floats()));
    }
}

TEST(buffers_of_wrong_size_are_refused) {
    const auto bundle = open();
    const auto input = golden_input();
    std::vector<float> out(3);
    CHECK_ERROR(contract, "the buffer for 'out' has 3 values",
                (bundle.run(input.view(), ReturnType::out, {.out = out}), 0));
    CHECK_ERROR(contract, "the buffer for 'features' has 0 values",
                (bundle.run(input.view(), ReturnType::features, {.out = out}), 0));
}

TEST(moved_bundle_runs) {
    auto first_bundle = open();
    const auto input = golden_input();
    first_bundle.prepare(ReturnType::out);
    const Bundle second(std::move(first_bundle));
    CHECK(golden(second.run(input.view()), ReturnType::out));
}

/// Models that are truncated or have another contract, with matching hashes.
TEST(damaged_models_are_refused) {
    const TemporaryDirectory copy;
    std::filesystem::copy(directory, copy.path(), std::filesystem::copy_options::recursive);
    const auto manifest = nlohmann::json::parse(text_of(directory / "manifest.json"));
    const auto rewrite = [&](auto change) {
        auto changed = manifest;
        for (auto& file : changed["files"]) {
            if (file["format"] != to_string(backend)) continue;
            const std::string path = file["path"];
            auto text = change(text_of(directory / path));
            write_file(copy.path() / path, text);
            file["bytes"] = text.size();
            file["sha256"] = detail::sha256(bytes_of(text));
        }
        write_manifest(copy.path(), changed);
    };
    rewrite([](const std::string& text) { return text.substr(0, text.size() / 2); });
    CHECK_ERROR(damaged, "cannot be loaded",
                Bundle::open(copy.path(), backend).prepare(ReturnType::both));

    rewrite([](const std::string& text) { return text; });
    auto changed = nlohmann::json::parse(text_of(copy.path() / "manifest.json"));
    auto& width = changed["contract"]["outputs"][1]["shape"][1];
    width = width.get<int>() + 1;
    write_manifest(copy.path(), changed);
    const auto code = backend == Backend::onnx ? ErrorCode::damaged : ErrorCode::backend;
    mammoth::test::check_error(
        code, "than manifest.json says",
        [&] {
            (void)Bundle::open(copy.path(), backend)
                .run(golden_input().view(), ReturnType::features);
        },
        __FILE__, __LINE__);
}

TEST(benchmark_measures_both_calls) {
    const auto bundle = open();
    const auto result = benchmark(bundle, ReturnType::both, 2, 0.05);
    CHECK(result.rounds >= 10);
    for (const auto& latency : {result.runtime, result.bare})
        CHECK(latency.median_ms > 0 && latency.p20_ms <= latency.median_ms &&
              latency.median_ms <= latency.p80_ms && latency.images_per_second > 0);
    CHECK_ERROR(contract, "positive", benchmark(bundle, ReturnType::out, 0, 1));
    CHECK_ERROR(contract, "positive", benchmark(bundle, ReturnType::out, 1, 0));
}

int main(int argc, char** argv) {
    if (argc != 3) {
        std::cerr << "usage: golden_test BUNDLE BACKEND\n";
        return 2;
    }
    directory = argv[1];
    backend = parse_backend(argv[2]);
    return run_all();
}
