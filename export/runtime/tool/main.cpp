// mammoth-run: classifies images with an exported bundle, or measures its latency.
#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

#include "arguments.hpp"
#include "classify.hpp"
#include "mammoth/benchmark.hpp"

namespace {

using namespace mammoth;
using Json = nlohmann::ordered_json;

/// Prints JSON. Bytes in names of files and classes that are not UTF-8 are replaced.
void write(const Json& json) {
    std::cout << json.dump(2, ' ', false, Json::error_handler_t::replace) << '\n';
}

Json describe(const Bundle& bundle, const tool::Arguments& arguments) {
    return {{"bundle", bundle.manifest().name},
            {"backend", to_string(bundle.backend())},
            {"backend_version", bundle.backend_version()},
            {"precision", arguments.options.precision},
            {"returnt", to_string(arguments.returnt)}};
}

Json to_json(const tool::Answer& answer) {
    Json json{{"file", answer.file.string()}, {"index", answer.index}};
    if (answer.top) {
        json["top"] = Json::array();
        for (const auto& [id, name, score] : *answer.top)
            json["top"].push_back({{"id", id}, {"name", name}, {"score", score}});
    }
    if (answer.features) json["features"] = *answer.features;
    return json;
}

void print(const tool::Answer& answer) {
    std::cout << answer.file.string() << '[' << answer.index << ']';
    if (answer.top)
        for (const auto& [id, name, score] : *answer.top)
            std::cout << '\t' << id << ' ' << name << ' ' << score;
    if (answer.features) {
        std::cout << "\tfeatures";
        for (const auto value : *answer.features) std::cout << ' ' << value;
    }
    std::cout << '\n';
}

void run_images(const Bundle& bundle, const tool::Arguments& arguments) {
    Json results = Json::array();
    for (const auto& file : arguments.files)
        for (const auto& answer : tool::classify(bundle, file, arguments.returnt, arguments.top))
            if (arguments.json)
                results.push_back(to_json(answer));
            else
                print(answer);
    if (!arguments.json) return;
    auto report = describe(bundle, arguments);
    report["results"] = std::move(results);
    write(report);
}

Json to_json(const Latency& latency) {
    return {{"median_ms", latency.median_ms},
            {"p20_ms", latency.p20_ms},
            {"p80_ms", latency.p80_ms},
            {"images_per_second", latency.images_per_second}};
}

void run_benchmark(const Bundle& bundle, const tool::Arguments& arguments) {
    const auto result = benchmark(bundle, arguments.returnt, arguments.batch, arguments.seconds);
    auto report = describe(bundle, arguments);
    report["batch"] = arguments.batch;
    report["threads"] = arguments.options.threads;
    report["rounds"] = result.rounds;
    report["runtime"] = to_json(result.runtime);
    report["bare"] = to_json(result.bare);
    report["overhead_median"] = result.overhead_median;
    write(report);
}

}  // namespace

int main(int argc, char** argv) {
    try {
        const auto arguments = tool::parse({argv + 1, argv + std::max(argc, 1)});
        if (arguments.help) {
            std::cout << tool::usage;
        } else {
            const auto bundle =
                Bundle::open(arguments.bundle, arguments.backend, arguments.options);
            arguments.benchmark ? run_benchmark(bundle, arguments) : run_images(bundle, arguments);
        }
        if (std::cout.flush()) return 0;
        std::cerr << "error: cannot write to standard output\n";
        return 1;
    } catch (const Error& error) {
        std::cerr << "error (" << to_string(error.code()) << "): " << error.what() << '\n';
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << '\n';
    }
    return 2;
}
