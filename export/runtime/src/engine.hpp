// The interface that a backend implements. The module with libtorch, which is loaded at run time,
// includes only this and the public headers.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "mammoth/bundle.hpp"

namespace mammoth::detail {

/// A requested output: memory for exactly the values of `shape`.
struct OutputView {
    const char* name;
    std::span<float> values;
    Shape shape;
};

/// A verified file of a bundle; valid during load.
struct ModelSource {
    const Contract& contract;
    const BundleFile& file;
    const std::filesystem::path& path;
    std::span<const std::byte> bytes;
};

/// A loaded model file. All members are safe to call from several threads at once.
class Program {
  public:
    virtual ~Program() = default;

    /// Loads the entry for `type`, if loading the file did not load it.
    virtual void prepare(ReturnType type) = 0;

    /// Runs on an input that matches the contract, after prepare. Throws Error (backend).
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

    /// Returns the version of the library.
    [[nodiscard]] virtual std::string version() const = 0;

    /// Throws Error: damaged, if the file is not valid in its format or does not match the
    /// contract.
    [[nodiscard]] virtual std::unique_ptr<Program> load(const ModelSource& source) = 0;
};

/// The function that the module exports, which creates the engine of a backend. The number in its
/// name must change with the classes above.
using MakeTorchEngine = void(Backend backend, unsigned threads, std::unique_ptr<Engine>& engine);
inline constexpr const char* torch_engine_symbol = "mammoth_torch_engine_1";

/// Throws Error (backend) if the library is not found.
std::unique_ptr<Engine> make_onnx_engine(const Options& options);
std::unique_ptr<Engine> make_torch_engine(Backend backend, const Options& options);

}  // namespace mammoth::detail
