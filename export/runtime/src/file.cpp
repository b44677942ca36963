#include "file.hpp"

#include <fstream>
#include <system_error>

#include "mammoth/error.hpp"

namespace mammoth::detail {

std::vector<std::byte> read_file(const std::filesystem::path& path, std::uintmax_t limit) {
    std::error_code error;
    // Opening a named pipe would block until there is a writer.
    if (!std::filesystem::is_regular_file(path, error))
        throw Error(ErrorCode::missing, "there is no file " + path.string());
    const auto size = std::filesystem::file_size(path, error);
    std::ifstream stream(path, std::ios::binary);
    if (error || !stream)
        throw Error(ErrorCode::missing, path.string() + " cannot be opened for reading");
    if (size > limit)
        throw Error(ErrorCode::damaged, path.string() + " has " + std::to_string(size) +
                                            " bytes; the limit is " + std::to_string(limit));
    std::vector<std::byte> bytes(size);
    stream.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size));
    if (static_cast<std::uintmax_t>(stream.gcount()) != size)
        throw Error(ErrorCode::damaged, path.string() + " ended while it was read");
    return bytes;
}

}  // namespace mammoth::detail
