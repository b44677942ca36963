// The content of a bundle's manifest.json, validated.
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

/// The latest schema that this reader supports, along with all earlier ones.
inline constexpr std::int64_t manifest_schema = 1;

/// An input or output; `item` is its shape without the batch axis, which comes first.
struct TensorInfo {
    std::string name;
    DType dtype = DType::float32;
    Shape item;
};

struct Contract {
    TensorInfo input;
    std::string layout;  ///< axes of the input: NCHW or NHWC
    std::vector<TensorInfo> outputs;
    std::vector<std::string> returnt;  ///< supported return types: out, features, both, full

    /// Returns the output of that name, or nullptr.
    [[nodiscard]] MAMMOTH_API const TensorInfo* output(std::string_view name) const noexcept;
};

/// Turns stored uint8 pixels into the input: (pixel * scale - mean[c]) / std[c].
struct Preprocessing {
    bool folded = false;  ///< the model does this itself and takes uint8 NHWC
    float scale = 1;
    std::vector<float> mean;  ///< one per channel
    std::vector<float> std;   ///< one per channel
};

struct Classes {
    std::vector<std::int64_t> ids;   ///< class id of each column of `out`
    std::vector<std::string> names;  ///< name of each column; empty if unknown
    std::vector<std::int64_t> seen;  ///< ids the weights were trained on, in order of training
    std::vector<std::pair<std::int64_t, std::int64_t>> tasks;  ///< [first, last) of each task
    std::int64_t tasks_seen = 0;
    std::string head;      ///< all, seen (only classes seen) or masked (unseen lowest)
    bool softmax = false;  ///< `out` holds probabilities
};

/// What a machine must have to run a compiled package; empty strings require nothing.
struct Requirements {
    std::string device{};              ///< cpu or cuda
    std::string machine{};             ///< as printed by uname -m
    std::string isa{};                 ///< CPU capability of torch, lower case: avx512, avx2
    std::string compute_capability{};  ///< of the GPU: 9.0
    std::string torch{};               ///< version of libtorch it was compiled with: 2.15.0
};

struct BundleFile {
    std::string path;  ///< relative to the bundle, and verified to be inside it
    std::string format;
    std::string precision;             ///< fp32, fp16, int8; empty if not a model
    std::vector<std::string> outputs;  ///< empty if not a model
    std::string sha256;                ///< 64 lower-case hexadecimal digits
    std::uint64_t bytes = 0;
    Requirements required;
};

struct Golden {
    std::string input;                           ///< path of the .npy
    std::map<std::string, std::string> outputs;  ///< output name to path
};

struct Manifest {
    std::int64_t schema = manifest_schema;
    std::string name;
    std::string created;
    std::string dataset;
    std::map<std::string, std::string> versions;
    Contract contract;
    std::optional<Preprocessing> preprocessing;  ///< absent if unknown
    Classes classes;
    std::vector<BundleFile> files;
    std::optional<Golden> golden;
};

/// Parses and validates the text of a manifest.json.
/// Throws Error: damaged, schema (a later one), path (one that leaves the bundle).
MAMMOTH_API Manifest parse_manifest(std::string_view json);

/// Reads the manifest.json of a bundle. Throws Error: missing, and as parse_manifest.
MAMMOTH_API Manifest read_manifest(const std::filesystem::path& bundle);

}  // namespace mammoth
