// The one function that libmammoth_torch.so exports.
#include <ATen/Parallel.h>

#include "tensors.hpp"

extern "C" MAMMOTH_API void mammoth_torch_engine_1(
    mammoth::Backend backend, unsigned threads, std::unique_ptr<mammoth::detail::Engine>& engine) {
    using namespace mammoth::detail;
    static_assert(std::is_same_v<MakeTorchEngine, decltype(mammoth_torch_engine_1)>);
    if (threads > 0) at::set_num_threads(static_cast<int>(threads));
    engine = backend == mammoth::Backend::aoti ? make_aoti_engine() : make_torchscript_engine();
}
