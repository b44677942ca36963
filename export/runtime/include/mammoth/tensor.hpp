// Dense row-major tensors: a view of the caller's memory, and a tensor that owns its values.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "mammoth/api.hpp"

namespace mammoth {

enum class DType { float32, uint8 };

inline constexpr std::array<std::string_view, 2> dtype_names{"float32", "uint8"};

/// Returns the name of `dtype`, as NumPy spells it.
constexpr std::string_view to_string(DType dtype) noexcept {
    return dtype_names[static_cast<std::size_t>(dtype)];
}

/// Returns the bytes per value.
constexpr std::size_t size_of(DType dtype) noexcept {
    return dtype == DType::float32 ? 4 : 1;
}

/// Sizes of the axes, outermost first.
using Shape = std::vector<std::int64_t>;

/// Formats a shape for messages: `[1, 3, 32, 32]`.
MAMMOTH_API std::string to_string(const Shape& shape);

/// Returns the product of the sizes. Throws Error (contract) if a size is negative or it overflows.
MAMMOTH_API std::size_t element_count(const Shape& shape);

/// A view of values that must outlive it. Copies nothing.
class MAMMOTH_API TensorView {
  public:
    /// Throws Error (contract) if the number of values does not match `shape`.
    TensorView(std::span<const float> values, Shape shape);
    TensorView(std::span<const std::uint8_t> values, Shape shape);

    [[nodiscard]] const void* data() const noexcept { return data_; }
    [[nodiscard]] std::size_t size_bytes() const noexcept { return size_bytes_; }
    [[nodiscard]] DType dtype() const noexcept { return dtype_; }
    [[nodiscard]] const Shape& shape() const noexcept { return shape_; }

  private:
    const void* data_;
    std::size_t size_bytes_;
    DType dtype_;
    Shape shape_;
};

/// A tensor that owns its values. A default-constructed one is empty: shape [0], float32.
class MAMMOTH_API Tensor {
  public:
    Tensor() : Tensor(std::vector<float>{}, {0}) {}

    /// Throws Error (contract) if the number of values does not match `shape`.
    Tensor(std::vector<float> values, Shape shape);
    Tensor(std::vector<std::uint8_t> values, Shape shape);

    [[nodiscard]] DType dtype() const noexcept;
    [[nodiscard]] const Shape& shape() const noexcept { return shape_; }
    [[nodiscard]] bool empty() const noexcept;

    /// Returns the values. Throws Error (contract) if they have the other dtype.
    [[nodiscard]] std::span<const float> floats() const;
    [[nodiscard]] std::span<float> floats();
    [[nodiscard]] std::span<const std::uint8_t> bytes() const;

    /// Returns a view, valid until this tensor is destroyed or assigned to.
    [[nodiscard]] TensorView view() const;

  private:
    std::variant<std::vector<float>, std::vector<std::uint8_t>> values_;
    Shape shape_;
};

}  // namespace mammoth
