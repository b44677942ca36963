// Loads libmammoth_torch.so on demand, so that libtorch is loaded only if it is needed.
#include "engine.hpp"
#include "mammoth/error.hpp"
#include "shared_library.hpp"

namespace mammoth::detail {

std::unique_ptr<Engine> make_torch_engine(Backend backend, const Options& options) {
    // Next to the runtime in a build or install tree, then at the configured install location.
    const std::string name = "libmammoth_torch.so";
    const auto own = SharedLibrary::own_path().parent_path();
    const auto library = SharedLibrary::find(
        {.what = "the module of the backend " + std::string(to_string(backend)) + ", " + name + ",",
         .given = options.library,
         .variable = "MAMMOTH_TORCH_MODULE",
         .usual = {own / "mammoth" / name, own / ".." / MAMMOTH_LIBDIR / "mammoth" / name,
                   std::filesystem::path(MAMMOTH_FULL_LIBDIR) / "mammoth" / name},
         .remedy = "Build the runtime with -DMAMMOTH_PYTHON=PYTHON, a Python that has torch"});
    std::unique_ptr<Engine> engine;
    library.symbol<MakeTorchEngine>(torch_engine_symbol)(backend, options.threads, engine);
    return engine;
}

}  // namespace mammoth::detail
