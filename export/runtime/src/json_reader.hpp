// Typed access to JSON, with errors that name the location in the document.
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "mammoth/error.hpp"

namespace mammoth::detail {

/// A value in a JSON document and the path to it. Every member throws Error (damaged).
class JsonReader {
  public:
    JsonReader(const nlohmann::json& value, std::string where)
        : value_(&value), where_(std::move(where)) {}

    [[noreturn]] void fail(const std::string& wanted) const {
        throw Error(ErrorCode::damaged, "manifest.json: " + where_ + " must be " + wanted);
    }

    [[nodiscard]] const std::string& where() const noexcept { return where_; }
    [[nodiscard]] std::size_t size() const noexcept { return value_->size(); }

    [[nodiscard]] bool has(const char* key) const {
        if (!value_->is_object()) fail("an object");
        return value_->contains(key);
    }

    [[nodiscard]] JsonReader at(const char* key) const {
        const auto name = where_.empty() ? std::string(key) : where_ + "." + key;
        if (!has(key)) JsonReader(*value_, name).fail("there");
        return {(*value_)[key], name};
    }

    [[nodiscard]] std::string string() const {
        if (!value_->is_string()) fail("a string");
        return value_->get<std::string>();
    }

    /// Returns the value of `key`, or nothing if the key is absent or null.
    [[nodiscard]] std::optional<JsonReader> find(const char* key) const {
        if (!has(key) || (*value_)[key].is_null()) return std::nullopt;
        return at(key);
    }

    /// Returns the string of `key`, or an empty one if the key is absent or null.
    [[nodiscard]] std::string optional_string(const char* key) const {
        const auto found = find(key);
        return found ? found->string() : std::string();
    }

    [[nodiscard]] bool boolean() const {
        if (!value_->is_boolean()) fail("true or false");
        return value_->get<bool>();
    }

    [[nodiscard]] std::int64_t integer(std::int64_t least, std::int64_t most) const {
        const bool fits =
            value_->is_number_integer() &&
            (!value_->is_number_unsigned() ||
             value_->get<std::uint64_t>() <= std::numeric_limits<std::int64_t>::max()) &&
            value_->get<std::int64_t>() >= least && value_->get<std::int64_t>() <= most;
        if (!fits) fail("an integer from " + std::to_string(least) + " to " + std::to_string(most));
        return value_->get<std::int64_t>();
    }

    /// Returns a finite number that fits float32.
    [[nodiscard]] float number() const {
        if (!value_->is_number() ||
            !(std::abs(value_->get<double>()) <= std::numeric_limits<float>::max()))
            fail("a finite number");
        return static_cast<float>(value_->get<double>());
    }

    /// Returns a number that is not negative.
    [[nodiscard]] float magnitude() const {
        const auto value = number();
        if (value < 0) fail("a number that is not negative");
        return value;
    }

    /// Returns a number that is positive as float32, in which tiny numbers are zeros.
    [[nodiscard]] float positive() const {
        const auto value = number();
        if (!(value > 0)) fail("positive, not zero");
        return value;
    }

    /// Returns the elements of an array.
    [[nodiscard]] std::vector<JsonReader> elements() const {
        if (!value_->is_array()) fail("an array");
        std::vector<JsonReader> result;
        for (std::size_t i = 0; i < value_->size(); ++i)
            result.emplace_back((*value_)[i], where_ + "[" + std::to_string(i) + "]");
        return result;
    }

    /// Returns the results of `read` for the elements of an array.
    template <std::invocable<const JsonReader&> Read>
    [[nodiscard]] auto list(Read read) const {
        std::vector<decltype(read(*this))> result;
        for (const auto& element : elements()) result.push_back(read(element));
        return result;
    }

    /// Calls `visit(key, reader)` for every member of an object.
    template <class Visit>
    void members(Visit visit) const {
        if (!value_->is_object()) fail("an object");
        for (const auto& [key, value] : value_->items())
            visit(key, JsonReader(value, where_ + "." + key));
    }

  private:
    const nlohmann::json* value_;
    std::string where_;
};

}  // namespace mammoth::detail
