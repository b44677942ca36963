// What manifest.json of a bundle says, as checked structures.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mammoth/api.hpp"
#include "mammoth/tensor.hpp"

namespace mammoth {

/// The latest schema this reader reads; it reads all earlier ones too.
inline constexpr std::int64_t manifest_schema = 1;

/// An input or output; `item` is its shape without the batch axis, which always comes first.
struct TensorInfo {
    std::string name;
    DType dtype = DType::float32;
    Shape item;
};

struct Contract {
    TensorInfo input;
    std::string layout;  ///< axes of the input: NCHW or NHWC
    std::vector<TensorInfo> outputs;
    std::vector<std::string> returnt;  ///< what the bundle answers: out, features, both, full

    /// The output of that name, or nullptr.
    [[nodiscard]] MAMMOTH_API const TensorInfo* output(std::string_view name) const noexcept;
};

/// How stored uint8 pixels become the input: (pixel * scale - mean[c]) / std[c].
struct Preprocessing {
    bool folded = false;  ///< the model does it itself and takes uint8 NHWC
    float scale = 1;
    std::vector<float> mean;  ///< one a channel
    std::vector<float> std;   ///< one a channel
};

struct Classes {
    std::vector<std::int64_t> ids;   ///< class id of each column of `out`
    std::vector<std::string> names;  ///< name of each column; empty where not known
    std::vector<std::int64_t> seen;  ///< ids the weights were trained on, in the order they came
    std::vector<std::pair<std::int64_t, std::int64_t>> tasks;  ///< [first, last) of each task
    std::int64_t tasks_seen = 0;
    std::string head;      ///< all, seen (only columns seen) or masked (others lowest)
    bool softmax = false;  ///< `out` holds probabilities
};

/// What a machine must have to run a compiled package; empty strings ask for nothing.
struct Requirements {
    std::string device{};              ///< cpu or cuda
    std::string machine{};             ///< as uname -m says
    std::string isa{};                 ///< as Inductor says, in lower case: avx512, avx2, default
    std::string compute_capability{};  ///< of the GPU: 9.0
    std::string torch{};               ///< libtorch it was built with: 2.15.0
};

struct BundleFile {
    std::string path;  ///< relative to the bundle, checked not to leave it
    std::string format;
    std::string precision;             ///< fp32, fp16, int8; empty for what is no model
    std::vector<std::string> outputs;  ///< empty for what is no model
    std::string sha256;                ///< 64 lower-case hexadecimal digits
    std::uint64_t bytes = 0;
    Requirements required;
};

struct Golden {
    std::string input;                           ///< path of the .npy
    std::map<std::string, std::string> outputs;  ///< name of the output to path
};

struct Manifest {
    std::int64_t schema = manifest_schema;
    std::string name;
    std::string created;
    std::string dataset;
    std::map<std::string, std::string> versions;
    Contract contract;
    std::optional<Preprocessing> preprocessing;  ///< absent where it is not known
    Classes classes;
    std::vector<BundleFile> files;
    std::optional<Golden> golden;
};

/// Checks and reads the text of a manifest.json.
/// Throws Error: damaged, schema (a later one), path (one that leaves the bundle).
MAMMOTH_API Manifest parse_manifest(std::string_view json);

/// Reads manifest.json of a bundle. Throws Error: missing, and as parse_manifest.
MAMMOTH_API Manifest read_manifest(const std::filesystem::path& bundle);

}  // namespace mammoth
