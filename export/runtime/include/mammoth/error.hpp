// What every function of the runtime throws when a bundle, an input or the machine is not right.
#pragma once

#include <array>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>

#include "mammoth/api.hpp"

namespace mammoth {

/// What went wrong; the names are those of Python's ExportError.code.
enum class ErrorCode {
    missing,   ///< no bundle, no manifest, or a file is not there
    damaged,   ///< truncated, not what its format says, or another hash than the manifest's
    schema,    ///< the manifest is of a later schema than this reader's
    path,      ///< a path in the manifest leaves the bundle
    contract,  ///< unknown or absent return type, wrong shape or dtype of an input
    hardware,  ///< a package for another instruction set, GPU or libtorch
    backend,   ///< the backend's library is not there, or fails
};

inline constexpr std::array<std::string_view, 7> error_code_names{
    "missing", "damaged", "schema", "path", "contract", "hardware", "backend"};

/// The name of `code`, as Python spells it.
constexpr std::string_view to_string(ErrorCode code) noexcept {
    return error_code_names[static_cast<std::size_t>(code)];
}

/// The only exception the runtime throws on its own account; what() says what, where and a remedy.
class MAMMOTH_API Error : public std::runtime_error {
  public:
    Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}

    [[nodiscard]] ErrorCode code() const noexcept { return code_; }

  private:
    ErrorCode code_;
};

}  // namespace mammoth
