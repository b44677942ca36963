#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace mammoth::detail {

/// A library loaded at run time. It is never unloaded, because such libraries start threads.
class SharedLibrary {
  public:
    /// What to load, and from where.
    struct Search {
        std::string what;                  ///< name in messages: ONNX Runtime
        std::filesystem::path given;       ///< path from the caller; if not empty, the only one
        const char* variable;              ///< environment variable; if set, the only path
        std::vector<std::string> usual{};  ///< file names or paths to try, in this order
        std::string remedy;                ///< how to install it
    };

    /// Throws Error (backend), which lists everything that was tried.
    static SharedLibrary find(const Search& search);

    /// Returns the address of a function. Throws Error (backend) if the library lacks it.
    template <class Function>
    [[nodiscard]] Function* symbol(const char* name) const {
        return reinterpret_cast<Function*>(address(name));
    }

    /// Returns the file that contains this code: the shared runtime, or the program it is linked
    /// to.
    static std::filesystem::path own_path();

  private:
    SharedLibrary(void* handle, std::string name) : handle_(handle), name_(std::move(name)) {}
    [[nodiscard]] void* address(const char* name) const;

    void* handle_;
    std::string name_;
};

}  // namespace mammoth::detail
