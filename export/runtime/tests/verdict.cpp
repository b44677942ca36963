// verdict FILE...: prints for every manifest "ok", or the code of the error with which it is refused.
// tests/runtime/test_hostile_bundles.py compares this with the Python package.
#include <iostream>

#include "../src/file.hpp"
#include "mammoth/error.hpp"
#include "mammoth/manifest.hpp"

int main(int argc, char** argv) {
    for (int i = 1; i < argc; ++i) {
        try {
            const auto bytes = mammoth::detail::read_file(argv[i], 1 << 20);
            mammoth::parse_manifest({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
            std::cout << "ok\n";
        } catch (const mammoth::Error& error) {
            std::cout << to_string(error.code()) << '\t' << error.what() << '\n';
        }
    }
}
