// The backend aoti: AOTInductor packages with one entry per return type.
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/version.h>

#include <array>
#include <mutex>
#include <thread>

#include "tensors.hpp"

namespace mammoth::detail {
namespace {

using torch::inductor::AOTIModelPackageLoader;

class AotiProgram final : public Program {
  public:
    explicit AotiProgram(const ModelSource& source)
        : path_(source.path.string()),
          device_(source.file.required.device == "cuda" ? at::kCUDA : at::kCPU) {}

    void prepare(ReturnType type) override {
        auto& entry = entries_[static_cast<std::size_t>(type)];
        std::call_once(entry.once, [&] {
            const std::string name(to_string(type));
            // One runner per core, so that calls can run concurrently; runners share the weights.
            const auto runners = std::max(1U, std::thread::hardware_concurrency());
            // PyTorch's loader reads the metadata of every package into one static object.
            static std::mutex loading;
            const std::scoped_lock lock(loading);
            translate_errors(ErrorCode::damaged, path_ + " cannot be loaded as '" + name + "'",
                             [&] {
                                 entry.loader = std::make_unique<AOTIModelPackageLoader>(
                                     path_, name, /*run_single_threaded=*/false, runners);
                             });
        });
    }

    void run(const TensorView& input, ReturnType type,
             std::span<const OutputView> outputs) const override {
        translate_errors(ErrorCode::backend, "AOTInductor", [&] {
            const c10::InferenceMode guard;
            copy_outputs(loader(type).run({to_tensor(input).to(device_)}), outputs);
        });
    }

    std::function<void()> bare_call(const TensorView& input, ReturnType type,
                                    std::span<const OutputView>) const override {
        return [this, type, inputs = std::vector{to_tensor(input).to(device_)}] {
            const c10::InferenceMode guard;
            loader(type).run(inputs);
        };
    }

  private:
    struct Entry {
        std::once_flag once;
        std::unique_ptr<AOTIModelPackageLoader> loader;
    };

    [[nodiscard]] AOTIModelPackageLoader& loader(ReturnType type) const {
        return *entries_[static_cast<std::size_t>(type)].loader;
    }

    std::string path_;
    at::Device device_;
    std::array<Entry, return_type_names.size()> entries_;
};

class AotiEngine final : public Engine {
  public:
    std::string version() const override { return TORCH_VERSION; }

    std::unique_ptr<Program> load(const ModelSource& source) override {
        return std::make_unique<AotiProgram>(source);
    }
};

}  // namespace

std::unique_ptr<Engine> make_aoti_engine() {
    return std::make_unique<AotiEngine>();
}

}  // namespace mammoth::detail
