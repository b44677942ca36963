#include "arguments.hpp"

#include <charconv>
#include <functional>
#include <map>
#include <string_view>

namespace mammoth::tool {

const char* const usage =
    R"(usage: mammoth-run DIR IMAGE.{png,ppm,pgm,npy}... [options]
       mammoth-run DIR --benchmark [options]

Runs an exported bundle on images, or measures its latency. A .npy file holds images,
uint8 [H, W, C] or [B, H, W, C], or the input itself as described in the bundle's manifest.json.

  --returnt out|features|both        Outputs to compute (default: out)
  --backend onnx|aoti|torchscript    Library that runs the model (default: onnx)
  --precision fp32|fp16|int8         Precision of the model (default: fp32)
  --threads N                        Threads of the backend (default: its own default)
  --library FILE                     Path of ONNX Runtime or libmammoth_torch.so
  --top K                            Classes to print per image (default: 1)
  --json                             Print JSON
  --benchmark                        Print latencies in ms, also of the backend alone, as JSON
  --batch N                          Batch size of the benchmark (default: 1)
  --seconds S                        Duration of the benchmark (default: 5)

Exit code: 0, 1 if standard output cannot be written, or 2 after another error.
)";

namespace {

template <class Number>
Number number(std::string_view option, std::string_view text, Number least, Number most) {
    Number value{};
    const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || stop != text.data() + text.size() ||
        !(value >= least && value <= most))
        throw Error(ErrorCode::contract, std::string(option) + " must be a number from " +
                                             std::to_string(least) + " to " + std::to_string(most) +
                                             ", not '" + std::string(text) + "'");
    return value;
}

ReturnType return_type(std::string_view name) {
    try {
        return parse_return_type(name);
    } catch (const std::invalid_argument& error) {
        throw Error(ErrorCode::contract, error.what());
    }
}

}  // namespace

Arguments parse(std::span<const char* const> argv) {
    Arguments arguments;
    std::vector<std::filesystem::path> paths;
    std::size_t next = 0;
    std::string_view option;

    const auto value = [&]() -> std::string_view {
        if (next == argv.size())
            throw Error(ErrorCode::contract, std::string(option) + " needs a value");
        return argv[next++];
    };
    const std::map<std::string_view, std::function<void()>> options{
        {"--returnt", [&] { arguments.returnt = return_type(value()); }},
        {"--backend", [&] { arguments.backend = parse_backend(value()); }},
        {"--precision", [&] { arguments.options.precision = value(); }},
        {"--threads", [&] { arguments.options.threads = number(option, value(), 1U, 1024U); }},
        {"--library", [&] { arguments.options.library = value(); }},
        {"--top", [&] { arguments.top = number(option, value(), 1UL, 1'000'000UL); }},
        {"--json", [&] { arguments.json = true; }},
        {"--benchmark", [&] { arguments.benchmark = true; }},
        {"--batch", [&] { arguments.batch = number(option, value(), 1L, 1'000'000L); }},
        {"--seconds", [&] { arguments.seconds = number(option, value(), 0.01, 3600.0); }},
        {"--help", [&] { arguments.help = true; }},
    };
    while (next < argv.size()) {
        option = argv[next++];
        const auto found = options.find(option);
        if (found != options.end())
            found->second();
        else if (option.starts_with("--"))
            throw Error(ErrorCode::contract, "unknown option " + std::string(option) +
                                                 "; mammoth-run --help lists them");
        else
            paths.emplace_back(option);
    }
    if (arguments.help) return arguments;
    if (paths.empty()) throw Error(ErrorCode::contract, "no bundle given; see mammoth-run --help");
    arguments.bundle = paths.front();
    arguments.files.assign(paths.begin() + 1, paths.end());
    if (arguments.files.empty() != arguments.benchmark)
        throw Error(ErrorCode::contract, "give either images or --benchmark");
    return arguments;
}

}  // namespace mammoth::tool
