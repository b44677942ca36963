#include "bytes.hpp"
#include "check.hpp"
#include "mammoth/image.hpp"

using namespace mammoth;
using namespace mammoth::test;

namespace {
Tensor parse(const std::string& text) {
    return parse_npy(bytes_of(text), "x.npy");
}
}  // namespace

TEST(float32_arrays_are_read) {
    const float values[] = {1.5F, -2.0F};
    const std::string raw(reinterpret_cast<const char*>(values), sizeof values);
    const auto tensor = parse(npy_bytes(npy_header("<f4", "1, 2"), raw));
    CHECK((tensor.shape() == Shape{1, 2}));
    CHECK(tensor.floats()[0] == 1.5F && tensor.floats()[1] == -2.0F);
}

TEST(uint8_scalar_and_empty_arrays_are_read) {
    CHECK((parse(npy_bytes(npy_header("|u1", "3,"), "abc")).shape() == Shape{3}));
    CHECK(parse(npy_bytes(npy_header("|u1", ""), "a")).shape().empty());
    CHECK(parse(npy_bytes(npy_header("<f4", "0, 3"), "")).empty());
}

TEST(header_keys_may_come_in_any_order) {
    const auto text =
        npy_bytes("{'shape': (2,), 'descr': '|u1', 'fortran_order': False}   \n", "ab");
    CHECK(parse(text).bytes()[1] == 'b');
}

TEST(unsupported_files_are_refused) {
    CHECK_ERROR(contract, "'<f8'; valid: '<f4'",
                parse(npy_bytes(npy_header("<f8", "1,"), "12345678")));
    CHECK_ERROR(contract, "Fortran order",
                parse(npy_bytes("{'descr': '|u1', 'fortran_order': True, 'shape': (1,), }", "a")));
    auto version2 = npy_bytes(npy_header("|u1", "1,"), "a");
    version2[6] = 2;
    CHECK_ERROR(contract, "version 1.0", parse(version2));
}

TEST(damaged_files_are_refused) {
    const auto whole = npy_bytes(npy_header("|u1", "3,"), "abc");
    for (std::size_t length = 0; length < whole.size(); ++length)
        CHECK_ERROR(damaged, "x.npy", parse(whole.substr(0, length)));
    CHECK_ERROR(damaged, "4 bytes of values", parse(whole + "d"));
    CHECK_ERROR(damaged, "cannot be read", parse(npy_bytes("{'descr': 1}", "")));
    CHECK_ERROR(damaged, "cannot be read", parse(npy_bytes(npy_header("|u1", "3 3"), "abc")));
    CHECK_ERROR(damaged, "cannot be read", parse(npy_bytes(npy_header("|u1", "-3,"), "abc")));
    CHECK_ERROR(contract, "too large",
                parse(npy_bytes(npy_header("|u1", "4611686018427387904, 16"), "abc")));
    CHECK_ERROR(missing, "there is no file", read_npy("/nowhere/x.npy"));
}
