#include "mammoth/image.hpp"

#include <png.h>

#include "check.hpp"
#include "files.hpp"

using namespace mammoth;
using namespace mammoth::test;

namespace {

Image parse(const std::string& text) {
    return parse_image(bytes_of(text), "x");
}

std::string pixels(std::size_t count) {
    std::string text(count, '\0');
    for (std::size_t i = 0; i < count; ++i) text[i] = static_cast<char>(i * 37 % 256);
    return text;
}

/// Returns a PNG of 4 x 2 pixels.
std::string png(std::uint32_t format) {
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    image.width = 4;
    image.height = 2;
    image.format = format;
    const auto source = pixels(PNG_IMAGE_SIZE(image));
    std::string text(1 << 16, '\0');
    png_alloc_size_t size = text.size();
    CHECK(png_image_write_to_memory(&image, text.data(), &size, 0, source.data(), 0, nullptr) != 0);
    text.resize(size);
    return text;
}

bool same(const Image& image, const std::string& wanted) {
    return std::string(image.pixels.begin(), image.pixels.end()) == wanted;
}

Manifest manifest_with(const nlohmann::json& patch) {
    auto manifest = small_manifest();
    manifest.merge_patch(patch);
    return parse_manifest(manifest.dump());
}

}  // namespace

TEST(ppm_and_pgm_are_read) {
    const auto color = parse("P6\n# a comment\n4 2\n255\n" + pixels(24));
    CHECK(color.width == 4 && color.height == 2 && color.channels == 3);
    CHECK(same(color, pixels(24)));
    CHECK(parse("P5 4 2 255 " + pixels(8)).channels == 1);
}

TEST(damaged_ppm_is_refused) {
    const std::string header = "P6\n4 2\n255\n";
    const auto whole = header + pixels(24);
    for (std::size_t length = 0; length < whole.size(); ++length)
        CHECK_ERROR(damaged, "x", parse(whole.substr(0, length)));
    CHECK_ERROR(damaged, "25 bytes of pixels", parse(whole + "."));
    CHECK_ERROR(damaged, "0 x 2", parse("P6 0 2 255 "));
    CHECK_ERROR(damaged, "pixels", parse("P6 4611686018427387904 4 255 "));
    CHECK_ERROR(damaged, "header", parse("P6 99999999999999999999 4 255 "));
    CHECK_ERROR(contract, "maxval 65535", parse("P6 1 1 65535 abcdef"));
    CHECK_ERROR(damaged, "neither a PNG", parse("GIF89a"));
}

TEST(color_and_gray_png_are_read) {
    const auto color = parse(png(PNG_FORMAT_RGB));
    CHECK(color.width == 4 && color.height == 2 && color.channels == 3);
    CHECK(same(color, pixels(24)));
    CHECK(same(parse(png(PNG_FORMAT_GRAY)), pixels(8)));
}

TEST(unsupported_png_is_refused) {
    CHECK_ERROR(contract, "alpha", parse(png(PNG_FORMAT_RGBA)));
    CHECK_ERROR(contract, "16 bits", parse(png(PNG_FORMAT_LINEAR_Y)));
}

TEST(damaged_png_is_refused) {
    const auto whole = png(PNG_FORMAT_RGB);
    for (std::size_t length = 0; length < whole.size(); ++length)
        CHECK_ERROR(damaged, "x", parse(whole.substr(0, length)));
    auto flipped = whole;
    flipped[whole.size() / 2] ^= 0x10;
    CHECK_ERROR(damaged, "x", parse(flipped));
}

TEST(preprocessing_normalizes_and_transposes) {
    const Image image{2, 4, 3, {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,
                                12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23}};
    const auto planes =
        preprocess(manifest_with(nlohmann::json::object()), std::vector{image, image});
    CHECK((planes.shape() == Shape{2, 3, 2, 4}));
    // (pixel * scale - mean) / std, one channel after the other.
    CHECK(planes.floats()[1] == (3 * 0.5F - 1) / 1);
    CHECK(planes.floats()[8] == (1 * 0.5F - 2) / 2);
    CHECK(planes.floats()[24 + 23] == (23 * 0.5F - 3) / 4);

    // Manifests have this layout only for uint8, but the function takes any contract.
    auto last = manifest_with(nlohmann::json::object());
    last.contract.layout = "NHWC";
    last.contract.input.item = {2, 4, 3};
    CHECK(preprocess(last, std::vector{image}).floats()[1] == (1 * 0.5F - 2) / 2);

    const nlohmann::json folded{
        {"contract",
         {{"input", {{"layout", "NHWC"}, {"shape", {"batch", 2, 4, 3}}, {"dtype", "uint8"}}}}},
        {"preprocessing", {{"folded", true}}}};
    const auto stored = preprocess(manifest_with(folded), std::vector{image});
    CHECK(std::ranges::equal(stored.bytes(), image.pixels));
}

TEST(gray_images_are_repeated) {
    const Image gray{2, 4, 1, {0, 1, 2, 3, 4, 5, 6, 7}};
    const auto planes = preprocess(manifest_with(nlohmann::json::object()), std::vector{gray});
    CHECK(planes.floats()[7] == (7 * 0.5F - 1) / 1);
    CHECK(planes.floats()[23] == (7 * 0.5F - 3) / 4);
}

TEST(images_of_wrong_size_are_refused) {
    const Image large{3, 4, 3, std::vector<std::uint8_t>(36)};
    CHECK_ERROR(contract, "an image is 3 x 4 with 3 channels, and the bundle takes 2 x 4",
                preprocess(manifest_with(nlohmann::json::object()), std::vector{large}));
    const Image lying{2, 4, 3, std::vector<std::uint8_t>(5)};
    CHECK_ERROR(contract, "number of pixels",
                preprocess(manifest_with(nlohmann::json::object()), std::vector{lying}));
    CHECK_ERROR(contract, "at least one image",
                preprocess(manifest_with(nlohmann::json::object()), {}));
    const Image image{2, 4, 3, std::vector<std::uint8_t>(24)};
    CHECK_ERROR(contract, "does not say how",
                preprocess(manifest_with({{"preprocessing", nullptr}}), std::vector{image}));
}
