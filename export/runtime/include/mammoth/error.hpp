// The exception that the runtime throws if a bundle, an input or the machine is unsuitable.
#pragma once

#include <array>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>

#include "mammoth/api.hpp"

namespace mammoth {

/// The kind of an error, with the names of Python's ExportError.code.
enum class ErrorCode {
    missing,   ///< a bundle, manifest or file does not exist
    damaged,   ///< truncated, not valid in its format, or with another hash than in the manifest
    schema,    ///< the manifest has a later schema than this reader supports
    path,      ///< a path in the manifest leaves the bundle
    contract,  ///< unknown or unsupported return type, wrong shape or dtype of an input
    hardware,  ///< the package is for another instruction set, GPU or libtorch
    backend,   ///< the backend's library is missing or fails
};

inline constexpr std::array<std::string_view, 7> error_code_names{
    "missing", "damaged", "schema", "path", "contract", "hardware", "backend"};

/// Returns the name of `code`, as Python spells it.
constexpr std::string_view to_string(ErrorCode code) noexcept {
    return error_code_names[static_cast<std::size_t>(code)];
}

/// The only exception that the runtime itself throws; what() says what, where and the remedy.
class MAMMOTH_API Error : public std::runtime_error {
  public:
    Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}

    [[nodiscard]] ErrorCode code() const noexcept { return code_; }

  private:
    ErrorCode code_;
};

}  // namespace mammoth
