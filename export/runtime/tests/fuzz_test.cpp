// Mutated files must be read, or refused with an Error; sanitizers detect everything else. The seed
// is fixed, and every reader gets the same number of files, within a time limit.
#include <png.h>

#include <chrono>
#include <random>

#include "check.hpp"
#include "files.hpp"
#include "mammoth/image.hpp"
#include "mammoth/manifest.hpp"

using namespace mammoth;
using namespace mammoth::test;

namespace {

constexpr int files_per_seed = 20'000;
constexpr std::chrono::seconds limit(4);

class Mutator {
  public:
    explicit Mutator(std::vector<std::string> words) : words_(std::move(words)) {}

    std::string operator()(std::string text) {
        for (auto changes = 1 + below(4); changes > 0; --changes) change(text);
        return text;
    }

  private:
    std::size_t below(std::size_t end) { return end == 0 ? 0 : generator_() % end; }

    void change(std::string& text) {
        const auto at = below(text.size() + 1);
        const auto length = below(std::min<std::size_t>(text.size() - at, 16) + 1);
        switch (below(6)) {
            case 0:
                if (at < text.size()) text[at] = static_cast<char>(generator_());
                break;
            case 1:
                if (at < text.size()) text[at] = static_cast<char>(text[at] ^ 1 << below(8));
                break;
            case 2:
                text.erase(at, length);
                break;
            case 3:
                text.insert(at, text.substr(below(text.size()), length));
                break;
            case 4:
                text.replace(at, length, words_[below(words_.size())]);
                break;
            default:
                text.resize(at);
        }
    }

    std::mt19937_64 generator_{20240711};
    std::vector<std::string> words_;
};

/// Calls `read` on mutations of `seed`.
template <class Mutate, class Read>
void fuzz(const std::string& seed, Mutate mutate, Read read) {
    const auto start = std::chrono::steady_clock::now();
    int done = 0;
    int accepted = 0;
    for (; done < files_per_seed && std::chrono::steady_clock::now() - start < limit; ++done) {
        const auto text = mutate(seed);
        try {
            read(text);
            ++accepted;
        } catch (const Error& error) {
            CHECK(std::string_view(error.what()).size() > 10);
        }
    }
    std::cout << done << " files, " << accepted << " of them read\n";
    CHECK(done > 100 && accepted < done);
    read(seed);  // the seed itself is valid
}

/// Replaces or removes one or two values of a manifest, which stays valid JSON.
class JsonMutator {
  public:
    std::string operator()(const std::string& text) {
        auto flat = nlohmann::json::parse(text).flatten();
        for (auto changes = 1 + generator_() % 2; changes > 0; --changes) {
            auto value = std::next(flat.begin(), static_cast<long>(generator_() % flat.size()));
            if (generator_() % 4 == 0)
                flat.erase(value);
            else
                *value = values_[generator_() % values_.size()];
        }
        return flat.unflatten().dump();
    }

  private:
    std::mt19937_64 generator_{20240712};
    std::vector<nlohmann::json> values_{
        nullptr,   true,       0,  -1,      2,     4096,   1e39,    0.5,    1 << 30, INT64_MIN,
        INT64_MAX, UINT64_MAX, "", "batch", "out", "../x", "uint8", "NHWC", "seen"};
};

/// Corrects the checksum of every chunk, so that its content is read.
std::string with_checksums(std::string png) {
    const auto big_endian = [&](std::size_t at) {
        std::uint32_t value = 0;
        for (std::size_t i = 0; i < 4; ++i)
            value = value << 8 | static_cast<unsigned char>(png[at + i]);
        return value;
    };
    std::size_t at = 8;
    while (at + 12 <= png.size() && big_endian(at) <= png.size() - at - 12) {
        const std::size_t end = at + 8 + big_endian(at);
        std::uint32_t checksum = ~0U;
        for (std::size_t i = at + 4; i < end; ++i) {
            checksum ^= static_cast<unsigned char>(png[i]);
            for (int bit = 0; bit < 8; ++bit)
                checksum = checksum >> 1 ^ (checksum & 1 ? 0xedb88320U : 0);
        }
        for (std::size_t i = 0; i < 4; ++i)
            png[end + i] = static_cast<char>(~checksum >> (24 - 8 * i));
        at = end + 4;
    }
    return png;
}

std::string small_png() {
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    image.width = 5;
    image.height = 3;
    image.format = PNG_FORMAT_RGB;
    const std::string pixels(45, 'x');
    std::string text(1 << 16, '\0');
    png_alloc_size_t size = text.size();
    png_image_write_to_memory(&image, text.data(), &size, 0, pixels.data(), 0, nullptr);
    return text.substr(0, size);
}

void read_image_text(const std::string& text) {
    const auto image = parse_image(bytes_of(text), "fuzzed");
    CHECK(image.pixels.size() ==
          static_cast<std::size_t>(image.width * image.height * image.channels));
}

}  // namespace

TEST(manifests) {
    auto manifest = small_manifest();
    manifest["files"].push_back({{"path", "model.onnx"},
                                 {"format", "onnx"},
                                 {"precision", "fp32"},
                                 {"outputs", {"out"}},
                                 {"sha256", std::string(64, '0')},
                                 {"bytes", 12},
                                 {"requires", {{"device", "cpu"}}}});
    const auto read = [](const std::string& text) { parse_manifest(text); };
    fuzz(manifest.dump(),
         Mutator({"null", "[]", "{}", "\"\"", "-1", "1e999", "99999999999999999999", "true", "../",
                  "\\u0000", "\"batch\"", "[", "}", ","}),
         read);
    fuzz(manifest.dump(), JsonMutator(), read);
}

TEST(arrays) {
    fuzz(npy_bytes(npy_header("<f4", "2, 3"), std::string(24, 'x')),
         Mutator({"(", ")", ",", "'", "-1", "99999999999999999999", "4611686018427387904", "True",
                  "<f8", "|u1", "{", "}"}),
         [](const std::string& text) {
             const auto tensor = parse_npy(bytes_of(text), "fuzzed");
             CHECK(tensor.view().size_bytes() ==
                   element_count(tensor.shape()) * size_of(tensor.dtype()));
         });
}

TEST(ppm_images) {
    fuzz("P6\n# comment\n5 3\n255\n" + std::string(45, 'x'),
         Mutator({"P5", "#", "\n", "0", "-1", "65535", "99999999999999999999", "8192"}),
         read_image_text);
}

TEST(png_images) {
    Mutator mutate(
        {"IHDR", "IDAT", "IEND", "PLTE", "tRNS", std::string(4, '\0'), "\x7f\xff\xff\xff"});
    fuzz(small_png(), mutate, read_image_text);
    fuzz(
        small_png(), [&](const std::string& text) { return with_checksums(mutate(text)); },
        read_image_text);
}
