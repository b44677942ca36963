#include "manifest_fields.hpp"

#include <array>
#include <set>

namespace mammoth::detail {
namespace {

// A file that claims to have more bytes is not read. A message of ONNX holds less than 2 GiB.
constexpr std::int64_t largest_file = std::int64_t{1} << 36;
constexpr std::int64_t largest_onnx = std::int64_t{1} << 31;

/// Formats whose files are models.
constexpr std::array<std::string_view, 4> runnable_formats{"onnx", "pt2", "aoti", "torchscript"};

/// Checks what the Python package writes about a model besides its outputs.
void check_measurements(const JsonReader& reader, const std::vector<std::string>& outputs) {
    if (const auto parity = reader.find("parity"))
        parity->members([&](const std::string& name, const JsonReader& value) {
            if (!contains(outputs, name)) parity->fail("of the outputs of the file");
            (void)value.at("size").magnitude();
            (void)value.at("bound").magnitude();
            (void)value.at("batch_size").integer(1, largest_id);
            (void)value.at("inputs").string();
            // Absent in bundles of earlier releases.
            if (value.has("reference"))
                (void)read_choice(value.at("reference"), {"eager", "float64"});
        });
    if (const auto accuracy = reader.find("accuracy"))
        accuracy->members(
            [](const std::string&, const JsonReader& value) { (void)value.number(); });
    if (const auto latency = reader.find("latency")) {
        (void)latency->at("median_ms").magnitude();
        (void)latency->at("calls").integer(1, largest_id);
        (void)latency->at("machine").string();
    }
}

/// Reads the part of a file's entry that only models have.
void read_model(BundleFile& file, const JsonReader& reader, const Contract& contract) {
    file.precision = read_choice(reader.at("precision"), {"fp32", "fp16", "int8"});
    const auto outputs = reader.at("outputs");
    file.outputs = outputs.list(read_string);
    std::set<std::string> names;
    for (const auto& name : file.outputs)
        if (contract.output(name) == nullptr || !names.insert(name).second)
            outputs.fail("different outputs of the contract");
    if (names.empty()) outputs.fail("one output or more");
    check_measurements(reader, file.outputs);
}

}  // namespace

std::string read_string(const JsonReader& reader) {
    return reader.string();
}

std::string read_choice(const JsonReader& reader, std::initializer_list<std::string_view> valid) {
    auto text = reader.string();
    std::string words;
    for (const auto word : valid) words += (words.empty() ? "" : " or ") + std::string(word);
    if (!contains(valid, text)) reader.fail(words);
    return text;
}

std::string read_path(const JsonReader& reader) {
    const auto path = reader.string();
    bool inside = path != "manifest.json" &&
                  path.find_first_of(std::string_view("\\:\0", 3)) == std::string::npos;
    for (std::size_t start = 0; start <= path.size();) {
        const auto end = std::min(path.find('/', start), path.size());
        const auto part = std::string_view(path).substr(start, end - start);
        inside = inside && !part.empty() && part != "." && part != "..";
        start = end + 1;
    }
    if (!inside)
        throw Error(ErrorCode::path, "manifest.json: " + reader.where() + " leaves the bundle: '" +
                                         path + "'. Do not use this bundle");
    return path;
}

BundleFile read_bundle_file(const JsonReader& reader, const Contract& contract) {
    BundleFile file;
    file.path = read_path(reader.at("path"));
    file.format = reader.at("format").string();
    if (file.format.empty() || file.format.front() < 'a' || file.format.front() > 'z' ||
        file.format.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_-") !=
            std::string::npos)
        reader.at("format").fail("the name of a format");
    file.sha256 = reader.at("sha256").string();
    if (file.sha256.size() != 64 ||
        file.sha256.find_first_not_of("0123456789abcdef") != std::string::npos)
        reader.at("sha256").fail("64 lower-case hexadecimal digits");
    const auto most = file.format == "onnx" ? largest_onnx : largest_file;
    file.bytes = static_cast<std::uint64_t>(reader.at("bytes").integer(0, most));
    if (contains(runnable_formats, file.format)) read_model(file, reader, contract);
    if (const auto required = reader.find("requires")) {
        required->members([](const std::string&, const JsonReader& value) { (void)value.string(); });
        file.required = {.device = required->optional_string("device"),
                         .machine = required->optional_string("machine"),
                         .isa = required->optional_string("isa"),
                         .compute_capability = required->optional_string("compute_capability"),
                         .torch = required->optional_string("torch")};
    }
    return file;
}

}  // namespace mammoth::detail
