#include "../src/hardware.hpp"

#include <sys/utsname.h>

#include "check.hpp"

using mammoth::Requirements;
using mammoth::detail::why_not;

namespace {
bool refused(const Requirements& required, const char* reason) {
    const auto why = why_not(required, "2.15.1+cpu");
    return why && why->find(reason) != std::string::npos;
}
}  // namespace

TEST(no_requirements_are_met) {
    CHECK(!why_not({}, "2.15.0"));
}

TEST(another_libtorch_release_is_refused) {
    CHECK(!why_not({.torch = "2.15.0"}, "2.15.1+cpu"));
    CHECK(
        refused({.torch = "2.1.0"}, "compiled with torch 2.1.0, and this runtime has 2.15.1+cpu"));
    CHECK(refused({.torch = "garbage"}, "garbage"));
}

TEST(another_machine_or_instruction_set_is_refused) {
    utsname name{};
    uname(&name);
    CHECK(!why_not({.device = "cpu", .machine = name.machine, .isa = "default"}, ""));
    CHECK(refused({.machine = "pdp11"}, "it is for pdp11, and this machine is "));
    CHECK(refused({.isa = "avx4096"}, "needs the instruction set avx4096"));
#if defined(__x86_64__)
    CHECK(why_not({.isa = "avx2"}, "").has_value() == !__builtin_cpu_supports("x86-64-v3"));
#endif
}

TEST(another_device_is_refused) {
    CHECK(refused({.device = "cuda", .compute_capability = "0.1"}, "compute capability 0.1"));
    CHECK(refused({.device = "abacus"}, "abacus"));
}
