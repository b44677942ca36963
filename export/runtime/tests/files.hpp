// Creates files and small bundles for tests.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../src/sha256.hpp"
#include "bytes.hpp"

namespace mammoth::test {

inline void write_file(const std::filesystem::path& path, std::string_view text) {
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
}

/// A new directory, removed by the destructor.
class TemporaryDirectory {
  public:
    TemporaryDirectory()
        : path_(std::filesystem::temp_directory_path() /
                ("mammoth-test-" + std::to_string(getpid()) + "-" +
                 std::to_string(std::random_device()()))) {
        std::filesystem::create_directories(path_);
    }
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
    ~TemporaryDirectory() { std::filesystem::remove_all(path_); }

    [[nodiscard]] const std::filesystem::path& path() const { return path_; }

  private:
    std::filesystem::path path_;
};

/// Returns the manifest of a bundle for RGB images of 2 x 4, with three classes and no model.
inline nlohmann::json small_manifest() {
    auto manifest = nlohmann::json::parse(R"({
        "schema": 1, "name": "small", "created": "2026-01-02T03:04:05Z", "dataset": "none",
        "versions": {"torch": "2.15.0"},
        "contract": {
            "input": {"name": "input", "dtype": "float32", "shape": ["batch", 3, 2, 4],
                      "layout": "NCHW"},
            "outputs": [{"name": "out", "dtype": "float32", "shape": ["batch", 3]},
                        {"name": "features", "dtype": "float32", "shape": ["batch", 5]}],
            "returnt": ["out", "features", "both"]},
        "preprocessing": {"folded": false, "scale": 0.5, "mean": [1, 2, 3], "std": [1, 2, 4]},
        "classes": {"ids": [7, 8, 9], "names": ["a", "b", "c"], "seen": [7, 8],
                    "tasks": [[7, 9], [9, 10]], "tasks_seen": 1, "head": "all", "softmax": false},
        "files": [],
        "golden": {"input": "golden/input.npy", "outputs": {"out": "golden/out.npy",
                                                            "features": "golden/features.npy"}}
    })");
    for (const auto* name : {"input", "out", "features"})
        manifest["files"].push_back({{"path", std::string("golden/") + name + ".npy"},
                                     {"format", "golden"},
                                     {"sha256", std::string(64, '0')},
                                     {"bytes", 1}});
    return manifest;
}

/// Writes a model file into a bundle and adds it to the manifest.
inline nlohmann::json& add_model(nlohmann::json& manifest, const std::filesystem::path& bundle,
                                 const std::string& path, const std::string& format,
                                 std::string_view text,
                                 std::vector<std::string> outputs = {"out", "features"}) {
    write_file(bundle / path, text);
    return manifest["files"].emplace_back(nlohmann::json{{"path", path},
                                                         {"format", format},
                                                         {"precision", "fp32"},
                                                         {"outputs", std::move(outputs)},
                                                         {"sha256", detail::sha256(bytes_of(text))},
                                                         {"bytes", text.size()},
                                                         {"requires", nlohmann::json::object()}});
}

inline void write_manifest(const std::filesystem::path& bundle, const nlohmann::json& manifest) {
    write_file(bundle / "manifest.json", manifest.dump());
}

}  // namespace mammoth::test
