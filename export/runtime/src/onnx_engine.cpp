// The backend onnx: one session per file, on the CPU.
#include <algorithm>
#include <array>
#include <vector>

#include "engine.hpp"
#include "mammoth/error.hpp"
#include "onnx_api.hpp"

namespace mammoth::detail {
namespace {

using ort::Handle;

constexpr int element_type(DType dtype) {
    return dtype == DType::float32 ? ort::element_float : ort::element_uint8;
}

/// The library, and the objects that all its sessions share.
struct Library {
    explicit Library(const SharedLibrary& library)
        : api(library),
          env(api.make(ort::create_env, ort::release_env, ort::log_fatal_only, "mammoth")),
          memory(api.make(ort::create_cpu_memory_info, ort::release_memory_info,
                          ort::device_allocator, ort::memory_default)) {}

    /// Wraps memory of the caller in a tensor. ONNX Runtime writes to it only if it is an output.
    [[nodiscard]] Handle<ort::Value> tensor(const void* data, std::size_t size_bytes,
                                            const Shape& shape, DType dtype) const {
        return api.make(ort::create_tensor_with_data, ort::release_value, memory.get(),
                        const_cast<void*>(data), size_bytes, shape.data(), shape.size(),
                        element_type(dtype));
    }

    ort::Api api;
    Handle<ort::Env> env;
    Handle<ort::MemoryInfo> memory;
};

class OnnxProgram final : public Program {
  public:
    OnnxProgram(std::shared_ptr<const Library> library, const ModelSource& source, unsigned threads)
        : library_(std::move(library)),
          input_name_(source.contract.input.name),
          session_(open(source, threads)) {
        check_interface(source);
    }

    void prepare(ReturnType) override {}

    void run(const TensorView& input, ReturnType,
             std::span<const OutputView> outputs) const override {
        Call(*library_, input, outputs).run(session_.get(), input_name_.c_str());
    }

    std::function<void()> bare_call(const TensorView& input, ReturnType,
                                    std::span<const OutputView> outputs) const override {
        return [this, call = std::make_shared<Call>(*library_, input, outputs)] {
            call->run(session_.get(), input_name_.c_str());
        };
    }

  private:
    /// The tensors of one run.
    class Call {
      public:
        Call(const Library& library, const TensorView& input, std::span<const OutputView> outputs)
            : api_(library.api),
              input_(
                  library.tensor(input.data(), input.size_bytes(), input.shape(), input.dtype())) {
            for (const auto& output : outputs) {
                names_.push_back(output.name);
                outputs_.push_back(library.tensor(output.values.data(), output.values.size_bytes(),
                                                  output.shape, DType::float32));
                targets_.push_back(outputs_.back().get());
            }
        }

        void run(ort::Session* session, const char* input_name) {
            const ort::Value* input = input_.get();
            api_.call(ort::run, session, nullptr, &input_name, &input, 1, names_.data(),
                      names_.size(), targets_.data());
        }

      private:
        const ort::Api& api_;
        Handle<ort::Value> input_;
        std::vector<const char*> names_;
        std::vector<Handle<ort::Value>> outputs_;
        std::vector<ort::Value*> targets_;
    };

    [[nodiscard]] Handle<ort::Session> open(const ModelSource& source, unsigned threads) const {
        const auto& api = library_->api;
        const auto options = api.make(ort::create_session_options, ort::release_session_options);
        if (threads > 0)
            api.call(ort::set_intra_op_num_threads, options.get(), static_cast<int>(threads));
        try {
            return api.make(ort::create_session_from_array, ort::release_session,
                            library_->env.get(), source.bytes.data(), source.bytes.size(),
                            options.get());
        } catch (const Error& error) {
            throw Error(ErrorCode::damaged,
                        source.path.string() + " cannot be loaded. " + error.what());
        }
    }

    /// Compares the model's input and outputs with the manifest.
    void check_interface(const ModelSource& source) const {
        const auto& api = library_->api;
        std::size_t inputs = 0;
        std::size_t outputs = 0;
        api.call(ort::get_input_count, session_.get(), &inputs);
        api.call(ort::get_output_count, session_.get(), &outputs);
        std::size_t found = 0;
        bool fits = inputs == 1 && matches(source.contract.input, name(ort::get_input_name, 0),
                                           ort::get_input_type, 0);
        for (std::size_t i = 0; fits && i < outputs; ++i) {
            const auto output = name(ort::get_output_name, i);
            if (std::ranges::find(source.file.outputs, output) == source.file.outputs.end())
                continue;
            const auto* info = source.contract.output(output);
            fits = info != nullptr && matches(*info, output, ort::get_output_type, i);
            ++found;
        }
        if (!fits || found != source.file.outputs.size())
            throw Error(ErrorCode::damaged, source.path.string() +
                                                " has other inputs or outputs than manifest.json "
                                                "says; export the bundle again");
    }

    template <class GetName>
    [[nodiscard]] std::string name(GetName get_name, std::size_t index) const {
        const auto& api = library_->api;
        ort::Allocator* allocator = nullptr;
        char* text = nullptr;
        api.call(ort::get_default_allocator, &allocator);
        api.call(get_name, session_.get(), index, allocator, &text);
        std::string result(text);
        api.call(ort::allocator_free, allocator, text);
        return result;
    }

    template <class GetType>
    [[nodiscard]] bool matches(const TensorInfo& wanted, const std::string& name, GetType get_type,
                               std::size_t index) const {
        const auto& api = library_->api;
        const auto type = api.make(get_type, ort::release_type_info, session_.get(), index);
        const ort::TensorInfo* tensor = nullptr;
        api.call(ort::cast_to_tensor_info, type.get(), &tensor);
        if (tensor == nullptr) return false;
        int element = 0;
        std::size_t rank = 0;
        api.call(ort::get_element_type, tensor, &element);
        api.call(ort::get_dimensions_count, tensor, &rank);
        Shape shape(rank);
        api.call(ort::get_dimensions, tensor, shape.data(), rank);
        // -1 is a dynamic size: the batch, and sizes that shape inference could not determine.
        return name == wanted.name && element == element_type(wanted.dtype) &&
               rank == wanted.item.size() + 1 && shape.front() == -1 &&
               std::ranges::equal(std::span(shape).subspan(1), wanted.item,
                                  [](auto has, auto wants) { return has == wants || has == -1; });
    }

    std::shared_ptr<const Library> library_;
    std::string input_name_;
    Handle<ort::Session> session_;
};

class OnnxEngine final : public Engine {
  public:
    explicit OnnxEngine(const Options& options)
        : library_(std::make_shared<const Library>(SharedLibrary::find(
              {.what = "ONNX Runtime",
               .given = options.library,
               .variable = "MAMMOTH_ONNXRUNTIME",
               .usual = {"libonnxruntime.so.1", "libonnxruntime.so", MAMMOTH_ONNXRUNTIME_DEFAULT},
               .remedy = "Install it, for example with pip install onnxruntime"}))),
          threads_(options.threads) {}

    std::string version() const override { return library_->api.version(); }

    std::unique_ptr<Program> load(const ModelSource& source) override {
        return std::make_unique<OnnxProgram>(library_, source, threads_);
    }

  private:
    std::shared_ptr<const Library> library_;
    unsigned threads_;
};

}  // namespace

std::unique_ptr<Engine> make_onnx_engine(const Options& options) {
    return std::make_unique<OnnxEngine>(options);
}

}  // namespace mammoth::detail
