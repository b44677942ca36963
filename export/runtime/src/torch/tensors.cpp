#include "tensors.hpp"

#include <algorithm>

namespace mammoth::detail {

at::Tensor to_tensor(const TensorView& view) {
    const auto dtype = view.dtype() == DType::float32 ? at::kFloat : at::kByte;
    return at::from_blob(const_cast<void*>(view.data()), view.shape(), dtype);
}

void copy_outputs(const std::vector<at::Tensor>& tensors, std::span<const OutputView> outputs) {
    const bool fits =
        std::ranges::equal(tensors, outputs, [](const auto& tensor, const auto& view) {
            return tensor.sizes() == at::IntArrayRef(view.shape);
        });
    if (!fits)
        throw Error(ErrorCode::backend, "the model returns other shapes than manifest.json says");
    for (std::size_t i = 0; i < outputs.size(); ++i)
        at::from_blob(outputs[i].values.data(), outputs[i].shape, at::kFloat).copy_(tensors[i]);
}

}  // namespace mammoth::detail
