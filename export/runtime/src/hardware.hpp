#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "mammoth/manifest.hpp"

namespace mammoth::detail {

/// Returns why this machine cannot run a compiled package, or nothing if it can.
/// `torch` is the version of the libtorch to run it with.
std::optional<std::string> why_not(const Requirements& required, std::string_view torch);

}  // namespace mammoth::detail
