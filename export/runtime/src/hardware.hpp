#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "mammoth/manifest.hpp"

namespace mammoth::detail {

/// Why this machine cannot run a compiled package; nothing if it can.
/// `torch` is the version of the libtorch that would run it.
std::optional<std::string> why_not(const Requirements& required, std::string_view torch);

}  // namespace mammoth::detail
