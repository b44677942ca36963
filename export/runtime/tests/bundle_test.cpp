// Small bundles that cannot be opened or run; golden_test.cpp runs exported ones.
#include "mammoth/bundle.hpp"

#include "check.hpp"
#include "files.hpp"

using namespace mammoth;
using namespace mammoth::test;

namespace {

struct SmallBundle {
    TemporaryDirectory directory;
    nlohmann::json manifest = small_manifest();

    [[nodiscard]] const std::filesystem::path& path() const { return directory.path(); }

    nlohmann::json& add(const std::string& file, const std::string& format,
                        std::string_view text = "garbage",
                        std::vector<std::string> outputs = {"out", "features"}) {
        return add_model(manifest, path(), file, format, text, std::move(outputs));
    }

    [[nodiscard]] Bundle open(Backend backend = Backend::onnx, Options options = {}) const {
        write_manifest(path(), manifest);
        return Bundle::open(path(), backend, std::move(options));
    }
};

}  // namespace

TEST(missing_bundle_is_refused) {
    CHECK_ERROR(missing, "manifest.json", Bundle::open("/nowhere"));
    CHECK_ERROR(missing, "manifest.json", Bundle::open(""));
}

TEST(backend_names_are_parsed) {
    CHECK(parse_backend("torchscript") == Backend::torchscript);
    CHECK_ERROR(contract, "unknown backend 'tflite'; valid: onnx, aoti, torchscript",
                parse_backend("tflite"));
}

TEST(missing_model_for_the_backend_is_refused) {
    SmallBundle bundle;
    CHECK_ERROR(contract, "no fp32 model for onnx; it has: no model", bundle.open());
    bundle.add("model.onnx", "onnx");
    CHECK_ERROR(contract, "no int8 model for onnx; it has: onnx fp32",
                bundle.open(Backend::onnx, {.precision = "int8"}));
}

TEST(files_that_differ_from_the_manifest_are_refused) {
    SmallBundle bundle;
    bundle.add("model.onnx", "onnx");
    const auto model = bundle.path() / "model.onnx";
    CHECK(bundle.open().answers(ReturnType::both));  // open checks only the size
    write_file(model, "truncat");
    CHECK_ERROR(damaged, "sha256 differs", bundle.open().prepare(ReturnType::both));
    write_file(model, "more than garbage");
    CHECK_ERROR(damaged, "17 bytes, and manifest.json says 7", bundle.open());
    std::filesystem::remove(model);
    CHECK_ERROR(missing, "model.onnx", bundle.open());
    std::filesystem::create_directory(model);
    CHECK_ERROR(missing, "model.onnx", bundle.open());
}

TEST(links_out_of_the_bundle_are_refused) {
    SmallBundle bundle;
    SmallBundle other;
    bundle.add("model.onnx", "onnx");
    other.add("model.onnx", "onnx");
    std::filesystem::rename(bundle.path() / "model.onnx", bundle.path() / "inside");
    std::filesystem::create_symlink("inside", bundle.path() / "model.onnx");
    CHECK(bundle.open().answers(ReturnType::out));
    std::filesystem::remove(bundle.path() / "model.onnx");
    std::filesystem::create_symlink(other.path() / "model.onnx", bundle.path() / "model.onnx");
    CHECK_ERROR(path, "model.onnx is a link that leaves the bundle", bundle.open());
    std::filesystem::remove(bundle.path() / "model.onnx");
    std::filesystem::create_symlink("model.onnx", bundle.path() / "model.onnx");
    CHECK_ERROR(path, "model.onnx is a link", bundle.open());
    std::filesystem::remove(bundle.path() / "model.onnx");
    std::filesystem::rename(bundle.path() / "inside", bundle.path() / "model.onnx");
    std::filesystem::create_directory(bundle.path() / "golden");
    std::filesystem::create_symlink("/dev/zero", bundle.path() / "golden/out.npy");
    CHECK_ERROR(path, "golden/out.npy is a link that leaves the bundle", bundle.open());
}

TEST(file_changed_after_opening_is_refused) {
    SmallBundle bundle;
    bundle.add("model.onnx", "onnx");
    const auto opened = bundle.open();
    write_file(bundle.path() / "model.onnx", "another and longer");
    CHECK_ERROR(damaged, "18 bytes", opened.prepare(ReturnType::out));
}

TEST(invalid_onnx_is_refused) {
    SmallBundle bundle;
    bundle.add("model.onnx", "onnx", std::string(1000, '\x5a'));
    const auto opened = bundle.open();
    CHECK_ERROR(damaged, "cannot be loaded. ONNX Runtime: ", opened.prepare(ReturnType::both));
    CHECK_ERROR(damaged, "cannot be loaded",
                opened.prepare(ReturnType::both));  // also the second time
}

TEST(empty_model_is_refused) {
    SmallBundle bundle;
    bundle.add("model.onnx", "onnx", "");
    CHECK_ERROR(damaged, "cannot be loaded", bundle.open().prepare(ReturnType::both));
}

TEST(unsupported_return_types_are_refused) {
    SmallBundle bundle;
    bundle.add("model.out.onnx", "onnx", "garbage", {"out"});
    const auto opened = bundle.open();
    CHECK(opened.answers(ReturnType::out) && !opened.answers(ReturnType::both));
    CHECK_ERROR(contract, "has no 'both'; it has: out", opened.prepare(ReturnType::both));
    CHECK_ERROR(contract, "unknown return type number 9; valid: out, features, both",
                opened.prepare(static_cast<ReturnType>(9)));
    CHECK(!opened.answers(static_cast<ReturnType>(9)));

    SmallBundle undeclared;
    undeclared.add("model.onnx", "onnx");
    undeclared.manifest["contract"]["returnt"] = {"out"};
    CHECK_ERROR(damaged, "contract.returnt must be all", undeclared.open());

    SmallBundle unknown;
    unknown.add("model.onnx", "onnx");
    unknown.manifest["contract"]["outputs"].erase(1);
    CHECK_ERROR(damaged, "contract.returnt must be all", unknown.open());
    unknown.manifest["contract"]["returnt"] = {"out"};
    CHECK_ERROR(damaged, "files[3].outputs must be different outputs", unknown.open());
}

TEST(packages_for_other_hardware_are_refused) {
    SmallBundle bundle;
    bundle.add("model.onnx", "onnx")["requires"] = {{"device", "cpu"}, {"isa", "avx4096"}};
    CHECK_ERROR(hardware, "model.onnx: it needs the instruction set avx4096", bundle.open());
}

TEST(missing_library_is_refused) {
    SmallBundle bundle;
    bundle.add("model.onnx", "onnx");
    CHECK_ERROR(backend, "ONNX Runtime was not found; /nowhere.so",
                bundle.open(Backend::onnx, {.library = "/nowhere.so"}));
    CHECK_ERROR(backend, "libc.so.6 has no function OrtGetApiBase",
                bundle.open(Backend::onnx, {.library = "libc.so.6"}));
    CHECK_ERROR(backend, "libmammoth_torch.so",
                bundle.open(Backend::aoti, {.library = "/nowhere.so"}));
}

#ifdef MAMMOTH_HAS_TORCH
TEST(invalid_packages_and_modules_are_refused) {
    const std::string junk(1000, '\x5a');
    for (const std::string_view text :
         {std::string_view(junk), std::string_view("PK\x03\x04"), std::string_view()}) {
        SmallBundle bundle;
        bundle.add("model.aoti-cpu.pt2", "aoti", text);
        bundle.add("model.ts.pt", "torchscript", text);
        CHECK_ERROR(damaged, "model.aoti-cpu.pt2 cannot be loaded",
                    bundle.open(Backend::aoti).prepare(ReturnType::both));
        CHECK_ERROR(damaged, "model.ts.pt cannot be loaded",
                    bundle.open(Backend::torchscript).prepare(ReturnType::both));
    }
}

TEST(packages_for_another_libtorch_are_refused) {
    SmallBundle bundle;
    bundle.add("model.aoti-cpu.pt2", "aoti")["requires"] = {{"device", "cpu"}, {"torch", "1.13.0"}};
    CHECK_ERROR(hardware, "compiled with torch 1.13.0", bundle.open(Backend::aoti));
}
#endif
