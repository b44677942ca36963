#include "mammoth/image.hpp"

#include <algorithm>
#include <array>
#include <string_view>

#include "file.hpp"
#include "mammoth/error.hpp"
#include "png.hpp"
#include "text_cursor.hpp"

namespace mammoth {
namespace {

constexpr std::array png_magic{std::byte{0x89}, std::byte{'P'},  std::byte{'N'},  std::byte{'G'},
                               std::byte{'\r'}, std::byte{'\n'}, std::byte{0x1a}, std::byte{'\n'}};

/// Reads a number of a PPM header: whitespace and comments, then digits.
std::optional<std::int64_t> header_number(detail::TextCursor& cursor) {
    for (cursor.skip_space(); cursor.take("#"); cursor.skip_space()) cursor.until('\n');
    return cursor.number();
}

/// Parses P6 (color) or P5 (gray): magic, width, height, maxval, one whitespace, the pixels.
Image parse_ppm(std::string_view text, const std::string& name) {
    detail::TextCursor cursor(text.substr(2));
    Image image{.channels = text[1] == '6' ? 3 : 1, .pixels = {}};
    const auto width = header_number(cursor);
    const auto height = header_number(cursor);
    const auto maxval = header_number(cursor);
    if (!width || !height || !maxval || cursor.at_end() ||
        !std::isspace(static_cast<unsigned char>(cursor.rest().front())))
        throw Error(ErrorCode::damaged, name + " has no complete PPM header");
    if (*maxval != 255)
        throw Error(ErrorCode::contract, name + " has maxval " + std::to_string(*maxval) +
                                             "; only 255 (8 bits per channel) is supported");
    const auto pixels = cursor.rest().substr(1);
    if (*width < 1 || *height < 1 || *width > detail::largest_side ||
        *height > detail::largest_side ||
        pixels.size() != static_cast<std::size_t>(*width * *height * image.channels))
        throw Error(ErrorCode::damaged,
                    name + " holds " + std::to_string(pixels.size()) +
                        " bytes of pixels instead of " + std::to_string(*width) + " x " +
                        std::to_string(*height) + " x " + std::to_string(image.channels));
    image.width = *width;
    image.height = *height;
    image.pixels.assign(pixels.begin(), pixels.end());
    return image;
}

std::string size_of(const Image& image) {
    return std::to_string(image.height) + " x " + std::to_string(image.width) + " with " +
           std::to_string(image.channels) + " channels";
}

struct Target {
    std::int64_t channels;
    std::int64_t height;
    std::int64_t width;
    bool channels_last;
};

Target target_of(const Contract& contract) {
    const auto& item = contract.input.item;
    const bool last = contract.layout == "NHWC";
    if (item.size() != 3 || (!last && contract.layout != "NCHW"))
        throw Error(ErrorCode::contract,
                    "this bundle does not take images; give its input as a .npy of shape [batch" +
                        (item.empty() ? "]" : ", " + to_string(item).substr(1)));
    if (last) return {item[2], item[0], item[1], true};
    return {item[0], item[1], item[2], false};
}

void check(const Image& image, const Target& target) {
    const bool channels_fit = image.channels == target.channels || image.channels == 1;
    if (image.height != target.height || image.width != target.width || !channels_fit)
        throw Error(ErrorCode::contract,
                    "an image is " + size_of(image) + ", and the bundle takes " +
                        std::to_string(target.height) + " x " + std::to_string(target.width) +
                        " with " + std::to_string(target.channels) +
                        " channels. Resize and convert it first");
    if (image.pixels.size() !=
        static_cast<std::size_t>(image.height * image.width * image.channels))
        throw Error(ErrorCode::contract,
                    "an image has a number of pixels that does not match its size");
}

/// Calls `store(value, channel)` for every value of the input, in the order of its layout.
template <class Store>
void for_each_value(const Image& image, const Target& target, Store store) {
    const auto area = target.height * target.width;
    const auto value = [&](std::int64_t pixel, std::int64_t channel) {
        const auto source = image.channels == 1 ? 0 : channel;
        return image.pixels[static_cast<std::size_t>(pixel * image.channels + source)];
    };
    if (target.channels_last) {
        for (std::int64_t pixel = 0; pixel < area; ++pixel)
            for (std::int64_t channel = 0; channel < target.channels; ++channel)
                store(value(pixel, channel), static_cast<std::size_t>(channel));
    } else {
        for (std::int64_t channel = 0; channel < target.channels; ++channel)
            for (std::int64_t pixel = 0; pixel < area; ++pixel)
                store(value(pixel, channel), static_cast<std::size_t>(channel));
    }
}

}  // namespace

Image parse_image(std::span<const std::byte> data, const std::string& name) {
    const std::string_view text(reinterpret_cast<const char*>(data.data()), data.size());
    if (text.starts_with("P6") || text.starts_with("P5")) return parse_ppm(text, name);
    if (data.size() >= png_magic.size() &&
        std::ranges::equal(data.first(png_magic.size()), png_magic))
        return detail::parse_png(data, name);
    throw Error(ErrorCode::damaged, name + " is neither a PNG nor a binary PPM or PGM");
}

Image read_image(const std::filesystem::path& file) {
    return parse_image(detail::read_file(file), file.string());
}

Tensor preprocess(const Manifest& manifest, std::span<const Image> images) {
    const auto target = target_of(manifest.contract);
    if (!manifest.preprocessing)
        throw Error(ErrorCode::contract,
                    "this bundle does not say how its images were normalized; give its input as a "
                    ".npy of float32");
    if (images.empty()) throw Error(ErrorCode::contract, "there must be at least one image");
    Shape shape{static_cast<std::int64_t>(images.size())};
    std::ranges::copy(manifest.contract.input.item, std::back_inserter(shape));
    for (const auto& image : images) check(image, target);

    if (manifest.contract.input.dtype == DType::uint8) {
        std::vector<std::uint8_t> values;
        values.reserve(element_count(shape));
        for (const auto& image : images)
            for_each_value(image, target,
                           [&](std::uint8_t pixel, std::size_t) { values.push_back(pixel); });
        return {std::move(values), std::move(shape)};
    }
    const auto& how = *manifest.preprocessing;
    std::vector<float> values;
    values.reserve(element_count(shape));
    for (const auto& image : images)
        for_each_value(image, target, [&](std::uint8_t pixel, std::size_t channel) {
            values.push_back((static_cast<float>(pixel) * how.scale - how.mean[channel]) /
                             how.std[channel]);
        });
    return {std::move(values), std::move(shape)};
}

}  // namespace mammoth
