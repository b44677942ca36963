// Fields that several parts of a manifest share, and the entries of its files.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "json_reader.hpp"
#include "mammoth/manifest.hpp"

namespace mammoth::detail {

inline constexpr std::int64_t largest_id = std::int64_t{1} << 53;  // exact in every JSON parser

template <class Range, class Value>
bool contains(const Range& range, const Value& value) {
    return std::ranges::find(range, value) != std::ranges::end(range);
}

std::string read_string(const JsonReader& reader);

/// Reads a string that must be one of `valid`.
std::string read_choice(const JsonReader& reader, std::initializer_list<std::string_view> valid);

/// Reads a path that stays inside the bundle.
std::string read_path(const JsonReader& reader);

/// Reads the entry of a file.
BundleFile read_bundle_file(const JsonReader& reader, const Contract& contract);

}  // namespace mammoth::detail
