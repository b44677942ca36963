// Replaces png.cpp if the runtime is built without libpng.
#include "mammoth/error.hpp"
#include "png.hpp"

namespace mammoth::detail {

Image parse_png(std::span<const std::byte>, const std::string& name) {
    throw Error(ErrorCode::backend,
                name + " is a PNG, and this runtime was built without libpng. Use a PPM");
}

}  // namespace mammoth::detail
