// The ReturnTypes contract of mammoth_compiled in C++: what a backbone can return, and the names of
// the corresponding outputs of an exported model.
#pragma once

#include <array>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace mammoth {

enum class ReturnType { out, features, both };

inline constexpr std::array<std::string_view, 3> return_type_names{"out", "features", "both"};

/// Returns the name of `type`, as Python's ReturnTypes spells it.
constexpr std::string_view to_string(ReturnType type) noexcept {
    return return_type_names[static_cast<std::size_t>(type)];
}

/// Parses a name. Throws std::invalid_argument, which lists the valid names.
inline ReturnType parse_return_type(std::string_view name) {
    for (std::size_t i = 0; i < return_type_names.size(); ++i)
        if (return_type_names[i] == name) return static_cast<ReturnType>(i);
    throw std::invalid_argument("unknown return type '" + std::string(name) +
                                "'; valid: out, features, both");
}

/// Returns the outputs of a model that `type` consists of, in the order in which Python returns
/// them.
inline std::vector<std::string> output_names(ReturnType type) {
    if (type == ReturnType::both) return {"out", "features"};
    return {std::string(to_string(type))};
}

}  // namespace mammoth
