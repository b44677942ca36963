#include "mammoth/bundle.hpp"

#include <algorithm>
#include <mutex>
#include <optional>
#include <vector>

#include "engine.hpp"
#include "file.hpp"
#include "hardware.hpp"
#include "sha256.hpp"

namespace mammoth {
namespace {

using detail::OutputView;

constexpr std::array all_types{ReturnType::out, ReturnType::features, ReturnType::both};
static_assert(all_types.size() == return_type_names.size());

/// Index into an array with one element per return type. Callers may have cast any number.
std::size_t index_of(ReturnType type) {
    const auto index = static_cast<std::size_t>(type);
    if (index >= all_types.size())
        throw Error(ErrorCode::contract, "unknown return type number " + std::to_string(index) +
                                             "; valid: out, features, both");
    return index;
}

std::string join(const std::vector<std::string>& words) {
    std::string text;
    for (const auto& word : words) text += (text.empty() ? "" : ", ") + word;
    return text;
}

template <class Range, class Value>
bool contains(const Range& range, const Value& value) {
    return std::ranges::find(range, value) != std::ranges::end(range);
}

std::unique_ptr<detail::Engine> make_engine(Backend backend, const Options& options) {
    return backend == Backend::onnx ? detail::make_onnx_engine(options)
                                    : detail::make_torch_engine(backend, options);
}

}  // namespace

Backend parse_backend(std::string_view name) {
    const auto* known = std::ranges::find(backend_names, name);
    if (known == backend_names.end())
        throw Error(ErrorCode::contract, "unknown backend '" + std::string(name) + "'; valid: " +
                                             join({backend_names.begin(), backend_names.end()}));
    return static_cast<Backend>(known - backend_names.begin());
}

class Bundle::Impl {
  public:
    Impl(std::filesystem::path directory, Backend backend, const Options& options)
        : directory_(std::move(directory)),
          manifest_(read_manifest(directory_)),
          backend_(backend),
          engine_(make_engine(backend, options)),
          version_(engine_->version()) {
        for (const auto& file : manifest_.files) check_inside(file);
        choose_files(options);
    }

    [[nodiscard]] const Manifest& manifest() const noexcept { return manifest_; }
    [[nodiscard]] Backend backend() const noexcept { return backend_; }
    [[nodiscard]] const std::string& version() const noexcept { return version_; }

    [[nodiscard]] bool answers(ReturnType type) const noexcept {
        const auto index = static_cast<std::size_t>(type);
        return index < by_type_.size() && by_type_[index] != nullptr;
    }

    /// Returns the loaded program for `type`.
    detail::Program& program(ReturnType type) {
        auto* model = by_type_[index_of(type)];
        if (model == nullptr)
            throw Error(ErrorCode::contract, directory_.string() + " has no '" +
                                                 std::string(to_string(type)) +
                                                 "'; it has: " + join(answered()));
        std::call_once(model->once, [&] { load(*model); });
        model->program->prepare(type);
        return *model->program;
    }

    void check_input(const TensorView& input) const {
        const auto& wanted = manifest_.contract.input;
        const auto& shape = input.shape();
        if (input.dtype() == wanted.dtype && shape.size() == wanted.item.size() + 1 &&
            shape.front() >= 1 && std::equal(shape.begin() + 1, shape.end(), wanted.item.begin()))
            return;
        throw Error(ErrorCode::contract,
                    "the input must be " + std::string(to_string(wanted.dtype)) + " [batch, " +
                        to_string(wanted.item).substr(1) + ", not " +
                        std::string(to_string(input.dtype())) + " " + to_string(shape));
    }

    /// Returns the outputs of `type` for a batch as views of `buffers`, in the contract's order.
    [[nodiscard]] std::vector<OutputView> views(std::int64_t batch, ReturnType type,
                                                const Buffers& buffers) const {
        std::vector<OutputView> result;
        if (type != ReturnType::features) result.push_back(view("out", batch, buffers.out));
        if (type != ReturnType::out) result.push_back(view("features", batch, buffers.features));
        return result;
    }

    [[nodiscard]] Shape output_shape(const char* name, std::int64_t batch) const {
        Shape shape{batch};
        std::ranges::copy(manifest_.contract.output(name)->item, std::back_inserter(shape));
        return shape;
    }

  private:
    struct Model {
        const BundleFile* file;
        std::once_flag once;
        std::unique_ptr<detail::Program> program;
    };

    /// Selects, for every return type, the file of the backend with the fewest unneeded outputs:
    /// ONNX Runtime computes all outputs of a file, whichever are requested.
    void choose_files(const Options& options) {
        std::vector<const BundleFile*> usable;
        std::string refused;
        for (const auto& file : manifest_.files) {
            if (file.format != to_string(backend_) || file.precision != options.precision) continue;
            if (const auto reason = detail::why_not(file.required, version_))
                refused += "; " + file.path + ": " + *reason;
            else
                usable.push_back(&file);
        }
        if (usable.empty() && !refused.empty())
            throw Error(ErrorCode::hardware, directory_.string() + " cannot run here" + refused);
        std::ranges::stable_sort(usable, {}, [](const auto* file) { return file->outputs.size(); });
        for (const auto type : all_types) {
            const auto names = output_names(type);
            const auto found = std::ranges::find_if(usable, [&](const auto* file) {
                return std::ranges::all_of(names, [&](const auto& name) {
                    return contains(file->outputs, name) && manifest_.contract.output(name);
                });
            });
            if (found != usable.end() && contains(manifest_.contract.returnt, to_string(type)))
                by_type_[index_of(type)] = &model_of(*found);
        }
        if (answered().empty())
            throw Error(ErrorCode::contract, directory_.string() + " has no " + options.precision +
                                                 " model for " + std::string(to_string(backend_)) +
                                                 "; it has: " + join(variants()) +
                                                 ". Export it with that format");
        for (const auto& model : models_) (void)locate(*model->file);
    }

    Model& model_of(const BundleFile* file) {
        for (const auto& model : models_)
            if (model->file == file) return *model;
        models_.push_back(std::make_unique<Model>());
        models_.back()->file = file;
        return *models_.back();
    }

    /// Returns the path of a file, after checking its location and size.
    [[nodiscard]] std::filesystem::path locate(const BundleFile& file) const {
        check_inside(file);
        const auto path = directory_ / file.path;
        std::error_code error;
        const auto size = std::filesystem::file_size(path, error);
        if (error) throw Error(ErrorCode::missing, "there is no file " + path.string());
        if (size != file.bytes)
            throw Error(ErrorCode::damaged, path.string() + " has " + std::to_string(size) +
                                                " bytes, and manifest.json says " +
                                                std::to_string(file.bytes) +
                                                ". Copy or export the bundle again");
        return path;
    }

    /// Refuses a file that a symbolic link leads out of the bundle.
    void check_inside(const BundleFile& file) const {
        const auto path = directory_ / file.path;
        std::error_code error;
        const auto real =
            std::filesystem::weakly_canonical(path, error)
                .lexically_relative(std::filesystem::weakly_canonical(directory_, error));
        if (error || real.empty() || *real.begin() == "..")
            throw Error(
                ErrorCode::path,
                path.string() + " is a link that leaves the bundle. Do not use this bundle");
    }

    void load(Model& model) const {
        const auto path = locate(*model.file);
        const auto bytes = detail::read_file(path, model.file->bytes);
        if (detail::sha256(bytes) != model.file->sha256)
            throw Error(
                ErrorCode::damaged,
                path.string() +
                    " is not the file in manifest.json (its sha256 differs). Copy or export the "
                    "bundle again, or open it again if it was updated");
        model.program = engine_->load({manifest_.contract, *model.file, path, bytes});
    }

    [[nodiscard]] std::vector<std::string> answered() const {
        std::vector<std::string> names;
        for (const auto type : all_types)
            if (answers(type)) names.emplace_back(to_string(type));
        return names;
    }

    [[nodiscard]] std::vector<std::string> variants() const {
        std::vector<std::string> names;
        for (const auto& file : manifest_.files)
            if (contains(backend_names, file.format))
                names.push_back(file.format + " " + file.precision);
        if (names.empty()) names.emplace_back("no model of a known format");
        return names;
    }

    [[nodiscard]] OutputView view(const char* name, std::int64_t batch,
                                  std::span<float> buffer) const {
        OutputView result{name, buffer, output_shape(name, batch)};
        if (buffer.size() != element_count(result.shape))
            throw Error(ErrorCode::contract, "the buffer for '" + std::string(name) + "' has " +
                                                 std::to_string(buffer.size()) +
                                                 " values and must hold exactly " +
                                                 to_string(result.shape));
        return result;
    }

    std::filesystem::path directory_;
    Manifest manifest_;
    Backend backend_;
    std::unique_ptr<detail::Engine> engine_;
    std::string version_;
    std::vector<std::unique_ptr<Model>> models_;
    std::array<Model*, return_type_names.size()> by_type_{};
};

Bundle::Bundle(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
Bundle::Bundle(Bundle&&) noexcept = default;
Bundle& Bundle::operator=(Bundle&&) noexcept = default;
Bundle::~Bundle() = default;

Bundle Bundle::open(const std::filesystem::path& directory, Backend backend, Options options) {
    return Bundle(std::make_unique<Impl>(directory, backend, options));
}

const Manifest& Bundle::manifest() const noexcept {
    return impl_->manifest();
}
Backend Bundle::backend() const noexcept {
    return impl_->backend();
}
const std::string& Bundle::backend_version() const noexcept {
    return impl_->version();
}
bool Bundle::answers(ReturnType type) const noexcept {
    return impl_->answers(type);
}
void Bundle::prepare(ReturnType type) const {
    impl_->program(type);
}

Outputs Bundle::run(const TensorView& input, ReturnType type) const {
    const auto& program = impl_->program(type);
    impl_->check_input(input);
    const auto batch = input.shape().front();
    Outputs outputs;
    Buffers buffers;
    const auto allocate = [&](const char* name, Tensor& tensor) {
        auto shape = impl_->output_shape(name, batch);
        tensor = Tensor(std::vector<float>(element_count(shape)), shape);
        return tensor.floats();
    };
    if (type != ReturnType::features) buffers.out = allocate("out", outputs.out);
    if (type != ReturnType::out) buffers.features = allocate("features", outputs.features);
    program.run(input, type, impl_->views(batch, type, buffers));
    return outputs;
}

void Bundle::run(const TensorView& input, ReturnType type, const Buffers& buffers) const {
    const auto& program = impl_->program(type);
    impl_->check_input(input);
    program.run(input, type, impl_->views(input.shape().front(), type, buffers));
}

std::function<void()> Bundle::bare_call(const TensorView& input, ReturnType type,
                                        const Buffers& buffers) const {
    const auto& program = impl_->program(type);
    impl_->check_input(input);
    return program.bare_call(input, type, impl_->views(input.shape().front(), type, buffers));
}

}  // namespace mammoth
