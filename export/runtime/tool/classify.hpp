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
    std::string name;  ///< empty where the bundle does not know it
    float score;       ///< a logit, or a probability where the bundle has a softmax
};

/// The answer for one image.
struct Answer {
    std::filesystem::path file;
    std::size_t index;                           ///< of the image in its file
    std::optional<std::vector<Score>> top;       ///< the best classes first, if `out` was asked for
    std::optional<std::vector<float>> features;  ///< if they were asked for
};

/// Runs the images of one file as one batch.
std::vector<Answer> classify(const Bundle& bundle, const std::filesystem::path& file,
                             ReturnType type, std::size_t top);

}  // namespace mammoth::tool
