// What a backend implements. The module with libtorch is loaded at run time and includes only this
// and the public headers.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "mammoth/bundle.hpp"

namespace mammoth::detail {

/// One output asked for: memory for exactly the values of `shape`.
struct OutputView {
    const char* name;
    std::span<float> values;
    Shape shape;
};

/// A file of a bundle whose hash was compared; valid while load runs.
struct ModelSource {
    const Contract& contract;
    const BundleFile& file;
    const std::filesystem::path& path;
    std::span<const std::byte> bytes;
};

/// A loaded model file. All members may be called from many threads at once.
class Program {
  public:
    virtual ~Program() = default;

    /// Loads what answers `type`, where that is more than loading the file.
    virtual void prepare(ReturnType type) = 0;

    /// Runs on an input that fits the contract, after prepare. Throws Error (backend).
    virtual void run(const TensorView& input, ReturnType type,
                     std::span<const OutputView> outputs) const = 0;

    /// See Bundle::bare_call.
    [[nodiscard]] virtual std::function<void()> bare_call(
        const TensorView& input, ReturnType type, std::span<const OutputView> outputs) const = 0;
};

/// A backend whose library is loaded.
class Engine {
  public:
    virtual ~Engine() = default;

    /// Version of the library.
    [[nodiscard]] virtual std::string version() const = 0;

    /// Throws Error: damaged if the file is not what its format says or not of the contract.
    [[nodiscard]] virtual std::unique_ptr<Program> load(const ModelSource& source) = 0;
};

/// What the module exports under the name below, whose number changes with the classes above: makes
/// the engine of a backend.
using MakeTorchEngine = void(Backend backend, unsigned threads, std::unique_ptr<Engine>& engine);
inline constexpr const char* torch_engine_symbol = "mammoth_torch_engine_1";

/// Throws Error (backend) if the library is not found.
std::unique_ptr<Engine> make_onnx_engine(const Options& options);
std::unique_ptr<Engine> make_torch_engine(Backend backend, const Options& options);

}  // namespace mammoth::detail
