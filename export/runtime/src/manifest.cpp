#include "mammoth/manifest.hpp"

#include <algorithm>
#include <ranges>
#include <set>

#include "file.hpp"
#include "manifest_fields.hpp"

namespace mammoth {
namespace {

using detail::contains;
using detail::JsonReader;
using detail::largest_id;
using detail::read_choice;
using detail::read_path;
using detail::read_string;

constexpr std::uintmax_t largest_manifest = 1U << 20;
constexpr std::int64_t largest_size = 1 << 30;
constexpr std::int64_t most_classes = 1 << 20;  // of all tasks together, seen or not
constexpr int deepest = 64;

float read_number(const JsonReader& reader) {
    return reader.number();
}
std::int64_t read_id(const JsonReader& reader) {
    return reader.integer(0, largest_id);
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

/// Returns whether a name is that of an output: out, features, full_0, full_1, ...
bool is_output(std::string_view name) {
    constexpr std::string_view prefix = "full_";
    return name == "out" || name == "features" ||
           (name.starts_with(prefix) && name.size() > prefix.size() &&
            name.find_first_not_of("0123456789", prefix.size()) == std::string_view::npos);
}

/// Returns the return types that the outputs serve, in the order of the contract.
std::vector<std::string> served(const std::vector<TensorInfo>& outputs) {
    const auto is_map = [](const TensorInfo& output) { return output.name.starts_with("full_"); };
    std::vector<std::string> result{"out"};
    if (contains(outputs | std::views::transform(&TensorInfo::name), "features"))
        result.insert(result.end(), {"features", "both"});
    if (std::ranges::any_of(outputs, is_map)) result.emplace_back("full");
    return result;
}

Contract read_contract(const JsonReader& reader) {
    Contract contract;
    const auto input = reader.at("input");
    contract.input = read_tensor(input);
    const bool pixels = contract.input.dtype == DType::uint8;
    contract.layout = read_choice(input.at("layout"), {pixels ? "NHWC" : "NCHW"});
    read_choice(input.at("name"), {"input"});
    if (contract.input.item.size() != 3) input.at("shape").fail("the batch axis and three more");

    const auto outputs = reader.at("outputs");
    contract.outputs = outputs.list(read_tensor);
    std::set<std::string> names;
    for (const auto& output : contract.outputs) {
        if (output.dtype != DType::float32) outputs.fail("float32");
        if (!names.insert(output.name).second) outputs.fail("named differently");
        if (!is_output(output.name)) outputs.fail("named out, features, full_0, full_1, ...");
        if (!output.name.starts_with("full_") && output.item.size() != 1)
            outputs.fail("[batch, K] for out, and likewise for features");
    }
    if (!names.contains("out")) outputs.fail("at least out");
    contract.returnt = reader.at("returnt").list(read_string);
    if (contract.returnt != served(contract.outputs))
        reader.at("returnt").fail("all that the outputs answer");
    return contract;
}

Preprocessing read_preprocessing(const JsonReader& reader, const Contract& contract) {
    Preprocessing result;
    result.folded = reader.at("folded").boolean();
    if (result.folded != (contract.input.dtype == DType::uint8))
        reader.at("folded").fail("true for uint8 input, and only for that");
    result.scale = reader.at("scale").positive();
    result.mean = reader.at("mean").list(read_number);
    result.std = reader.at("std").list([](const JsonReader& std) { return std.positive(); });
    const auto& item = contract.input.item;
    const auto channels =
        static_cast<std::size_t>(contract.layout == "NHWC" ? item.back() : item.front());
    for (const auto* key : {"mean", "std"})
        if (reader.at(key).size() != channels)
            reader.at(key).fail("one number per channel: " + std::to_string(channels));
    return result;
}

/// Returns the classes of the tasks seen, each once, in the order of training.
std::vector<std::int64_t> classes_seen(const Classes& classes) {
    std::vector<std::int64_t> ids;
    std::set<std::int64_t> known;
    for (std::size_t task = 0; task < static_cast<std::size_t>(classes.tasks_seen); ++task)
        for (auto id = classes.tasks[task].first; id < classes.tasks[task].second; ++id)
            if (known.insert(id).second) ids.push_back(id);
    return ids;
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
    std::int64_t count = 0;
    for (const auto& [first, end] : classes.tasks)
        if ((count += end - first) > most_classes)
            reader.at("tasks").fail("of at most " + std::to_string(most_classes) + " classes");
    classes.tasks_seen = reader.at("tasks_seen")
                             .integer(0, static_cast<std::int64_t>(classes.tasks.size()));
    classes.head = read_choice(reader.at("head"), {"all", "seen", "masked"});
    classes.softmax = reader.at("softmax").boolean();
    const auto columns = static_cast<std::size_t>(contract.output("out")->item.front());
    const auto text = std::to_string(columns);
    if (classes.ids.size() != columns) reader.at("ids").fail("one per column of out: " + text);
    if (std::set(classes.ids.begin(), classes.ids.end()).size() != columns)
        reader.at("ids").fail("different numbers");
    if (!classes.names.empty() && classes.names.size() != columns)
        reader.at("names").fail("empty or one per column of out: " + text);
    if (classes.seen != classes_seen(classes))
        reader.at("seen").fail("the classes of the tasks seen");
    return classes;
}

Golden read_golden(const JsonReader& reader, const Manifest& manifest) {
    Golden golden{.input = read_path(reader.at("input")), .outputs = {}};
    const auto outputs = reader.at("outputs");
    outputs.members([&](const std::string& name, const JsonReader& path) {
        golden.outputs[name] = read_path(path);
    });
    const auto is_listed = [&](const std::string& path) {
        return contains(manifest.files | std::views::transform(&BundleFile::path), path);
    };
    for (const auto& output : manifest.contract.outputs)
        if (!golden.outputs.contains(output.name)) outputs.fail("there for " + output.name);
    if (golden.outputs.size() != manifest.contract.outputs.size())
        outputs.fail("of the outputs of the contract, and no others");
    for (const auto& [name, path] : golden.outputs)
        if (!is_listed(path)) outputs.fail("paths that files lists");
    if (!is_listed(golden.input)) reader.at("input").fail("a path that files lists");
    return golden;
}

/// Parses JSON of bounded depth.
nlohmann::json parse_json(std::string_view text) {
    const auto check_depth = [](int depth, nlohmann::json::parse_event_t event, nlohmann::json&) {
        const bool opens = event == nlohmann::json::parse_event_t::object_start ||
                           event == nlohmann::json::parse_event_t::array_start;
        if (opens && depth >= deepest)
            throw Error(ErrorCode::damaged, "manifest.json is not a JSON object that is nested at "
                                            "most " +
                                                std::to_string(deepest) + " deep");
        return true;
    };
    // nlohmann::json skips a byte order mark, and ends at a null byte.
    if (text.starts_with("\xef\xbb\xbf") || text.find('\0') != std::string_view::npos) return {};
    return nlohmann::json::parse(text, check_depth, /*allow_exceptions=*/false);
}

}  // namespace

const TensorInfo* Contract::output(std::string_view name) const noexcept {
    const auto found = std::ranges::find(outputs, name, &TensorInfo::name);
    return found == outputs.end() ? nullptr : &*found;
}

Manifest parse_manifest(std::string_view text) {
    const auto json = parse_json(text);
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
    std::set<std::string> paths;
    for (const auto& entry : root.at("files").elements()) {
        manifest.files.push_back(detail::read_bundle_file(entry, manifest.contract));
        if (!paths.insert(manifest.files.back().path).second)
            entry.at("path").fail("a path of its own");
    }
    if (const auto golden = root.find("golden")) manifest.golden = read_golden(*golden, manifest);
    return manifest;
}

Manifest read_manifest(const std::filesystem::path& bundle) {
    const auto bytes = detail::read_file(bundle / "manifest.json", largest_manifest);
    return parse_manifest({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

}  // namespace mammoth
