// Reads images and arrays from files, and preprocesses images for a bundle.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "mammoth/api.hpp"
#include "mammoth/manifest.hpp"
#include "mammoth/tensor.hpp"

namespace mammoth {

/// 8-bit pixels in HWC layout.
struct Image {
    std::int64_t height = 0;
    std::int64_t width = 0;
    std::int64_t channels = 0;  ///< 1 (gray) or 3 (red, green, blue)
    std::vector<std::uint8_t> pixels;
};

/// Reads a PNG (8 bits or a palette, no transparency) or a binary PPM or PGM (maxval 255). The
/// first bytes determine the format.
/// Throws Error: missing; damaged; contract (an unsupported kind of image); backend (built without
/// libpng).
MAMMOTH_API Image read_image(const std::filesystem::path& file);
MAMMOTH_API Image parse_image(std::span<const std::byte> data, const std::string& name);

/// Reads a .npy file of version 1.0: little-endian, C order, float32 or uint8.
/// Throws Error: missing; damaged; contract (another dtype, order or version).
MAMMOTH_API Tensor read_npy(const std::filesystem::path& file);
MAMMOTH_API Tensor parse_npy(std::span<const std::byte> data, const std::string& name);

/// Turns stored images into the input of the bundle: a batch of float32 NCHW or NHWC, or of uint8
/// if preprocessing is folded into the model. Gray images are repeated for three channels; nothing
/// is resized. Throws Error (contract) if a size differs, `images` is empty, the bundle does not
/// take images or does not say how they were normalized.
MAMMOTH_API Tensor preprocess(const Manifest& manifest, std::span<const Image> images);

}  // namespace mammoth
