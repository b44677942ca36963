// libFuzzer target of the C++ readers. The first byte selects the reader: manifest, array or image.
// Each reads its file or throws mammoth::Error; sanitizers detect everything else.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "mammoth/error.hpp"
#include "mammoth/image.hpp"
#include "mammoth/manifest.hpp"

namespace {

void check(bool condition) {
    if (!condition) std::abort();
}

void read(int which, std::span<const std::byte> data) {
    switch (which) {
        case 0:
            mammoth::parse_manifest({reinterpret_cast<const char*>(data.data()), data.size()});
            break;
        case 1: {
            const auto tensor = mammoth::parse_npy(data, "fuzzed");
            check(tensor.view().size_bytes() ==
                  mammoth::element_count(tensor.shape()) * mammoth::size_of(tensor.dtype()));
            break;
        }
        default: {
            const auto image = mammoth::parse_image(data, "fuzzed");
            check(image.pixels.size() ==
                  static_cast<std::size_t>(image.height * image.width * image.channels));
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    try {
        read(data[0] % 3, std::as_bytes(std::span(data + 1, size - 1)));
    } catch (const mammoth::Error& error) {
        check(std::string_view(error.what()).size() > 10);
    }
    return 0;
}
