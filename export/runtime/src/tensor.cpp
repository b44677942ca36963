#include "mammoth/tensor.hpp"

#include <limits>

#include "mammoth/error.hpp"

namespace mammoth {
namespace {

void check_count(std::size_t count, const Shape& shape) {
    if (count != element_count(shape))
        throw Error(ErrorCode::contract,
                    std::to_string(count) + " values do not fill the shape " + to_string(shape));
}

}  // namespace

std::string to_string(const Shape& shape) {
    std::string text = "[";
    for (std::size_t i = 0; i < shape.size(); ++i)
        text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
    return text + "]";
}

std::size_t element_count(const Shape& shape) {
    constexpr auto largest = std::numeric_limits<std::int64_t>::max() / 8;
    std::int64_t count = 1;
    for (const auto size : shape) {
        if (size < 0 || (size > 0 && count > largest / size))
            throw Error(ErrorCode::contract,
                        "the shape " + to_string(shape) + " has a negative size or is too large");
        count *= size;
    }
    return static_cast<std::size_t>(count);
}

TensorView::TensorView(std::span<const float> values, Shape shape)
    : data_(values.data()),
      size_bytes_(values.size_bytes()),
      dtype_(DType::float32),
      shape_(std::move(shape)) {
    check_count(values.size(), shape_);
}

TensorView::TensorView(std::span<const std::uint8_t> values, Shape shape)
    : data_(values.data()),
      size_bytes_(values.size_bytes()),
      dtype_(DType::uint8),
      shape_(std::move(shape)) {
    check_count(values.size(), shape_);
}

Tensor::Tensor(std::vector<float> values, Shape shape)
    : values_(std::move(values)), shape_(std::move(shape)) {
    check_count(floats().size(), shape_);
}

Tensor::Tensor(std::vector<std::uint8_t> values, Shape shape)
    : values_(std::move(values)), shape_(std::move(shape)) {
    check_count(bytes().size(), shape_);
}

DType Tensor::dtype() const noexcept {
    return std::holds_alternative<std::vector<float>>(values_) ? DType::float32 : DType::uint8;
}

bool Tensor::empty() const noexcept {
    return std::visit([](const auto& values) { return values.empty(); }, values_);
}

std::span<const float> Tensor::floats() const {
    if (const auto* values = std::get_if<std::vector<float>>(&values_)) return *values;
    throw Error(ErrorCode::contract, "the values are uint8, not float32");
}

std::span<float> Tensor::floats() {
    if (auto* values = std::get_if<std::vector<float>>(&values_)) return *values;
    throw Error(ErrorCode::contract, "the values are uint8, not float32");
}

std::span<const std::uint8_t> Tensor::bytes() const {
    if (const auto* values = std::get_if<std::vector<std::uint8_t>>(&values_)) return *values;
    throw Error(ErrorCode::contract, "the values are float32, not uint8");
}

TensorView Tensor::view() const {
    if (dtype() == DType::float32) return {floats(), shape_};
    return {bytes(), shape_};
}

}  // namespace mammoth
