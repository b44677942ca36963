#include "hardware.hpp"

#include <dlfcn.h>
#include <sys/utsname.h>

namespace mammoth::detail {
namespace {

std::string own_machine() {
    utsname name{};
    return uname(&name) == 0 ? name.machine : "unknown";
}

/// Returns whether the CPU has an instruction set, by torch's name for it.
bool has_isa(std::string_view isa) {
    if (isa == "default") return true;  // the baseline of the architecture
#if defined(__x86_64__)
    // Packages are compiled for these levels, which include more than the vector instructions.
    if (isa == "avx2") return __builtin_cpu_supports("x86-64-v3");
    if (isa == "avx512") return __builtin_cpu_supports("x86-64-v4");
#elif defined(__aarch64__)
    if (isa == "neon" || isa == "asimd") return true;  // present on every 64-bit ARM CPU
#endif
    return false;
}

/// Returns the compute capability of the first GPU, such as `9.0`; empty if there is no GPU.
std::string own_compute_capability() {
    constexpr int major_attribute = 75;
    constexpr int minor_attribute = 76;
    void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (driver == nullptr) return {};
    const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
    const auto get = reinterpret_cast<int (*)(int*, int)>(dlsym(driver, "cuDeviceGet"));
    const auto attribute =
        reinterpret_cast<int (*)(int*, int, int)>(dlsym(driver, "cuDeviceGetAttribute"));
    int device = 0;
    int major = 0;
    int minor = 0;
    if (init == nullptr || get == nullptr || attribute == nullptr || init(0) != 0 ||
        get(&device, 0) != 0 || attribute(&major, major_attribute, device) != 0 ||
        attribute(&minor, minor_attribute, device) != 0)
        return {};
    return std::to_string(major) + "." + std::to_string(minor);
}

/// Returns the part of a version that determines compatibility: `2.15` of `2.15.0+cpu`.
std::string_view release(std::string_view version) {
    const auto dot = version.find('.');
    return dot == std::string_view::npos ? version : version.substr(0, version.find('.', dot + 1));
}

}  // namespace

std::optional<std::string> why_not(const Requirements& required, std::string_view torch) {
    if (!required.torch.empty() && release(required.torch) != release(torch))
        return "it was compiled with torch " + required.torch + ", and this runtime has " +
               std::string(torch);
    if (!required.machine.empty() && required.machine != own_machine())
        return "it is for " + required.machine + ", and this machine is " + own_machine();
    if (required.device == "cuda") {
        const auto own = own_compute_capability();
        if (own.empty())
            return "it is for a GPU of compute capability " + required.compute_capability +
                   ", and no GPU was found";
        if (own != required.compute_capability)
            return "it is for a GPU of compute capability " + required.compute_capability +
                   ", and this one has " + own;
    } else if (!required.device.empty() && required.device != "cpu") {
        return "it is for the device '" + required.device + "', which this runtime does not know";
    }
    if (!required.isa.empty() && !has_isa(required.isa))
        return "it needs the instruction set " + required.isa + ", which this CPU does not have";
    return std::nullopt;
}

}  // namespace mammoth::detail
