#include "mammoth/manifest.hpp"

#include "check.hpp"
#include "files.hpp"

using namespace mammoth;
using namespace mammoth::test;
using nlohmann::json;

namespace {

/// Returns the small manifest with the value at a JSON pointer replaced.
std::string with(const std::string& pointer, const json& value) {
    auto manifest = small_manifest();
    manifest[json::json_pointer(pointer)] = value;
    return manifest.dump();
}

json model_entry(const std::string& path) {
    return {{"path", path},
            {"format", "onnx"},
            {"bytes", 1},
            {"sha256", std::string(64, 'a')},
            {"outputs", {"out"}},
            {"precision", "fp32"},
            {"requires", {{"device", "cpu"}, {"isa", "avx2"}}}};
}

}  // namespace

TEST(all_fields_are_read) {
    const auto manifest = parse_manifest(with("/files/3", model_entry("model.onnx")));
    CHECK(manifest.schema == 1 && manifest.name == "small");
    CHECK(manifest.versions.at("torch") == "2.15.0");
    CHECK(manifest.contract.input.name == "input");
    CHECK((manifest.contract.input.item == Shape{3, 2, 4}));
    CHECK(manifest.contract.layout == "NCHW");
    CHECK((manifest.contract.output("features")->item == Shape{5}));
    CHECK(manifest.contract.output("full_0") == nullptr);
    CHECK(manifest.preprocessing->scale == 0.5F && manifest.preprocessing->std[2] == 4);
    CHECK((manifest.classes.ids == std::vector<std::int64_t>{7, 8, 9}));
    CHECK(manifest.classes.tasks[1] == std::pair(std::int64_t{9}, std::int64_t{10}));
    CHECK(manifest.files[3].path == "model.onnx" && manifest.files[3].required.isa == "avx2");
    CHECK(manifest.golden->outputs.at("out") == "golden/out.npy");
}

TEST(optional_fields_may_be_absent) {
    auto manifest = small_manifest();
    for (const auto* key : {"name", "created", "dataset", "versions", "preprocessing", "golden"})
        manifest.erase(key);
    manifest["classes"]["names"] = json::array();
    manifest["added"] = "by a later release of the same schema";
    const auto read = parse_manifest(manifest.dump());
    CHECK(!read.preprocessing && !read.golden && read.classes.names.empty());
}

TEST(later_schema_is_refused_first) {
    CHECK_ERROR(schema, "has schema 2, and this runtime reads schemas up to 1",
                parse_manifest(R"({"schema": 2, "contract": "of another form"})"));
}

TEST(truncated_text_is_refused) {
    const auto whole = small_manifest().dump();
    for (std::size_t length = 0; length < whole.size(); ++length)
        CHECK_ERROR(damaged, "truncated", parse_manifest(whole.substr(0, length)));
    CHECK_ERROR(damaged, "not a JSON object", parse_manifest("[1]"));
    CHECK_ERROR(damaged, "not a JSON object", parse_manifest(std::string(1 << 20, '[')));
    CHECK_ERROR(damaged, "not a JSON object", parse_manifest("{\"a\": \"\xff\"}"));
    CHECK_ERROR(damaged, "not a JSON object", parse_manifest("\xef\xbb\xbf" + whole));
    CHECK_ERROR(damaged, "not a JSON object", parse_manifest(whole + std::string(1, '\0') + "x"));
    auto deep = small_manifest();
    deep["later"] = json::parse(std::string(63, '[') + std::string(63, ']'));
    parse_manifest(deep.dump());
    deep["later"] = json::parse(std::string(64, '[') + std::string(64, ']'));
    CHECK_ERROR(damaged, "nested at most 64 deep", parse_manifest(deep.dump()));
}

TEST(messages_name_the_field) {
    const auto refused = [](const std::string& pointer, const json& value, const char* message) {
        CHECK_ERROR(damaged, message, parse_manifest(with(pointer, value)));
    };
    refused("/schema", 0, "schema must be an integer from 1");
    refused("/schema", "1", "schema must be an integer");
    refused("/schema", 1.0, "schema must be an integer");
    refused("/schema", 18446744073709551615U, "schema must be an integer");
    refused("/contract", nullptr, "contract must be an object");
    refused("/contract/input/dtype", "float64", "contract.input.dtype must be float32 or uint8");
    refused("/contract/input/shape/0", 7, "contract.input.shape[0] must be a string");
    refused("/contract/input/shape/2", 0, "contract.input.shape[2] must be an integer from 1");
    refused("/contract/input/shape/2", 1 << 29, "contract.input.shape must be of fewer values");
    refused("/contract/input/shape", {"batch"}, "contract.input.shape must be the batch axis");
    refused("/contract/outputs/1/name", "out", "contract.outputs must be named differently");
    refused("/contract/outputs/1/dtype", "uint8", "contract.outputs must be float32");
    refused("/preprocessing/mean", {1, 2}, "preprocessing.mean must be one number per channel: 3");
    refused("/preprocessing/std/0", 0, "preprocessing.std[0] must be positive, not zero");
    refused("/preprocessing/scale", 1e300, "preprocessing.scale must be a finite number");
    refused("/classes/ids", {1, 2}, "classes.ids must be one per column of out: 3");
    refused("/classes/names", {"a"}, "classes.names must be empty or one per column of out: 3");
    refused("/classes/tasks/0", {3, 1}, "classes.tasks[0] must be [first, last]");
    refused("/files", json::object(), "files must be an array");
    refused("/versions/torch", 2, "versions.torch must be a string");
    refused("/contract/input/name", "x", "contract.input.name must be input");
    refused("/contract/input/layout", "NHWC", "contract.input.layout must be NCHW");
    refused("/contract/outputs/1/name", "logits", "contract.outputs must be named out, features");
    refused("/contract/returnt", {"out"}, "contract.returnt must be all that the outputs answer");
    refused("/preprocessing/folded", true, "preprocessing.folded must be true for uint8 input");
    refused("/preprocessing/scale", 0, "preprocessing.scale must be positive, not zero");
    refused("/preprocessing/std/1", -1, "preprocessing.std[1] must be positive");
    refused("/preprocessing/std/1", 1e-50, "preprocessing.std[1] must be positive");
    refused("/classes/ids", {7, 7, 9}, "classes.ids must be different numbers");
    refused("/classes/seen", {7}, "classes.seen must be the classes of the tasks seen");
    refused("/classes/tasks/1", {0, 1000000000000}, "classes.tasks must be of at most 1048576");
    refused("/classes/tasks_seen", 3, "classes.tasks_seen must be an integer from 0 to 2");
    refused("/classes/head", "half", "classes.head must be all or seen or masked");
    refused("/golden/outputs", json::object(), "golden.outputs must be there for out");
    refused("/golden/outputs/out", "x.npy", "golden.outputs must be paths that files lists");
    refused("/golden/input", "x.npy", "golden.input must be a path that files lists");
    refused("/files/1/path", "golden/input.npy", "files[1].path must be a path of its own");
    refused("/files/0/format", "../x", "files[0].format must be the name of a format");
    auto entry = model_entry("model.onnx");
    entry["sha256"] = "ABC";
    refused("/files", json::array({entry}), "files[0].sha256 must be 64 lower-case");
    entry = model_entry("model.onnx");
    entry["bytes"] = -1;
    refused("/files", json::array({entry}), "files[0].bytes must be an integer from 0");
    entry["bytes"] = 1LL << 40;
    refused("/files", json::array({entry}), "files[0].bytes must be an integer from 0 to");
    entry = model_entry("model.onnx");
    entry["outputs"] = {"out", "logits"};
    refused("/files", json::array({entry}), "files[0].outputs must be different outputs");
    entry["outputs"] = json::array();
    refused("/files", json::array({entry}), "files[0].outputs must be one output or more");
    entry["outputs"] = {"out"};
    entry["precision"] = "fp64";
    refused("/files", json::array({entry}), "files[0].precision must be fp32 or fp16 or int8");
    entry["precision"] = "fp32";
    entry["parity"] = {{"out", {{"size", -1}}}};
    refused("/files", json::array({entry}), "files[0].parity.out.size must be a number that is");
    entry["parity"] = {{"out", {{"size", 0.0}, {"bound", 0.0}, {"batch_size", 1}, {"inputs", "x"},
                                {"reference", "double"}}}};
    refused("/files", json::array({entry}), "files[0].parity.out.reference must be eager or float64");
    entry.erase("path");
    refused("/files", json::array({entry}), "files[0].path must be there");
}

TEST(paths_outside_the_bundle_are_refused) {
    for (const auto* path : {"../model.onnx", "/etc/passwd", "golden/../../x", "..", ".", "",
                             "golden/", "a\\..\\b", "./model.onnx", "golden//x", "C:/x", "manifest.json"}) {
        CHECK_ERROR(path, "files[0].path leaves the bundle",
                    parse_manifest(with("/files", json::array({model_entry(path)}))));
        CHECK_ERROR(path, "golden.input leaves the bundle",
                    parse_manifest(with("/golden/input", path)));
    }
    CHECK_ERROR(path, "leaves the bundle",
                parse_manifest(with("/files", json::array({model_entry(std::string("a\0b", 3))}))));
}

TEST(missing_and_oversized_files_are_refused) {
    const TemporaryDirectory bundle;
    CHECK_ERROR(missing, "manifest.json", read_manifest(bundle.path()));
    write_file(bundle.path() / "manifest.json", std::string((1 << 20) + 1, ' '));
    CHECK_ERROR(damaged, "the limit is 1048576", read_manifest(bundle.path()));
    write_manifest(bundle.path(), small_manifest());
    CHECK(read_manifest(bundle.path()).name == "small");
    CHECK_ERROR(missing, "manifest.json", read_manifest(bundle.path() / "manifest.json"));
}
