#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace mammoth::detail {

/// A library loaded at run time. It stays in the process: such libraries start threads.
class SharedLibrary {
  public:
    /// What to look for, and where.
    struct Search {
        std::string what;                  ///< for the message: ONNX Runtime
        std::filesystem::path given;       ///< by the caller; if not empty, nothing else is tried
        const char* variable;              ///< environment variable with a path, likewise
        std::vector<std::string> usual{};  ///< file names or paths, the first that loads is taken
        std::string remedy;                ///< how to get it
    };

    /// Throws Error (backend) with everything that was tried.
    static SharedLibrary find(const Search& search);

    /// The address of a function. Throws Error (backend) if the library does not have it.
    template <class Function>
    [[nodiscard]] Function* symbol(const char* name) const {
        return reinterpret_cast<Function*>(address(name));
    }

    /// The file this code was loaded from: the shared runtime, or the program it is linked into.
    static std::filesystem::path own_path();

  private:
    SharedLibrary(void* handle, std::string name) : handle_(handle), name_(std::move(name)) {}
    [[nodiscard]] void* address(const char* name) const;

    void* handle_;
    std::string name_;
};

}  // namespace mammoth::detail
