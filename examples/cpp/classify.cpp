// usage: classify BUNDLE [onnx|aoti|torchscript]
// Runs a bundle on its golden input and prints the best class of every image.
#include <algorithm>
#include <iostream>

#include "mammoth/bundle.hpp"
#include "mammoth/image.hpp"

int main(int count, char** words) try {
    if (count < 2) {
        std::cerr << "usage: classify BUNDLE [onnx|aoti|torchscript]\n";
        return 2;
    }
    const std::filesystem::path path = words[1];
    const auto backend = mammoth::parse_backend(count > 2 ? words[2] : "onnx");
    mammoth::Options options;
    if (backend != mammoth::Backend::onnx) options.library = TORCH_MODULE;
    const auto bundle = mammoth::Bundle::open(path, backend, options);

    const auto& manifest = bundle.manifest();
    if (!manifest.golden) throw std::runtime_error("this bundle has no golden input");
    const auto input = mammoth::read_npy(path / manifest.golden->input);
    const auto answer = bundle.run(input.view(), mammoth::ReturnType::both);

    const auto logits = answer.out.floats();
    const auto classes = manifest.classes.ids.size();
    for (std::size_t start = 0; start < logits.size(); start += classes) {
        const auto row = logits.subspan(start, classes);
        const auto best = static_cast<std::size_t>(std::ranges::max_element(row) - row.begin());
        std::cout << "class " << manifest.classes.ids[best];
        if (!manifest.classes.names.empty())
            std::cout << " (" << manifest.classes.names[best] << ')';
        std::cout << ", logit " << row[best] << '\n';
    }
    std::cout << "features: " << mammoth::to_string(answer.features.shape()) << '\n';
    return 0;
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 2;
}
