#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace mammoth::test {

inline std::span<const std::byte> bytes_of(std::string_view text) {
    return std::as_bytes(std::span(text.data(), text.size()));
}

/// Returns a .npy file of version 1.0 with a header and values.
inline std::string npy_bytes(const std::string& header, const std::string& values) {
    return std::string("\x93NUMPY\x01\x00", 8) + static_cast<char>(header.size() & 0xff) +
           static_cast<char>(header.size() >> 8) + header + values;
}

inline std::string npy_header(const std::string& descr, const std::string& shape) {
    return "{'descr': '" + descr + "', 'fortran_order': False, 'shape': (" + shape + "), }\n";
}

}  // namespace mammoth::test
