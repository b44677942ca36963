// Images and arrays from files, and what turns images into a bundle's input.
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

/// 8-bit pixels, row after row, the channels of a pixel beside each other (HWC).
struct Image {
    std::int64_t height = 0;
    std::int64_t width = 0;
    std::int64_t channels = 0;  ///< 1 (grey) or 3 (red, green, blue)
    std::vector<std::uint8_t> pixels;
};

/// Reads a PNG (8 bits or a palette, no transparency) or a binary PPM or PGM (maxval 255); the
/// first bytes say which it is.
/// Throws Error: missing; damaged; contract (a kind of image that is not read); backend (built
/// without libpng).
MAMMOTH_API Image read_image(const std::filesystem::path& file);
MAMMOTH_API Image parse_image(std::span<const std::byte> data, const std::string& name);

/// Reads a .npy of version 1.0, little-endian, C order, float32 or uint8.
/// Throws Error: missing; damaged; contract (another dtype, order or version).
MAMMOTH_API Tensor read_npy(const std::filesystem::path& file);
MAMMOTH_API Tensor parse_npy(std::span<const std::byte> data, const std::string& name);

/// Turns images as they are stored into what the bundle takes: a batch of float32 NCHW or NHWC, or
/// uint8 where the model folds the preprocessing in. Grey images are repeated for three channels;
/// nothing is resized.
/// Throws Error (contract) if a size differs, `images` is empty, the bundle does not take images or
/// does not say how they are normalised.
MAMMOTH_API Tensor preprocess(const Manifest& manifest, std::span<const Image> images);

}  // namespace mammoth
