// Runs an exported bundle.
//
//     auto bundle = mammoth::Bundle::open("exported/resnet18");
//     mammoth::Outputs outputs = bundle.run({pixels, {1, 3, 32, 32}}, mammoth::ReturnType::both);
//     outputs.out.floats();       // [1, classes]
//     outputs.features.floats();  // [1, width]
#pragma once

#include <array>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "mammoth/api.hpp"
#include "mammoth/error.hpp"
#include "mammoth/manifest.hpp"
#include "mammoth/return_type.hpp"
#include "mammoth/tensor.hpp"

namespace mammoth {

/// The library that runs a model. `onnx` is always available and loads ONNX Runtime when a bundle
/// is opened. `aoti` and `torchscript` are in the module libmammoth_torch.so, loaded on demand.
enum class Backend { onnx, aoti, torchscript };

inline constexpr std::array<std::string_view, 3> backend_names{"onnx", "aoti", "torchscript"};

/// Returns the name of `backend`, which is also the format of its files in the manifest.
constexpr std::string_view to_string(Backend backend) noexcept {
    return backend_names[static_cast<std::size_t>(backend)];
}

/// Parses a name. Throws Error (contract), which lists the valid names.
MAMMOTH_API Backend parse_backend(std::string_view name);

struct Options {
    /// Precision of the model: fp32, fp16 or int8.
    std::string precision = "fp32";
    /// Threads per run; 0 takes the backend's default. libtorch has one setting per process.
    unsigned threads = 0;
    /// The backend's library: ONNX Runtime or libmammoth_torch.so. If empty, the environment
    /// variable MAMMOTH_ONNXRUNTIME or MAMMOTH_TORCH_MODULE, then the usual locations.
    std::filesystem::path library{};
};

/// The requested outputs; the others are empty.
struct Outputs {
    Tensor out;       ///< float32 [batch, classes]
    Tensor features;  ///< float32 [batch, width]
};

/// Memory of the caller for the outputs, exactly batch times width values each. Buffers of outputs
/// that are not requested are not written and may be empty.
struct Buffers {
    std::span<float> out{};
    std::span<float> features{};
};

/// An opened bundle. All const members are safe to call from several threads at once.
///
/// Files of aoti and torchscript contain native code or programs. Hashes prove that a bundle is
/// unchanged, not who wrote it, so open such bundles only from sources you trust.
class MAMMOTH_API Bundle {
  public:
    /// Reads the manifest, selects the files and loads the backend's library. The models are loaded
    /// by prepare or by the first run.
    /// Throws Error: missing, damaged, schema, path; contract (no file for this backend and
    /// precision); hardware; backend.
    static Bundle open(const std::filesystem::path& directory, Backend backend = Backend::onnx,
                       Options options = {});

    Bundle(Bundle&&) noexcept;
    Bundle& operator=(Bundle&&) noexcept;
    ~Bundle();

    [[nodiscard]] const Manifest& manifest() const noexcept;
    [[nodiscard]] Backend backend() const noexcept;
    /// Returns the version of the backend's library.
    [[nodiscard]] const std::string& backend_version() const noexcept;
    /// Returns whether run supports `type`.
    [[nodiscard]] bool answers(ReturnType type) const noexcept;

    /// Verifies and loads the model for `type`, so that the first run is not slow.
    /// Throws Error: missing, damaged (wrong hash or not a model), contract, backend.
    void prepare(ReturnType type) const;

    /// Computes `type` and returns the outputs. `input` is [batch, ...] with the dtype and shape of
    /// manifest().contract.input, normalized; see preprocess in image.hpp.
    /// Throws Error: contract, and as prepare.
    [[nodiscard]] Outputs run(const TensorView& input, ReturnType type = ReturnType::out) const;

    /// Computes `type` into memory of the caller. ONNX Runtime reads the input and writes the
    /// outputs in place. libtorch reads a CPU input in place; its outputs are copied once.
    void run(const TensorView& input, ReturnType type, const Buffers& buffers) const;

    /// Returns a function that calls the backend alone, on tensors created beforehand and without
    /// checks: the baseline of benchmarks. `input` and `buffers` must outlive the function.
    [[nodiscard]] std::function<void()> bare_call(const TensorView& input, ReturnType type,
                                                  const Buffers& buffers) const;

  private:
    class Impl;
    explicit Bundle(std::unique_ptr<Impl> impl) noexcept;
    std::unique_ptr<Impl> impl_;
};

}  // namespace mammoth
