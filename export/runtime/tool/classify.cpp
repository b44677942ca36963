#include "classify.hpp"

#include <algorithm>
#include <compare>
#include <numeric>

#include "mammoth/image.hpp"

namespace mammoth::tool {
namespace {

/// Splits an array uint8 [H, W, C] or [B, H, W, C] into images.
std::vector<Image> images_of(const Tensor& array) {
    Shape shape = array.shape();
    if (shape.size() == 3) shape.insert(shape.begin(), 1);
    if (shape.size() != 4)
        throw Error(ErrorCode::contract,
                    "an array of images must be uint8 [H, W, C] or "
                    "[B, H, W, C], not " +
                        to_string(array.shape()));
    const auto size = element_count({shape[1], shape[2], shape[3]});
    std::vector<Image> images;
    for (auto rest = array.bytes(); !rest.empty(); rest = rest.subspan(size)) {
        const auto pixels = rest.first(size);
        images.push_back({shape[1], shape[2], shape[3], {pixels.begin(), pixels.end()}});
    }
    return images;
}

/// Adds the batch axis to a single input item.
Tensor with_batch_axis(Tensor input, const Contract& contract) {
    if (input.shape() != contract.input.item) return input;
    Shape shape = input.shape();
    shape.insert(shape.begin(), 1);
    const auto values = input.floats();
    return {std::vector<float>(values.begin(), values.end()), shape};
}

Tensor read_input(const Manifest& manifest, const std::filesystem::path& file) {
    if (file.extension() != ".npy") return preprocess(manifest, std::vector{read_image(file)});
    auto array = read_npy(file);
    if (array.dtype() == DType::uint8) return preprocess(manifest, images_of(array));
    return with_batch_axis(std::move(array), manifest.contract);
}

std::vector<Score> best(std::span<const float> scores, const Classes& classes, std::size_t top) {
    std::vector<std::size_t> order(scores.size());
    std::iota(order.begin(), order.end(), 0);
    top = std::min(top, order.size());
    std::ranges::partial_sort(order, order.begin() + static_cast<std::ptrdiff_t>(top),
                              [&](auto a, auto b) {  // a valid order even if a score is NaN
                                  return std::weak_order(scores[a], scores[b]) > 0;
                              });
    std::vector<Score> result;
    for (std::size_t i = 0; i < top; ++i) {
        const auto column = order[i];
        result.push_back({classes.ids[column],
                          classes.names.empty() ? std::string() : classes.names[column],
                          scores[column]});
    }
    return result;
}

/// Returns the values of image `index` in [batch, ...].
std::span<const float> row(const Tensor& tensor, std::size_t index) {
    const auto width = tensor.floats().size() / static_cast<std::size_t>(tensor.shape().front());
    return tensor.floats().subspan(index * width, width);
}

}  // namespace

std::vector<Answer> classify(const Bundle& bundle, const std::filesystem::path& file,
                             ReturnType type, std::size_t top) {
    const auto input = read_input(bundle.manifest(), file);
    const auto outputs = bundle.run(input.view(), type);
    std::vector<Answer> answers;
    for (std::size_t i = 0; i < static_cast<std::size_t>(input.shape().front()); ++i) {
        Answer answer{file, i, {}, {}};
        if (!outputs.out.empty())
            answer.top = best(row(outputs.out, i), bundle.manifest().classes, top);
        if (!outputs.features.empty()) {
            const auto values = row(outputs.features, i);
            answer.features.emplace(values.begin(), values.end());
        }
        answers.push_back(std::move(answer));
    }
    return answers;
}

}  // namespace mammoth::tool
