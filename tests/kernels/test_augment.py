"""Augmentation against torchvision and slicing: crops, draws, operator and Triton kernel."""

from math import sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import functional as tv

from mammoth_compiled.kernels.augment import augment, crop_flip, op, reference
from mammoth_compiled.kernels.augment.cases import augment_work
from mammoth_compiled.kernels.draw import draw_rows
from mammoth_compiled.kernels.runtime import philox


def sliced(images, top, left, flip, size, padding, fill):
    """The specification, with NumPy and a loop."""
    before_w, after_w, before_h, after_h = padding
    result = []
    for image, t, x, flipped in zip(images.numpy(), top, left, flip, strict=True):
        sides = ((0, 0), (before_h, after_h), (before_w, after_w))
        padded = np.pad(image, sides, constant_values=fill)
        crop = padded[:, t : t + size[0], x : x + size[1]]
        result.append(crop[:, :, ::-1] if flipped else crop)
    return torch.from_numpy(np.stack(result))


@st.composite
def cases(draw):
    height, width = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    padding = tuple(draw(st.integers(0, 3)) for _ in range(4))
    padded = height + padding[2] + padding[3], width + padding[0] + padding[1]
    size = draw(st.integers(1, padded[0])), draw(st.integers(1, padded[1]))
    batch, channels = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    images = torch.randint(0, 256, (batch, channels, height, width), dtype=torch.uint8)
    dtype = draw(st.sampled_from([torch.uint8, torch.float32, torch.int64]))

    def numbers(below):
        return torch.tensor([draw(st.integers(0, below)) for _ in range(batch)])

    return (
        images.to(dtype),
        numbers(padded[0] - size[0]),
        numbers(padded[1] - size[1]),
        numbers(1).bool(),
        size,
        padding,
        draw(st.sampled_from([0, 7])),
    )


@settings(max_examples=150)
@given(cases())
def test_equals_slicing(case):
    images, top, left, flip, size, padding, fill = case
    result = crop_flip(images, top, left, flip, size, padding, fill)
    assert result.dtype == images.dtype
    assert torch.equal(result, sliced(images, top, left, flip, size, padding, fill))


def test_input_is_not_modified():
    images = torch.rand(3, 2, 5, 4)
    before = images.clone()
    zeros = torch.zeros(3, dtype=torch.int64)
    crop_flip(images, zeros, zeros, zeros == 0, (5, 4), (1, 1, 1, 1))
    assert torch.equal(images, before)


@pytest.mark.parametrize("layout", ["channels_last", "strided"])
def test_any_memory_layout(layout):
    images = torch.rand(3, 2, 5, 6)
    odd = (
        images.to(memory_format=torch.channels_last)
        if layout == "channels_last"
        else images.repeat_interleave(2, 3)[..., ::2]
    )
    top, left, flip = torch.tensor([0, 1, 2]), torch.tensor([2, 0, 1]), torch.tensor([1, 0, 1])
    args = (top, left, flip.bool(), (3, 4))
    assert torch.equal(crop_flip(odd, *args), crop_flip(images, *args))


def chi_square_bound(degrees):
    """A value that chi square exceeds with probability below 1e-6 (Wilson and Hilferty)."""
    spread = 2 / (9 * degrees)
    return degrees * (1 - spread + 4.9 * sqrt(spread)) ** 3


def store(count, channels, height, width, layout=torch.contiguous_format):
    shape = (count, channels, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8).contiguous(memory_format=layout)


def one_by_one(image, top, left, flipped, size, padding, fill, mean, std):
    """The result of torchvision for one image and given draws."""
    before, after, above, below = padding
    image = tv.pad(image, [before, above, after, below], fill=fill)
    image = tv.crop(image, top, left, *size)
    if flipped:
        image = tv.hflip(image)
    return tv.normalize(tv.convert_image_dtype(image), mean.tolist(), std.tolist())


@st.composite
def batches(draw):
    """(stores, indices, keyword arguments of `augment` but mean and std)."""
    channels = draw(st.integers(1, 4))
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    padding = tuple(draw(st.integers(0, 2)) for _ in range(4))
    padded = height + padding[2] + padding[3], width + padding[0] + padding[1]
    layouts = st.sampled_from([torch.contiguous_format, torch.channels_last])
    torch.manual_seed(draw(st.integers(0, 10_000)))
    stores = [store(n, channels, height, width, draw(layouts)) for n in (5, 3)]
    counts = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    indices = [torch.randint(len(s), (n,)) for s, n in zip(stores, counts, strict=True)]
    return (
        stores,
        indices,
        {
            "size": (draw(st.integers(1, padded[0])), draw(st.integers(1, padded[1]))),
            "padding": padding,
            "fill": draw(st.sampled_from([0, 7, 255])),
            "flip": draw(st.sampled_from([0.0, 0.5, 1.0])),
            "stream": draw(st.integers(0, 9)),
            "memory_format": draw(layouts),
            "plain": draw(st.booleans()),
        },
    )


def moments(channels, device="cpu"):
    return (
        torch.linspace(0.2, 0.7, channels, device=device),
        torch.linspace(0.3, 0.2, channels, device=device),
    )


@settings(max_examples=60)
@given(batches(), st.integers(-(2**63), 2**63 - 1))
def test_operator_equals_torchvision(problem, seed):
    (images, replay), (index, replay_index), options = problem
    state, (mean, std) = philox.random_state(seed, torch.device("cpu")), moments(images.shape[1])
    batch, plain, _ = augment(
        images, index, state, mean, std, replay=(replay, replay_index), **options
    )
    rows = torch.cat((images[index], replay[replay_index]))
    positions = reference.num_positions(images, options["size"], options["padding"])
    crops = reference.crop_draws(state, len(rows), *positions, options["flip"], options["stream"])
    fixed = options["size"], options["padding"], options["fill"], mean, std
    expected = [
        one_by_one(image, top, left, flipped, *fixed)
        for image, top, left, flipped in zip(rows, *(d.tolist() for d in crops), strict=True)
    ]
    assert torch.equal(batch, torch.stack(expected))
    assert batch.is_contiguous(memory_format=options["memory_format"])
    assert (plain is not None) == options["plain"]
    if plain is not None:
        assert torch.equal(plain, rows.float() / 255)
        assert plain.is_contiguous(memory_format=options["memory_format"])


@settings(max_examples=40)
@given(
    problem=batches(),
    seed=st.integers(-(2**63), 2**63 - 1),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
@pytest.mark.usefixtures("triton_kernels")
def test_kernel_equals_operator_bitwise(device, problem, seed, dtype):
    from mammoth_compiled.kernels.augment import triton

    stores, indices, options = problem
    (images, replay), (index, replay_index) = stores, indices
    state = philox.random_state(seed, torch.device("cpu"))
    mean, std = moments(images.shape[1])
    exact, expected_plain, _ = augment(
        images, index, state, mean, std, replay=(replay, replay_index), **options
    )
    plain, last = options["plain"], options["memory_format"] == torch.channels_last
    tensors = [t.to(device) for t in (images, index, replay, replay_index, state, mean, std)]

    def run():
        results = op.empty_results(
            tensors[0], tensors[1], tensors[3], options["size"], dtype, last, plain
        )
        values = (options[k] for k in ("padding", "fill", "flip", "stream"))
        triton.forward(*results, *tensors, *values)
        return results

    batch, untouched = run()
    expected = exact.to(dtype)
    if dtype == torch.bfloat16 and device.type == "cpu":
        # The interpreter truncates instead of rounding.
        expected = (exact.view(torch.int32) >> 16 << 16).view(torch.float32).to(dtype)
    assert torch.equal(batch.cpu(), expected)
    if plain:
        assert torch.equal(untouched.cpu(), expected_plain)
    assert torch.equal(run()[0], batch)


@pytest.mark.usefixtures("triton_kernels")
def test_kernel_with_several_programs_per_image(device):
    from mammoth_compiled.kernels.augment import triton
    from mammoth_compiled.kernels.runtime.tiles import override_tiles

    images, index = store(3, 3, 20, 24), torch.tensor([2, 0])
    state, (mean, std) = philox.random_state(1, torch.device("cpu")), moments(3)
    options = {"size": (18, 24), "padding": (3, 3, 3, 3), "flip": 0.5, "plain": True}
    *expected, _ = augment(images, index, state, mean, std, **options)
    tensors = [t.to(device) for t in (images, index, images, index[:0], state, mean, std)]
    sizes = []

    def smallest(_, candidates):
        config = min(candidates, key=lambda c: c["BLOCK"])
        sizes.append(config["BLOCK"])
        return config

    results = op.empty_results(tensors[0], tensors[1], None, (18, 24), torch.float32, True, True)
    with override_tiles(smallest):
        triton.forward(*results, *tensors, options["padding"], 0, 0.5, 0)
    assert sizes[0] * 2 < 3 * 18 * 24
    for result, value in zip(results, expected, strict=True):
        assert torch.equal(result.cpu(), value)


@pytest.mark.usefixtures("triton_kernels")
def test_float_images_and_columns(device):
    from mammoth_compiled.kernels.augment import triton

    images, index = store(9, 3, 7, 6), torch.tensor([3, 8, 0, 3])
    columns = [torch.arange(9), torch.rand(9, 5), torch.arange(9) > 4]
    state, (mean, std) = philox.random_state(5, torch.device("cpu")), moments(3)
    options = {"size": (7, 6), "padding": (2, 2, 2, 2), "fill": 7, "flip": 0.5, "plain": True}
    from_bytes = augment(images, index, state, mean, std, columns=columns, **options)
    # A buffer stores the images as float32, from which the bytes are restored exactly.
    stored = images.float() / 255
    batch, plain, rows = augment(stored, index, state, mean, std, columns=columns, **options)
    assert torch.equal(batch, from_bytes[0])
    assert torch.equal(plain, from_bytes[1])
    for row, column in zip(rows, columns, strict=True):
        assert torch.equal(row, column[index])

    tensors = [t.to(device) for t in (stored, index, stored, index[:0], state, mean, std)]
    moved = [column.to(device) for column in columns]
    gathered = [column.new_empty((4, *column.shape[1:])) for column in moved]
    results = op.empty_results(tensors[0], tensors[1], None, (7, 6), torch.float32, True, True)
    triton.forward(*results, *tensors, (2, 2, 2, 2), 7, 0.5, 0, moved, gathered)
    for result, expected in zip((*results, *gathered), (batch, plain, *rows), strict=True):
        assert torch.equal(result.cpu(), expected)


@pytest.mark.parametrize(("start", "count"), [(0, 4), (4, 4), (8, 3), (10, 1)])
@pytest.mark.usefixtures("triton_kernels")
def test_window_of_a_longer_index(device, start, count):
    from mammoth_compiled.kernels.augment import triton

    images, order = store(11, 3, 5, 6), torch.randperm(11)
    columns = [torch.arange(11) + k for k in range(op.MAX_COLUMNS + 1)]
    state, (mean, std) = philox.random_state(5, torch.device("cpu")), moments(3)
    options = {"size": (5, 6), "padding": (1, 1, 1, 1), "flip": 0.5, "plain": True}
    fixed = (state, mean, std)
    rows = order[start : start + count]
    expected = augment(images, rows, *fixed, columns=columns, **options)
    position = torch.tensor([start])
    found = augment(images, order, *fixed, columns=columns, window=(position, count), **options)
    for a, b in zip([*found[:2], *found[2]], [*expected[:2], *expected[2]], strict=True):
        assert torch.equal(a, b)

    tensors = [t.to(device) for t in (images, order, images, order[:0], *fixed)]
    labels = [columns[0].to(device)]
    results = op.empty_results(images, rows, None, (5, 6), torch.float32, True, True)
    results = [*(result.to(device) for result in results), labels[0].new_empty(count)]
    values = ((1, 1, 1, 1), 0, 0.5, 0, labels, results[2:], position.to(device))
    triton.forward(*results[:2], *tensors, *values)
    for a, b in zip(results, [*expected[:2], expected[2][0]], strict=True):
        assert torch.equal(a.cpu(), b)


@pytest.mark.parametrize(("num_rows", "size"), [(11, 4), (7, 7), (1, 1), (3, 5)])
@pytest.mark.usefixtures("looping_kernels")
def test_rows_are_drawn_as_by_two_operators(device, num_rows, size):
    from mammoth_compiled.kernels.augment import triton

    images, columns = store(11, 3, 5, 6), [torch.arange(11) + k for k in range(op.MAX_COLUMNS + 1)]
    mean, std = moments(3)
    options = {"size": (5, 6), "padding": (1, 1, 1, 1), "flip": 0.5, "columns": columns}
    before, state = (philox.random_state(5, torch.device("cpu")) for _ in range(2))
    for _ in range(2):
        rows = draw_rows(size, num_rows, before)
        expected = augment(images, rows, before, mean, std, **options)
        index = torch.empty(size, dtype=torch.int64)
        on_device = [t.to(device) for t in (images, index, images, index[:0], state, mean, std)]
        found = augment(images, index, state, mean, std, draws_from=num_rows, **options)
        assert torch.equal(index, rows)
        for a, b in zip([found[0], *found[2]], [expected[0], *expected[2]], strict=True):
            assert torch.equal(a, b)

        labels = [columns[0].to(device)]
        results = op.empty_results(*on_device[:2], None, (5, 6), torch.float32, True, False)
        gathered = [labels[0].new_empty(size)]
        values = ((1, 1, 1, 1), 0, 0.5, 0, labels, gathered, None, num_rows)
        triton.forward(*results, *on_device, *values)
        assert torch.equal(on_device[1].cpu(), rows)
        assert torch.equal(results[0].cpu(), expected[0])
        assert torch.equal(gathered[0].cpu(), expected[2][0])

        philox.advance(state)
        assert torch.equal(state, before)


def test_more_columns_than_one_launch_gathers():
    images, index = store(4, 1, 3, 3), torch.tensor([2, 0])
    columns = [torch.arange(4) + k for k in range(op.MAX_COLUMNS + 2)]
    state = philox.random_state(5, torch.device("cpu"))
    _, _, rows = augment(images, index, state, *moments(1), size=(3, 3), columns=columns)
    assert [row.tolist() for row in rows] == [[2 + k, k] for k in range(op.MAX_COLUMNS + 2)]


def test_positions_are_uniform_and_independent_of_the_flip():
    rows, columns, n = 9, 5, 9000
    state = philox.random_state(3, torch.device("cpu"))
    top, left, flipped = reference.crop_draws(state, n, rows, columns, 0.25, stream=0)
    outcome = (top * columns + left) * 2 + flipped
    counts = outcome.bincount(minlength=rows * columns * 2).double()
    expected = n / (rows * columns) * torch.tensor([0.75, 0.25]).repeat(rows * columns)
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    degrees = rows * columns * 2 - 1
    assert chi_square < chi_square_bound(degrees)
    assert chi_square > degrees / 3


def test_batch_depends_only_on_the_state():
    images, index = store(4, 3, 8, 8), torch.arange(4)
    state, (mean, std) = philox.random_state(9, torch.device("cpu")), moments(3)

    def batch(**other):
        options = {"size": (8, 8), "padding": (4, 4, 4, 4), "flip": 0.5, **other}
        return augment(images, index, state, mean, std, **options)[0]

    first = batch()
    assert torch.equal(batch(), first)
    assert not torch.equal(batch(stream=1), first)
    saved = state.clone()
    philox.advance(state)
    assert not torch.equal(batch(), first)
    state.copy_(saved)
    assert torch.equal(batch(), first)


def test_replayed_rows_get_their_own_draws():
    images, index = store(2, 1, 8, 8), torch.tensor([1, 0])
    state, (mean, std) = philox.random_state(9, torch.device("cpu")), moments(1)
    options = {"size": (8, 8), "padding": (2, 2, 2, 2)}
    alone, *_ = augment(images, index, state, mean, std, **options)
    both, *_ = augment(images, index, state, mean, std, replay=(images, index), **options)
    assert torch.equal(both[:2], alone)
    assert not torch.equal(both[2:], alone)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(2, 3, 4, 4).double()}, "must be uint8 or float32"),
        ({"images": torch.zeros(2, 3, 4, 4)}, r"and torch\.uint8, the stream .* torch\.float32"),
        ({"columns": [torch.zeros(2)]}, "without replay"),
        ({"images": torch.zeros(2, 3, 4, 8, dtype=torch.uint8)[..., ::2]}, "strides"),
        ({"replay": torch.zeros(2, 3, 4, 5, dtype=torch.uint8)}, r"replay holds .* \[3, 4, 5\]"),
        ({"size": (7, 4)}, r"crop of \[7, 4\] is larger than the padded image \[6, 4\]"),
    ],
)
def test_invalid_inputs_raise(change, message):
    images = change.get("images", torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    replay = change.get("replay", torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    index, state = torch.tensor([0]), philox.random_state(0, torch.device("cpu"))
    size = change.get("size", (4, 4))
    with pytest.raises(ValueError, match=message):
        augment(
            *(images, index, state, *moments(3)),
            size=size,
            padding=(0, 0, 1, 1),
            replay=(replay, index),
            columns=change.get("columns", ()),
        )


@pytest.mark.parametrize("whole", [True, False])
def test_opcheck(device, whole):
    channels, dtype = (3, torch.bfloat16) if whole else (1, torch.float32)
    images, index = store(4, channels, 5, 6).to(device), torch.tensor([3, 1], device=device)
    replay = (images, index) if whole else (None, None)
    state, (mean, std) = philox.random_state(1, device), moments(channels, device)
    columns = [] if whole else [torch.arange(4, device=device), torch.rand(4, 3).to(device)]
    fixed = ([5, 5], [1, 1, 0, 0], 0, 0.5, 2, dtype, whole, whole, columns)
    torch.library.opcheck(op.augment_op, (images, index, *replay, state, mean, std, *fixed))


@pytest.mark.gpu
def test_cuda_graph_draws_new_numbers_in_every_replay():
    cuda = torch.device("cuda")
    images, index = store(8, 3, 32, 32), torch.arange(8)
    state, tensors = philox.random_state(4, cuda), [images.cuda(), index.cuda()]
    options = {"size": (32, 32), "padding": (4, 4, 4, 4), "flip": 0.5}

    def step():
        batch, *_ = augment(*tensors, state, *moments(3, cuda), **options)
        philox.advance(state)
        return batch

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()
    for number in (1, 2, 3):
        graph.replay()
        on_cpu = torch.tensor([4, number])
        expected, *_ = augment(images, index, on_cpu, *moments(3), **options)
        assert torch.equal(result.cpu(), expected)


def test_work_counts_every_byte_once():
    work = augment_work((32, 3, 32, 32), torch.bfloat16)
    assert work.num_bytes == 32 * (3 * 32 * 32 * 3 + 8)
    with_plain = augment_work((32, 3, 32, 32), torch.bfloat16, plain=True)
    assert with_plain.num_bytes - work.num_bytes == 32 * 3 * 32 * 32 * 4
