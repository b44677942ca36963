// Runs an exported bundle.
//
//     auto bundle = mammoth::Bundle::open("exported/resnet18");
//     mammoth::Outputs answer = bundle.run({pixels, {1, 3, 32, 32}}, mammoth::ReturnType::both);
//     answer.out.floats();       // [1, classes]
//     answer.features.floats();  // [1, width]
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

/// What computes. onnx is always there and finds ONNX Runtime when a bundle is opened; aoti and
/// torchscript live in the module libmammoth_torch.so, which is loaded when they are asked for.
enum class Backend { onnx, aoti, torchscript };

inline constexpr std::array<std::string_view, 3> backend_names{"onnx", "aoti", "torchscript"};

/// The name of `backend`: also the format of its files in the manifest.
constexpr std::string_view to_string(Backend backend) noexcept {
    return backend_names[static_cast<std::size_t>(backend)];
}

/// Reads a name. Throws Error (contract) that lists the valid names.
MAMMOTH_API Backend parse_backend(std::string_view name);

struct Options {
    /// Which variant of the model: fp32, fp16 or int8.
    std::string precision = "fp32";
    /// Threads one run may use; 0: as many as the backend likes. libtorch knows one number for the
    /// whole process.
    unsigned threads = 0;
    /// The backend's library: ONNX Runtime or libmammoth_torch.so. Empty: MAMMOTH_ONNXRUNTIME or
    /// MAMMOTH_TORCH_MODULE of the environment, then where such libraries usually are.
    std::filesystem::path library{};
};

/// What was asked for; the others are empty.
struct Outputs {
    Tensor out;       ///< float32 [batch, classes]
    Tensor features;  ///< float32 [batch, width]
};

/// Memory of the caller to write answers into, exactly batch times width values each. What is not
/// asked for is not touched and may be empty.
struct Buffers {
    std::span<float> out{};
    std::span<float> features{};
};

/// An opened bundle. All const members may be called from many threads at once.
///
/// aoti and torchscript files hold native code or programs: their hashes show that a bundle is as
/// it was written, not who wrote it. Open such bundles from sources you trust.
class MAMMOTH_API Bundle {
  public:
    /// Reads the manifest, chooses the files and loads the backend's library; models are loaded by
    /// prepare or the first run.
    /// Throws Error: missing, damaged, schema, path; contract (no file for this backend and
    /// precision); hardware; backend.
    static Bundle open(const std::filesystem::path& directory, Backend backend = Backend::onnx,
                       Options options = {});

    Bundle(Bundle&&) noexcept;
    Bundle& operator=(Bundle&&) noexcept;
    ~Bundle();

    [[nodiscard]] const Manifest& manifest() const noexcept;
    [[nodiscard]] Backend backend() const noexcept;
    /// Version of the backend's library.
    [[nodiscard]] const std::string& backend_version() const noexcept;
    /// Whether run can answer `type`.
    [[nodiscard]] bool answers(ReturnType type) const noexcept;

    /// Loads what answers `type` after comparing its hash, so that the first run is not slow.
    /// Throws Error: missing, damaged (the hash, or not a model), contract, backend.
    void prepare(ReturnType type) const;

    /// Computes `type` into memory of its own. `input` is [batch, ...] in the dtype and shape of
    /// manifest().contract.input, normalised; see preprocess in image.hpp.
    /// Throws Error: contract, and as prepare.
    [[nodiscard]] Outputs run(const TensorView& input, ReturnType type = ReturnType::out) const;

    /// Computes `type` into memory of the caller. ONNX Runtime reads the input and writes the
    /// outputs in place; libtorch reads a CPU input in place, and its outputs are copied once.
    void run(const TensorView& input, ReturnType type, const Buffers& buffers) const;

    /// One call of the backend itself on tensors made beforehand, without checks: what run is
    /// compared with. `input` and `buffers` must outlive the function.
    [[nodiscard]] std::function<void()> bare_call(const TensorView& input, ReturnType type,
                                                  const Buffers& buffers) const;

  private:
    class Impl;
    explicit Bundle(std::unique_ptr<Impl> impl) noexcept;
    std::unique_ptr<Impl> impl_;
};

}  // namespace mammoth
