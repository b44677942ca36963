"""The comparison with eager mode finds every difference, reports it, and stops the export."""

import json

import onnx
import pytest
import torch
from torch.nn import functional as F

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export import export_bundle, load_bundle
from mammoth_compiled.export.capture.interface import Interface
from mammoth_compiled.export.formats import onnx as to_onnx
from mammoth_compiled.export.parity import compare as comparison
from mammoth_compiled.types import ReturnTypes

SHAPE = (3, 8, 6)
WEIGHT = torch.linspace(-1, 1, 3 * 8 * 6 * 4).reshape(3 * 8 * 6, 4)


def eager(output, images):
    features = images.flatten(1)
    return features @ WEIGHT if output == "out" else features


def export(images):
    return {name: eager(name, images) for name in ("out", "features")}


INTERFACE = Interface(SHAPE, {"out": (4,), "features": (3 * 8 * 6,)})


def compare(run, reference=eager, samples=None):
    cases = comparison.make_batches(reference, INTERFACE, samples)
    return comparison.compare(run, cases, ["out", "features"])


def changed(output, change, when=lambda images: True):
    """Returns an export that changes `output` for some batches."""

    def run(images):
        results = export(images)
        if when(images):
            results[output] = change(results[output])
        return results

    return run


def test_differences_within_the_bound_pass_and_are_measured():
    errors = compare(changed("features", lambda values: values + 5e-6))
    assert list(errors) == ["out", "features"]
    assert errors["out"].size == 0
    assert errors["features"].size == pytest.approx(5e-6, rel=0.1)
    # All-zero images have the smallest bound, so the difference comes closest to it there.
    assert (errors["features"].inputs, errors["features"].batch_size) == ("zeros", 1)
    assert errors["features"].bound == pytest.approx(1e-5)


def test_all_batch_sizes_and_kinds_are_compared():
    seen = []
    samples = torch.rand(3, *SHAPE)

    def run(images):
        seen.append((len(images), images))
        return export(images)

    compare(run, samples=samples)
    assert [size for size, _ in seen] == [size for size in (1, 2, 7, 32) for _ in range(4)]
    last = {kind: images for kind, (_, images) in zip("rzos", seen[-4:], strict=True)}
    assert not last["z"].any()
    assert (last["o"] == 1).all()
    assert last["r"].std() == pytest.approx(1, rel=0.1)
    assert torch.equal(last["s"], samples[torch.arange(32) % 3])


def is_ones(batch_size):
    return lambda images: len(images) == batch_size and bool((images == 1).all())


@pytest.mark.parametrize("output", ["out", "features"])
@pytest.mark.parametrize("batch_size", [1, 2, 7, 32])
def test_one_wrong_value_in_one_batch_raises(output, batch_size):
    def spoil(values):
        values = values.clone()
        values[-1, -1] += 0.5
        return values

    where = rf"output '{output}' for {batch_size} images? \(ones\) differs by 0.5, .* bound is"
    with pytest.raises(ExportError, match=f"the export differs from eager: {where}"):
        compare(changed(output, spoil, when=is_ones(batch_size)))


@pytest.mark.parametrize("value", [0.0, 1.0, 1000.0])
def test_bound_scales_with_the_values(value):
    bound = 1e-5 + 1e-4 * value

    def full(offset):
        return lambda *arguments: torch.full((len(arguments[-1]), 2), value + offset)

    def run(images, offset):
        return {"out": full(offset)(images)}

    cases = comparison.make_batches(full(0), Interface(SHAPE, {"out": (2,)}))
    comparison.compare(lambda images: run(images, 0.9 * bound), cases, ["out"])
    with pytest.raises(ExportError, match="differs by"):
        comparison.compare(lambda images: run(images, 1.1 * bound), cases, ["out"])


def test_masked_classes_do_not_widen_the_bound():
    lowest = torch.finfo(torch.float32).min

    def masked(output, images):
        return torch.tensor([1.0, lowest]).expand(len(images), 2)

    cases = comparison.make_batches(masked, Interface(SHAPE, {"out": (2,)}))
    comparison.compare(lambda images: {"out": masked("out", images)}, cases, ["out"])
    for wrong in ([1.001, lowest], [1.0, -1e30]):
        with pytest.raises(ExportError, match="differs by"):
            comparison.compare(
                lambda images: {"out": torch.tensor(wrong).expand(len(images), 2)},  # noqa: B023
                cases,
                ["out"],
            )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values[:1], r"'out' for 2 images .*\[1, 4\] instead of .*\[2, 4\]"),
        (lambda values: values.double(), r"'out' for 1 image .* is torch.float64"),
        (lambda values: values / 0, r"the export gives values that are not finite in output 'out'"),
    ],
)
def test_wrong_shapes_dtypes_and_infinities_raise(change, message):
    with pytest.raises(ExportError, match=message):
        compare(changed("out", change))


def test_non_finite_eager_values_raise():
    def divides_by_zero(output, images):
        return eager(output, images) / images.abs().max()

    def run(images):
        return {name: divides_by_zero(name, images) for name in ("out", "features")}

    with pytest.raises(ExportError, match=r"backbone itself gives .* 'out' for 1 image \(zeros\)"):
        compare(run, divides_by_zero)


def test_wrong_output_names_raise():
    with pytest.raises(ExportError, match=r"has outputs \['features', 'out'\], not"):
        compare(lambda images: dict(reversed(export(images).items())))


def test_failing_export_is_reported_with_its_batch():
    def run(images):
        if len(images) == 7:
            raise ExportError("ONNX Runtime fails: no kernel")
        return export(images)

    with pytest.raises(ExportError, match=r"does not run for 7 images \(random\).*no kernel"):
        compare(run)


def test_random_backbone_is_distinguished_from_a_wrong_export():
    def random(output, images):
        return F.dropout(eager(output, images))

    (case, *_) = comparison.make_batches(eager, INTERFACE)
    comparison.check_deterministic(eager, case)
    (case, *_) = comparison.make_batches(random, INTERFACE)
    with pytest.raises(ExportError, match="the backbone is not deterministic"):
        comparison.check_deterministic(random, case)


def test_comparison_uses_full_float32():
    mkldnn = torch.backends.mkldnn
    seen = set()

    def reference(output, images):
        seen.add((mkldnn.matmul.fp32_precision, torch.is_autocast_enabled("cpu")))
        seen.add((mkldnn.conv.fp32_precision, torch.is_grad_enabled()))
        return eager(output, images)

    before = mkldnn.matmul.fp32_precision
    try:
        mkldnn.matmul.fp32_precision = "bf16"
        with torch.autocast("cpu"):
            compare(export, reference)
        assert mkldnn.matmul.fp32_precision == "bf16"
    finally:
        mkldnn.matmul.fp32_precision = before
    assert seen == {("ieee", False)}


class ExportsDifferently(MammothBackbone):
    """Adds a constant to the features, but only while it is exported."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3 * 8 * 6, 4)

    def forward(self, x, returnt=ReturnTypes.OUT):
        features = x.flatten(1)
        out = self.fc(features)
        if torch.compiler.is_exporting():
            features = features + 0.25
        return select_return(out, features, returnt)


def test_failed_parity_writes_nothing(tmp_path):
    with pytest.raises(
        ExportError, match=r"output 'features' for 1 image \(random\) differs by 0.25, .*bound"
    ):
        export_bundle(ExportsDifferently(), tmp_path / "bundle", input_shape=SHAPE)
    assert list(tmp_path.iterdir()) == []


def test_wrong_weight_in_a_file_keeps_the_old_bundle(small_net, tmp_path, monkeypatch):
    path = export_bundle(small_net, tmp_path / "bundle", input_shape=SHAPE, formats="onnx")
    old = (path / "model.onnx").read_bytes()
    translate = to_onnx.to_proto

    def translate_wrong(source):
        model = translate(source)
        bias = next(t for t in model.graph.initializer if t.name == "net.classifier.bias")
        values = onnx.numpy_helper.to_array(bias).copy()
        values[2] += 1e-2
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        return model

    monkeypatch.setattr(to_onnx, "to_proto", translate_wrong)
    with pytest.raises(
        ExportError, match=r"model.onnx differs .* 'out' for 1 image \(random\) differs by 0.01"
    ):
        export_bundle(small_net, path, input_shape=SHAPE, formats="onnx")
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]
    assert (path / "model.onnx").read_bytes() == old


def test_measured_differences_are_in_the_manifest(small_bundle):
    _, path = small_bundle
    bundle = load_bundle(path)
    files = {
        file["path"]: file for file in json.loads((path / "manifest.json").read_text())["files"]
    }
    for name in ("out", "features"):
        assert files["model.onnx"]["parity"][name] == bundle.parity[name].to_dict()
        assert 0 <= bundle.parity[name].size <= bundle.parity[name].bound
    assert list(files["model.features.onnx"]["parity"]) == ["features"]
