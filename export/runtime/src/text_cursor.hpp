// A tokenizer for the textual headers of .npy and PPM files.
#pragma once

#include <cctype>
#include <charconv>
#include <cstdint>
#include <optional>
#include <string_view>
#include <system_error>

namespace mammoth::detail {

class TextCursor {
  public:
    explicit TextCursor(std::string_view text) : text_(text) {}

    [[nodiscard]] std::string_view rest() const noexcept { return text_; }
    [[nodiscard]] bool at_end() const noexcept { return text_.empty(); }

    void skip_space() {
        while (!text_.empty() && std::isspace(static_cast<unsigned char>(text_.front())))
            text_.remove_prefix(1);
    }

    /// Returns the text before the next `end` and skips both; without one, returns all that is
    /// left.
    std::string_view until(char end) {
        const auto found = text_.find(end);
        const auto result = text_.substr(0, found);
        text_.remove_prefix(found == std::string_view::npos ? text_.size() : found + 1);
        return result;
    }

    /// Skips `token` and returns true if the text starts with it.
    bool take(std::string_view token) {
        if (!text_.starts_with(token)) return false;
        text_.remove_prefix(token.size());
        return true;
    }

    /// Reads a decimal number; returns nothing if there is none or it does not fit.
    std::optional<std::int64_t> number() {
        std::int64_t value = 0;
        const auto* end = text_.data() + text_.size();
        if (text_.empty() || !std::isdigit(static_cast<unsigned char>(text_.front()))) return {};
        const auto [stop, error] = std::from_chars(text_.data(), end, value);
        if (error != std::errc()) return {};
        text_.remove_prefix(static_cast<std::size_t>(stop - text_.data()));
        return value;
    }

  private:
    std::string_view text_;
};

}  // namespace mammoth::detail
