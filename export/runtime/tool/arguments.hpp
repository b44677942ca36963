#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "mammoth/bundle.hpp"

namespace mammoth::tool {

struct Arguments {
    std::filesystem::path bundle;
    std::vector<std::filesystem::path> files;
    ReturnType returnt = ReturnType::out;
    Backend backend = Backend::onnx;
    Options options;
    std::size_t top = 1;
    bool json = false;
    bool benchmark = false;
    bool help = false;
    std::int64_t batch = 1;
    double seconds = 5;
};

extern const char* const usage;

/// Parses the arguments after the program's name. Throws Error (contract) with a remedy.
Arguments parse(std::span<const char* const> argv);

}  // namespace mammoth::tool
