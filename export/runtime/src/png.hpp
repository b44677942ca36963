#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "mammoth/image.hpp"

namespace mammoth::detail {

/// Largest width and height of an image, in pixels.
inline constexpr std::int64_t largest_side = 1 << 13;

/// Decodes a PNG with libpng. Throws Error: damaged; contract; backend if built without libpng.
Image parse_png(std::span<const std::byte> data, const std::string& name);

}  // namespace mammoth::detail
