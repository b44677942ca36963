"""Variants are faithful to the float32 model, also on real images, or are refused."""

import sys
import tempfile

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional as F

from mammoth_compiled.datasets.fashion_mnist import PACKAGED, SequentialFashionMNISTMini
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.onnx_runtime import open_session, run_session
from mammoth_compiled.export.variants import fidelity
from mammoth_compiled.export.variants.convert import VARIANTS, convert

LOWEST = np.finfo(np.float32).min
METADATA = {"mammoth.schema": "1", "names": '["red", "grün"]'}


def random_weights(seed=0):
    """Returns random weights of a convolution and of a head with four classes."""
    generator = np.random.default_rng(seed)
    shapes = {"conv.w": (5, 3, 3, 3), "conv.b": (5,), "head.w": (4, 60), "head.b": (4,)}
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def build(weights, size=(8, 6), pixels=False, masked=False):
    """Returns an ONNX model with the interface of a bundle: convolution, relu, pooling and head."""
    height, width = size
    steps = ["Conv(x, conv.w, conv.b) -> c", "Relu(c) -> r", "MaxPool(r) -> p"]
    steps += ["Reshape(p, rows) -> features", "Gemm(features, head.w, head.b) -> logits"]
    attributes = {
        "Conv": {"pads": [1, 1, 1, 1]},
        "MaxPool": {"kernel_shape": [2, 2], "strides": [2, 2]},
        "Gemm": {"transB": 1},
        "Transpose": {"perm": [0, 3, 1, 2]},
        "Cast": {"to": TensorProto.FLOAT},
    }
    constants = {**weights, "rows": np.array([0, -1])}
    if pixels:
        steps = ["Cast(input) -> f", "Transpose(f) -> t", "Mul(t, scale) -> x", *steps]
        constants["scale"] = np.array(1 / 255, np.float32)
    if masked:
        steps.append("Where(mask, logits, lowest) -> out")
        constants |= {"mask": np.array([[1, 1, 0, 0]], bool), "lowest": np.array(LOWEST)}
    text = "\n".join(steps).replace("-> logits", "-> logits" if masked else "-> out")
    nodes = []
    for step in (text if pixels else text.replace("(x,", "(input,")).splitlines():
        call, output = step.split(" -> ")
        operator, inputs = call.rstrip(")").split("(")
        nodes.append(
            helper.make_node(
                operator,
                inputs.split(", "),
                [output],
                name=f"node_{output}",
                **attributes.get(operator, {}),
            )
        )
    classes, features = weights["head.w"].shape
    shape = ["batch", height, width, 3] if pixels else ["batch", 3, height, width]
    kind = TensorProto.UINT8 if pixels else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info("input", kind, shape)],
        [
            helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", classes]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", features]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, METADATA)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def runner(data):
    session = open_session(data)
    return lambda images: run_session(session, {"input": images.numpy()})


def images(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 8, 6, generator=generator)


@pytest.fixture(scope="module")
def model():
    return build(random_weights())


@pytest.fixture(scope="module")
def variant_of(model):
    """Variant name to its bytes."""
    return {kind: convert(kind, model, images(64).numpy()) for kind in VARIANTS}


def form(data):
    graph = onnx.load_from_string(data).graph
    return [
        (value.name, value.type.tensor_type.elem_type, onnx.helper.printable_value_info(value))
        for value in (*graph.input, *graph.output)
    ]


@pytest.mark.parametrize("kind", VARIANTS)
def test_variants_keep_contract_metadata_and_portability(kind, model, variant_of):
    data = variant_of[kind]
    proto = onnx.load_from_string(data)
    onnx.checker.check_model(proto, full_check=True)
    assert form(data) == form(model)
    assert {entry.key: entry.value for entry in proto.metadata_props} == METADATA
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 20)]
    assert not any(node.domain for node in proto.graph.node)
    assert tempfile.gettempdir().encode() not in data
    for batch_size in (1, 2, 7):
        outputs = runner(data)(images(batch_size))
        assert {name: tuple(value.shape) for name, value in outputs.items()} == {
            "out": (batch_size, 4),
            "features": (batch_size, 60),
        }
        assert all(value.dtype == torch.float32 for value in outputs.values())


def test_fp16_weights_are_half_precision(model, variant_of):
    graph = onnx.load_from_string(variant_of["fp16"]).graph
    weights = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert {weights[name] for name in random_weights()} == {TensorProto.FLOAT16}
    found = fidelity.compare_variant("fp16", runner(model), runner(variant_of["fp16"]), images(9))
    assert 0 < found.size["out"] < found.bound["out"]
    assert found.cosine > 0.99999


def test_fp16_keeps_the_mask_of_unseen_classes():
    data = build(random_weights(), masked=True)
    variant = convert("fp16", data)
    out = runner(variant)(images(3))["out"]
    assert (out[:, 2:] == float(LOWEST)).all()
    found = fidelity.compare_variant("fp16", runner(data), runner(variant), images(3))
    assert found.bound["out"] < 10  # relative to the unmasked values


def test_int8_weights_are_per_channel_and_activations_uint8(variant_of):
    graph = onnx.load_from_string(variant_of["int8"]).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = tensors["conv.w_quantized"]
    assert weights.dtype == np.int8
    assert np.abs(weights.astype(int)).max() <= 64  # so that a pair of products fits 16 bits
    assert tensors["conv.w_scale"].shape == (5,)
    restored = weights * tensors["conv.w_scale"][:, None, None, None]
    assert np.abs(restored - random_weights()["conv.w"]).max() < tensors["conv.w_scale"].max()
    zero_points = {
        tensors[node.input[2]].dtype for node in graph.node if node.op_type == "QuantizeLinear"
    }
    assert zero_points == {np.dtype(np.uint8)}


def test_int8_keeps_the_logits_in_float(variant_of):
    graph = onnx.load_from_string(variant_of["int8"]).graph
    (last,) = [node for node in graph.node if "out" in node.output]
    assert last.op_type == "Gemm"


def test_int8_is_deterministic_and_leaves_no_traces(model, variant_of, tmp_path, capfd):
    path = list(sys.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path))
        assert convert("int8", model, images(64).numpy()) == variant_of["int8"]
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert sys.path == path


def test_int8_calibrates_on_evenly_spaced_images(model):
    many = images(1023).numpy()
    data = convert("int8", model, many)
    assert data == convert("int8", model, many[::2])
    assert data != convert("int8", model, many[:512])


@pytest.mark.parametrize("kind", VARIANTS)
def test_variants_keep_pixel_input(kind):
    data = build(random_weights(), pixels=True)
    pixels = torch.randint(256, (64, 8, 6, 3), generator=torch.Generator().manual_seed(2))
    pixels = pixels.to(torch.uint8)
    variant = convert(kind, data, pixels.numpy())
    assert form(variant) == form(data)
    assert fidelity.compare_variant(kind, runner(data), runner(variant), pixels).agreement > 0.95


def test_invalid_arguments_raise(model):
    with pytest.raises(ExportError, match="unknown variant 'int4'; valid: 'fp16', 'int8'"):
        convert("int4", model)
    with pytest.raises(ExportError, match=r"needs images .* give 32 or more"):
        convert("int8", model)
    with pytest.raises(ExportError, match="31 calibration images are too few"):
        convert("int8", model, images(31).numpy())
    with pytest.raises(ExportError, match=r"float32 \[N, 3, 8, 6\].* but are float64"):
        convert("int8", model, images(64).double().numpy())
    with pytest.raises(ExportError, match=r"but are float32 \[64, 8, 6\]"):
        convert("int8", model, images(64)[:, 0].numpy())


def test_model_without_weights_cannot_be_quantized():
    graph = helper.make_graph(
        [helper.make_node("Relu", ["input"], ["out"], name="relu")],
        "main",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 6])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 3, 8, 6])],
    )
    data = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    ).SerializeToString()
    with pytest.raises(ExportError, match="nothing to quantize"):
        convert("int8", data, images(64).numpy())


def constant(**outputs):
    return lambda batch: {name: value[: len(batch)] for name, value in outputs.items()}


def test_unfaithful_variant_raises(model):
    reference = runner(model)

    def scaled(batch):
        return {name: value * 1.1 for name, value in reference(batch).items()}

    def flipped(batch):
        return {"out": reference(batch)["out"].flip(1), "features": reference(batch)["features"]}

    def rolled(batch):
        return {"out": reference(batch)["out"], "features": reference(batch)["features"].roll(1, 1)}

    with pytest.raises(ExportError, match="fp16 variant differs from float32: output 'out' by"):
        fidelity.compare_variant("fp16", reference, scaled, images(8))
    with pytest.raises(ExportError, match=r"it predicts the same class for \d+\.\d% of 8 images"):
        fidelity.compare_variant("int8", reference, flipped, images(8))
    with pytest.raises(ExportError, match=r"the cosine of a feature vector falls to 0\.\d+"):
        fidelity.compare_variant("int8", reference, rolled, images(8))
    assert fidelity.compare_variant("int8", reference, scaled, images(8)).agreement == 1


def test_nan_outputs_raise(model):
    reference = runner(model)

    def broken(batch):
        return {name: value * float("nan") for name, value in reference(batch).items()}

    for kind in VARIANTS:
        with pytest.raises(ExportError, match=f"the {kind} variant differs"):
            fidelity.compare_variant(kind, reference, broken, images(2))


def test_accuracy_considers_only_classes_seen():
    # Columns are classes 7, 5 and 9; class 9 mostly has the highest score.
    scores = torch.tensor([[2.0, 1, 3], [1, 2, 3], [2, 1, 0], [0, 1, 9]])
    labels = torch.tensor([7, 5, 5, 9])
    run, batch = constant(out=scores), torch.zeros(4, 1)
    assert fidelity.accuracy(run, batch, labels, [7, 5, 9]) == 1 / 4
    assert fidelity.accuracy(constant(out=scores[:3]), batch, labels, [7, 5, 9], [5, 7]) == 2 / 3
    with pytest.raises(ExportError, match="none"):
        fidelity.accuracy(run, batch, labels, [7, 5, 9], [])


def test_accuracy_may_drop_by_one_point():
    fidelity.check_accuracy("int8", 0.75, 0.7401)
    with pytest.raises(
        ExportError, match=r"72\.50% of the test images correctly and float32 75\.00%"
    ):
        fidelity.check_accuracy("int8", 0.75, 0.725)
    with pytest.raises(ExportError):
        fidelity.check_accuracy("int8", 0.75, float("nan"))


@pytest.fixture(scope="module")
def fashion_mnist():
    """Training and test sets of seq-fmnist-mini: images float32 [N, 3, 32, 32] and labels."""

    def read(part):
        files = [PACKAGED / f"{part}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
        pixels, labels = SequentialFashionMNISTMini.read(*files)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        return (images - 0.219) / 0.3318, torch.from_numpy(labels)

    return read("train"), read("t10k")


def train(data, labels):
    """Returns the weights of the small network after one epoch."""
    weights = {
        name: torch.from_numpy(value) * scale
        for (name, value), scale in zip(random_weights().items(), (0.2, 0, 0, 0), strict=True)
    }
    weights["head.w"] = torch.zeros(10, 5 * 16 * 16)
    weights["head.b"] = torch.zeros(10)
    parameters = [weight.requires_grad_() for weight in weights.values()]
    optimizer = torch.optim.SGD(parameters, lr=0.02)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    for index in order.split(32):
        maps = F.conv2d(data[index], weights["conv.w"], weights["conv.b"], padding=1)
        features = F.max_pool2d(F.relu(maps), 2).flatten(1)
        loss = F.cross_entropy(features @ weights["head.w"].T + weights["head.b"], labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: weight.detach().numpy() for name, weight in weights.items()}


@pytest.mark.parametrize("kind", VARIANTS)
def test_variants_keep_accuracy_on_real_images(kind, fashion_mnist):
    (train_images, train_labels), (test_images, test_labels) = fashion_mnist
    data = build(train(train_images, train_labels), size=(32, 32))
    variant = runner(convert(kind, data, train_images[::30].numpy()))
    reference = runner(data)
    before = fidelity.accuracy(reference, test_images, test_labels, range(10))
    after = fidelity.accuracy(variant, test_images, test_labels, range(10))
    assert before > 0.7
    fidelity.check_accuracy(kind, before, after)
    found = fidelity.compare_variant(kind, reference, variant, test_images)
    assert found.agreement > 0.98
    assert found.cosine > 0.999
