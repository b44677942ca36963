#include "png.hpp"

#include <png.h>

#include <csetjmp>
#include <cstring>
#include <vector>

#include "mammoth/error.hpp"

namespace mammoth::detail {
namespace {

struct Source {
    std::span<const std::byte> rest;
    std::string error;
};

void read_bytes(png_structp png, png_bytep target, std::size_t count) {
    auto& source = *static_cast<Source*>(png_get_io_ptr(png));
    if (count > source.rest.size()) png_error(png, "the file is truncated");
    std::memcpy(target, source.rest.data(), count);
    source.rest = source.rest.subspan(count);
}

void on_error(png_structp png, png_const_charp message) {
    static_cast<Source*>(png_get_error_ptr(png))->error = message;
    png_longjmp(png, 1);
}

void on_warning(png_structp, png_const_charp) {}

/// Owns the two structures of libpng.
class Decoder {
  public:
    explicit Decoder(Source& source)
        : png_(png_create_read_struct(PNG_LIBPNG_VER_STRING, &source, on_error, on_warning)),
          info_(png_ == nullptr ? nullptr : png_create_info_struct(png_)) {
        if (info_ == nullptr) {
            png_destroy_read_struct(&png_, nullptr, nullptr);
            throw Error(ErrorCode::backend, "libpng cannot be started");
        }
        png_set_read_fn(png_, &source, read_bytes);
        png_set_user_limits(png_, largest_side, largest_side);
        png_set_crc_action(png_, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    }
    Decoder(const Decoder&) = delete;
    Decoder& operator=(const Decoder&) = delete;
    ~Decoder() { png_destroy_read_struct(&png_, &info_, nullptr); }

    // libpng reports errors with longjmp into these functions, so they own no objects.

    [[nodiscard]] bool read_header() {
        if (setjmp(png_jmpbuf(png_)) != 0) return false;
        png_read_info(png_, info_);
        return true;
    }

    [[nodiscard]] bool read_pixels(png_bytep* rows) {
        if (setjmp(png_jmpbuf(png_)) != 0) return false;
        png_read_image(png_, rows);
        png_read_end(png_, nullptr);
        return true;
    }

    /// Expands palettes to colors and low gray depths to bytes; sets the number of bytes per row.
    [[nodiscard]] bool expand(std::size_t& row_bytes) {
        if (setjmp(png_jmpbuf(png_)) != 0) return false;
        png_set_expand(png_);
        png_set_interlace_handling(png_);
        png_read_update_info(png_, info_);
        row_bytes = png_get_rowbytes(png_, info_);
        return true;
    }

    [[nodiscard]] std::int64_t width() const { return png_get_image_width(png_, info_); }
    [[nodiscard]] std::int64_t height() const { return png_get_image_height(png_, info_); }
    [[nodiscard]] int channels() const { return png_get_channels(png_, info_); }
    [[nodiscard]] int depth() const { return png_get_bit_depth(png_, info_); }
    [[nodiscard]] bool transparent() const {
        return (png_get_color_type(png_, info_) & PNG_COLOR_MASK_ALPHA) != 0 ||
               png_get_valid(png_, info_, PNG_INFO_tRNS) != 0;
    }

  private:
    png_structp png_;
    png_infop info_;
};

}  // namespace

Image parse_png(std::span<const std::byte> data, const std::string& name) {
    Source source{data, {}};
    Decoder decoder(source);
    const auto require = [&](bool ok) {
        if (!ok) throw Error(ErrorCode::damaged, name + " is a damaged PNG: " + source.error);
    };
    require(decoder.read_header());
    if (decoder.transparent() || decoder.depth() > 8)
        throw Error(ErrorCode::contract,
                    name +
                        (decoder.transparent() ? " has an alpha channel or transparency"
                                               : " has 16 bits per channel") +
                        "; save it with 8 bits per channel, gray or RGB");
    std::size_t row_bytes = 0;
    require(decoder.expand(row_bytes));
    Image image{.height = decoder.height(),
                .width = decoder.width(),
                .channels = decoder.channels(),
                .pixels = {}};
    const auto height = static_cast<std::size_t>(image.height);
    image.pixels.resize(row_bytes * height);
    std::vector<png_bytep> rows(height);
    for (std::size_t row = 0; row < height; ++row)
        rows[row] = image.pixels.data() + row * row_bytes;
    require(decoder.read_pixels(rows.data()));
    return image;
}

}  // namespace mammoth::detail
