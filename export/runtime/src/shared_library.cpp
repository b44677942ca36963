#include "shared_library.hpp"

#include <dlfcn.h>

#include <cstdlib>

#include "mammoth/error.hpp"

namespace mammoth::detail {

SharedLibrary SharedLibrary::find(const Search& search) {
    std::vector<std::string> names = search.usual;
    const char* variable = std::getenv(search.variable);
    if (!search.given.empty())
        names = {search.given.string()};
    else if (variable != nullptr && *variable != '\0')
        names = {variable};

    std::string tried;
    for (const auto& name : names) {
        if (void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE))
            return {handle, name};
        tried += "; " + std::string(dlerror());
    }
    throw Error(ErrorCode::backend, search.what + " was not found" + tried + ". " + search.remedy +
                                        ", or set " + search.variable + " to the library's path");
}

void* SharedLibrary::address(const char* name) const {
    if (void* result = dlsym(handle_, name)) return result;
    throw Error(ErrorCode::backend,
                name_ + " has no function " + name + "; it is another library or another version");
}

std::filesystem::path SharedLibrary::own_path() {
    Dl_info info{};
    if (dladdr(reinterpret_cast<void*>(&SharedLibrary::own_path), &info) == 0) return {};
    std::error_code error;
    return std::filesystem::canonical(info.dli_fname, error);
}

}  // namespace mammoth::detail
