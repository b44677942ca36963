#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

namespace mammoth::detail {

/// Reads a regular file. Throws Error: missing; damaged if it has more than `limit` bytes.
std::vector<std::byte> read_file(const std::filesystem::path& path,
                                 std::uintmax_t limit = UINTMAX_MAX);

}  // namespace mammoth::detail
