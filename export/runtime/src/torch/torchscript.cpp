// The backend torchscript: modules with one method per return type, on the CPU.
#include <c10/core/InferenceMode.h>
#include <caffe2/serialize/read_adapter_interface.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/version.h>

#include <algorithm>
#include <cstring>

#include "tensors.hpp"

namespace mammoth::detail {
namespace {

/// Lets libtorch read the verified bytes instead of the file.
class BytesReader final : public caffe2::serialize::ReadAdapterInterface {
  public:
    explicit BytesReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

    std::size_t size() const override { return bytes_.size(); }

    std::size_t read(std::uint64_t start, void* target, std::size_t count,
                     const char*) const override {
        if (start >= bytes_.size()) return 0;
        const auto part = bytes_.subspan(start, std::min(count, bytes_.size() - start));
        std::memcpy(target, part.data(), part.size());
        return part.size();
    }

  private:
    std::span<const std::byte> bytes_;
};

class TorchScriptProgram final : public Program {
  public:
    explicit TorchScriptProgram(const ModelSource& source)
        : path_(source.path.string()),
          module_(translate_errors(ErrorCode::damaged, path_ + " cannot be loaded", [&] {
              return torch::jit::load(std::make_shared<BytesReader>(source.bytes), at::kCPU);
          })) {}

    void prepare(ReturnType type) override {
        if (!module_.find_method(std::string(to_string(type))))
            throw Error(ErrorCode::damaged,
                        path_ + " has no method '" + std::string(to_string(type)) + "'");
    }

    void run(const TensorView& input, ReturnType type,
             std::span<const OutputView> outputs) const override {
        translate_errors(ErrorCode::backend, "TorchScript", [&] {
            const c10::InferenceMode guard;
            copy_outputs(tensors(call(type, to_tensor(input))), outputs);
        });
    }

    std::function<void()> bare_call(const TensorView& input, ReturnType type,
                                    std::span<const OutputView>) const override {
        return
            [method = module_.get_method(std::string(to_string(type))), tensor = to_tensor(input)] {
                const c10::InferenceMode guard;
                method({tensor});
            };
    }

  private:
    [[nodiscard]] at::IValue call(ReturnType type, const at::Tensor& input) const {
        return module_.get_method(std::string(to_string(type)))({input});
    }

    /// Unpacks the result of a method: a tensor or a tuple of tensors.
    static std::vector<at::Tensor> tensors(const at::IValue& value) {
        if (!value.isTuple()) return {value.toTensor()};
        std::vector<at::Tensor> result;
        for (const auto& element : value.toTupleRef().elements())
            result.push_back(element.toTensor());
        return result;
    }

    std::string path_;
    torch::jit::Module module_;
};

class TorchScriptEngine final : public Engine {
  public:
    std::string version() const override { return TORCH_VERSION; }

    std::unique_ptr<Program> load(const ModelSource& source) override {
        return std::make_unique<TorchScriptProgram>(source);
    }
};

}  // namespace

std::unique_ptr<Engine> make_torchscript_engine() {
    return std::make_unique<TorchScriptEngine>();
}

}  // namespace mammoth::detail
