// The .npy format, version 1.0: magic, version, header length, a Python dict literal, values.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string_view>

#include "file.hpp"
#include "mammoth/error.hpp"
#include "mammoth/image.hpp"
#include "text_cursor.hpp"

namespace mammoth {
namespace {

static_assert(std::endian::native == std::endian::little,
              "values are copied from the file without swapping bytes");

constexpr std::array magic{std::byte{0x93}, std::byte{'N'}, std::byte{'U'},
                           std::byte{'M'},  std::byte{'P'}, std::byte{'Y'}};
constexpr std::size_t prefix_size = magic.size() + 4;

struct Header {
    std::string_view descr;
    std::string_view fortran_order;
    std::optional<Shape> shape;
};

std::optional<Shape> read_shape(std::string_view tuple) {
    detail::TextCursor cursor(tuple);
    Shape shape;
    for (cursor.skip_space(); !cursor.at_end(); cursor.skip_space()) {
        const auto size = cursor.number();
        cursor.skip_space();
        if (!size || (!cursor.take(",") && !cursor.at_end())) return {};
        shape.push_back(*size);
    }
    return shape;
}

/// Parses {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }, with keys in any order.
std::optional<Header> read_header(std::string_view text) {
    detail::TextCursor cursor(text);
    Header header;
    if (!cursor.take("{")) return {};
    for (cursor.skip_space(); !cursor.take("}"); cursor.skip_space()) {
        if (!cursor.take("'")) return {};
        const auto key = cursor.until('\'');
        cursor.skip_space();
        if (!cursor.take(":")) return {};
        cursor.skip_space();
        if (key == "descr" && cursor.take("'")) {
            header.descr = cursor.until('\'');
        } else if (key == "fortran_order") {
            header.fortran_order = cursor.take("False") ? "False" : "True";
            if (header.fortran_order == "True" && !cursor.take("True")) return {};
        } else if (key == "shape" && cursor.take("(")) {
            header.shape = read_shape(cursor.until(')'));
        } else {
            return {};
        }
        cursor.skip_space();
        if (!cursor.take(",") && !cursor.rest().starts_with('}')) return {};
    }
    cursor.skip_space();
    if (!cursor.at_end() || header.descr.empty() || header.fortran_order.empty() || !header.shape)
        return {};
    return header;
}

template <class Value>
Tensor read_values(std::span<const std::byte> data, const Shape& shape, const std::string& name) {
    // Checked before memory is allocated, because the header may claim any size.
    if (data.size() % sizeof(Value) != 0 || data.size() / sizeof(Value) != element_count(shape))
        throw Error(ErrorCode::damaged, name + " holds " + std::to_string(data.size()) +
                                            " bytes of values, which is not what its shape " +
                                            to_string(shape) + " needs");
    std::vector<Value> values(data.size() / sizeof(Value));
    if (!values.empty()) std::memcpy(values.data(), data.data(), data.size());
    return {std::move(values), shape};
}

}  // namespace

Tensor parse_npy(std::span<const std::byte> data, const std::string& name) {
    if (data.size() < prefix_size || !std::ranges::equal(data.first(magic.size()), magic))
        throw Error(ErrorCode::damaged, name + " is not a .npy file or is truncated");
    if (data[6] != std::byte{1} || data[7] != std::byte{0})
        throw Error(ErrorCode::contract,
                    name + " is not of .npy version 1.0; numpy.save writes that");
    const auto length =
        std::to_integer<std::size_t>(data[8]) | std::to_integer<std::size_t>(data[9]) << 8;
    if (data.size() - prefix_size < length) throw Error(ErrorCode::damaged, name + " is truncated");
    const auto* text = reinterpret_cast<const char*>(data.data() + prefix_size);
    const auto header = read_header({text, length});
    if (!header) throw Error(ErrorCode::damaged, name + " has a header that cannot be read");
    if (header->fortran_order == "True")
        throw Error(ErrorCode::contract,
                    name + " is in Fortran order; save numpy.ascontiguousarray(x)");

    const auto values = data.subspan(prefix_size + length);
    if (header->descr == "<f4") return read_values<float>(values, *header->shape, name);
    if (header->descr == "|u1") return read_values<std::uint8_t>(values, *header->shape, name);
    throw Error(ErrorCode::contract, name + " holds dtype '" + std::string(header->descr) +
                                         "'; valid: '<f4' (float32), '|u1' (uint8)");
}

Tensor read_npy(const std::filesystem::path& file) {
    return parse_npy(detail::read_file(file), file.string());
}

}  // namespace mammoth
