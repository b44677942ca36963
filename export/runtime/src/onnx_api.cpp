#include "onnx_api.hpp"

#include "mammoth/error.hpp"

namespace mammoth::detail::ort {
namespace {

// All functions used here are older; a runtime with this version also reads current models.
constexpr std::uint32_t api_version = 17;

struct ApiBase {
    const void* const* (*get_api)(std::uint32_t version);
    const char* (*get_version)();
};

/// Joins the lines of a message of the library.
std::string one_line(const char* message) {
    std::string line;
    for (const char* c = message; *c != '\0'; ++c)
        if (*c != '\n')
            line += *c;
        else if (!line.empty() && line.back() != ' ')
            line += ' ';
    return line;
}

}  // namespace

Api::Api(const SharedLibrary& library) {
    const ApiBase* base = library.symbol<const ApiBase*()>("OrtGetApiBase")();
    version_ = base->get_version();
    table_ = base->get_api(api_version);
    if (table_ == nullptr)
        throw Error(ErrorCode::backend, "ONNX Runtime " + version_ + " is too old; use 1." +
                                            std::to_string(api_version) + " or later");
}

void Api::check(Status* status) const {
    if (status == nullptr) return;
    const Handle<Status> owned(status, function(release_status));
    throw Error(ErrorCode::backend,
                "ONNX Runtime: " + one_line(function(get_error_message)(status)));
}

}  // namespace mammoth::detail::ort
