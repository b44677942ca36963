#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "mammoth/bundle.hpp"

namespace mammoth::tool {

struct Score {
    std::int64_t id;   ///< class id
    std::string name;  ///< empty if unknown
    float score;       ///< a logit, or a probability if the bundle has a softmax
};

/// The result for one image.
struct Answer {
    std::filesystem::path file;
    std::size_t index;                           ///< index of the image in its file
    std::optional<std::vector<Score>> top;       ///< best classes first, if `out` was requested
    std::optional<std::vector<float>> features;  ///< if requested
};

/// Runs the images of one file as a batch.
std::vector<Answer> classify(const Bundle& bundle, const std::filesystem::path& file,
                             ReturnType type, std::size_t top);

}  // namespace mammoth::tool
