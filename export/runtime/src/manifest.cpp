#include "mammoth/manifest.hpp"

#include <algorithm>
#include <set>

#include "file.hpp"
#include "json_reader.hpp"

namespace mammoth {
namespace {

using detail::JsonReader;

constexpr std::uintmax_t largest_manifest = 1U << 20;
constexpr std::int64_t largest_size = 1 << 30;
constexpr std::int64_t largest_id = std::int64_t{1} << 53;  // exact in every JSON parser

std::string read_string(const JsonReader& reader) {
    return reader.string();
}
float read_number(const JsonReader& reader) {
    return reader.number();
}
std::int64_t read_id(const JsonReader& reader) {
    return reader.integer(0, largest_id);
}

/// Reads a path that stays inside the bundle.
std::string read_path(const JsonReader& reader) {
    const auto path = reader.string();
    bool inside = !path.empty() && path.front() != '/' && path.back() != '/' &&
                  path.find('\\') == std::string::npos && path.find('\0') == std::string::npos;
    for (const auto& part : std::filesystem::path(path))
        inside = inside && part != ".." && part != "." && !part.empty();
    if (!inside)
        throw Error(ErrorCode::path, "manifest.json: " + reader.where() + " leaves the bundle: '" +
                                         path + "'. Do not use this bundle");
    return path;
}

TensorInfo read_tensor(const JsonReader& reader) {
    TensorInfo info{.name = reader.at("name").string(), .item = {}};
    const auto dtype = reader.at("dtype").string();
    const auto known = std::ranges::find(dtype_names, dtype);
    if (known == dtype_names.end()) reader.at("dtype").fail("float32 or uint8");
    info.dtype = static_cast<DType>(known - dtype_names.begin());

    const auto shape = reader.at("shape");
    const auto axes = shape.elements();
    if (axes.size() < 2 || axes.size() > 8) shape.fail("the batch axis and one to seven more");
    if (axes.front().string() != "batch") axes.front().fail("\"batch\"");
    for (std::size_t i = 1; i < axes.size(); ++i)
        info.item.push_back(axes[i].integer(1, largest_size));
    std::int64_t count = 1;
    for (const auto size : info.item)
        if ((count *= size) > largest_size) shape.fail("of fewer values");
    return info;
}

Contract read_contract(const JsonReader& reader) {
    Contract contract;
    contract.input = read_tensor(reader.at("input"));
    contract.layout = reader.at("input").optional_string("layout");
    contract.outputs = reader.at("outputs").list(read_tensor);
    contract.returnt = reader.at("returnt").list(read_string);
    std::set<std::string> names;
    for (const auto& output : contract.outputs) {
        if (output.dtype != DType::float32) reader.at("outputs").fail("float32");
        if (!names.insert(output.name).second) reader.at("outputs").fail("named differently");
    }
    return contract;
}

Preprocessing read_preprocessing(const JsonReader& reader, const Contract& contract) {
    Preprocessing result;
    result.folded = reader.at("folded").boolean();
    result.scale = reader.at("scale").number();
    result.mean = reader.at("mean").list(read_number);
    result.std = reader.at("std").list(read_number);
    const auto& item = contract.input.item;
    const auto channels =
        static_cast<std::size_t>(contract.layout == "NHWC" ? item.back() : item.front());
    for (const auto* key : {"mean", "std"})
        if (reader.at(key).size() != channels)
            reader.at(key).fail("one number per channel: " + std::to_string(channels));
    if (std::ranges::find(result.std, 0.0F) != result.std.end()) reader.at("std").fail("not zero");
    return result;
}

Classes read_classes(const JsonReader& reader, const Contract& contract) {
    Classes classes;
    classes.ids = reader.at("ids").list(read_id);
    classes.names = reader.at("names").list(read_string);
    classes.seen = reader.at("seen").list(read_id);
    classes.tasks = reader.at("tasks").list([](const JsonReader& task) {
        const auto bounds = task.list(read_id);
        if (bounds.size() != 2 || bounds[0] > bounds[1]) task.fail("[first, last]");
        return std::pair(bounds[0], bounds[1]);
    });
    classes.tasks_seen = reader.at("tasks_seen").integer(0, largest_size);
    classes.head = reader.at("head").string();
    classes.softmax = reader.at("softmax").boolean();
    if (const auto* out = contract.output("out")) {
        const auto columns = static_cast<std::size_t>(out->item.front());
        const auto text = std::to_string(columns);
        if (classes.ids.size() != columns) reader.at("ids").fail("one per column of out: " + text);
        if (!classes.names.empty() && classes.names.size() != columns)
            reader.at("names").fail("empty or one per column of out: " + text);
    }
    return classes;
}

BundleFile read_bundle_file(const JsonReader& reader) {
    BundleFile file;
    file.path = read_path(reader.at("path"));
    file.format = reader.at("format").string();
    file.precision = reader.optional_string("precision");
    if (const auto outputs = reader.find("outputs")) file.outputs = outputs->list(read_string);
    file.sha256 = reader.at("sha256").string();
    if (file.sha256.size() != 64 ||
        file.sha256.find_first_not_of("0123456789abcdef") != std::string::npos)
        reader.at("sha256").fail("64 lower-case hexadecimal digits");
    file.bytes = static_cast<std::uint64_t>(reader.at("bytes").integer(0, largest_id));
    if (const auto required = reader.find("requires"))
        file.required = {.device = required->optional_string("device"),
                         .machine = required->optional_string("machine"),
                         .isa = required->optional_string("isa"),
                         .compute_capability = required->optional_string("compute_capability"),
                         .torch = required->optional_string("torch")};
    return file;
}

Golden read_golden(const JsonReader& reader) {
    Golden golden{.input = read_path(reader.at("input")), .outputs = {}};
    reader.at("outputs").members([&](const std::string& name, const JsonReader& path) {
        golden.outputs[name] = read_path(path);
    });
    return golden;
}

}  // namespace

const TensorInfo* Contract::output(std::string_view name) const noexcept {
    const auto found = std::ranges::find(outputs, name, &TensorInfo::name);
    return found == outputs.end() ? nullptr : &*found;
}

Manifest parse_manifest(std::string_view text) {
    const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object())
        throw Error(ErrorCode::damaged,
                    "manifest.json is not a JSON object; it is truncated or was overwritten");
    const JsonReader root(json, "");
    Manifest manifest;
    manifest.schema = root.at("schema").integer(1, largest_id);
    if (manifest.schema > manifest_schema)
        throw Error(ErrorCode::schema,
                    "manifest.json has schema " + std::to_string(manifest.schema) +
                        ", and this runtime reads schemas up to " +
                        std::to_string(manifest_schema) + ". Use a later runtime");
    manifest.name = root.optional_string("name");
    manifest.created = root.optional_string("created");
    manifest.dataset = root.optional_string("dataset");
    if (const auto versions = root.find("versions"))
        versions->members([&](const std::string& key, const JsonReader& version) {
            manifest.versions[key] = version.string();
        });
    manifest.contract = read_contract(root.at("contract"));
    if (const auto preprocessing = root.find("preprocessing"))
        manifest.preprocessing = read_preprocessing(*preprocessing, manifest.contract);
    manifest.classes = read_classes(root.at("classes"), manifest.contract);
    manifest.files = root.at("files").list(read_bundle_file);
    if (const auto golden = root.find("golden")) manifest.golden = read_golden(*golden);
    return manifest;
}

Manifest read_manifest(const std::filesystem::path& bundle) {
    const auto bytes = detail::read_file(bundle / "manifest.json", largest_manifest);
    return parse_manifest({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

}  // namespace mammoth
