#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "mammoth/image.hpp"

namespace mammoth::detail {

/// Pixels a side of the largest image that is read.
inline constexpr std::int64_t largest_side = 1 << 13;

/// Decodes a PNG with libpng. Throws Error: damaged; contract; backend where built without libpng.
Image parse_png(std::span<const std::byte> data, const std::string& name);

}  // namespace mammoth::detail
