"""Buffer: what it stores, returns, saves and rejects."""

import numpy as np
import pytest
import torch
from torchvision import transforms

from mammoth_compiled import Buffer
from mammoth_compiled.errors import ConfigError


def rows(first, n):
    """Examples whose pixels, labels and logits all encode the index of the row."""
    number = torch.arange(first, first + n)
    return number[:, None, None].expand(n, 2, 2).float(), number, number[:, None].double() / 8


@pytest.fixture
def filled():
    buffer = Buffer(10)
    buffer.add_data(*rows(0, 6))
    return buffer


def test_fills_in_order_then_samples():
    buffer = Buffer(5)
    assert (len(buffer), buffer.is_empty(), buffer.is_full()) == (0, True, False)
    buffer.add_data(*rows(0, 3))
    assert (len(buffer), buffer.is_empty(), buffer.is_full()) == (3, False, False)
    assert buffer.labels[:3].tolist() == [0, 1, 2]
    buffer.add_data(*rows(3, 40))
    assert (len(buffer), buffer.is_full(), buffer.num_seen_examples) == (5, True, 43)


def test_attributes_of_a_sample_stay_in_the_same_row():
    buffer = Buffer(8)
    for start in range(0, 100, 7):
        buffer.add_data(*rows(start, 7))
    examples, labels, logits = buffer.get_all_data()
    assert len(set(labels.tolist())) == 8
    assert torch.equal(examples[:, 1, 1], labels.float())
    assert torch.equal(logits[:, 0], labels.float() / 8)


@pytest.mark.parametrize("size", [1, 4, 6])
def test_draws_without_replacement(filled, size):
    for _ in range(20):
        index, examples, labels, logits = filled.get_data(size, return_index=True)
        assert len(set(index.tolist())) == size
        assert torch.equal(filled.labels[index], labels)
        assert examples.shape == (size, 2, 2)
        assert torch.equal(logits[:, 0] * 8, labels.float())


def test_draws_are_uniform(filled):
    counts = torch.zeros(6)
    for _ in range(3000):
        counts[filled.get_data(2, return_index=True)[0]] += 1
    # Mean 1000, standard deviation below 26: a uniform draw stays far within six of them.
    assert (counts - 1000).abs().max() < 6 * 26


def test_get_data_returns_all_rows_if_fewer_are_filled(filled):
    assert len(filled.get_data(100)[0]) == 6


def test_seed_determines_what_is_kept_and_drawn():
    def run():
        torch.manual_seed(3)
        buffer = Buffer(5)
        for start in range(0, 50, 10):
            buffer.add_data(*rows(start, 10))
        return buffer.labels.tolist(), buffer.get_data(3)[1].tolist()

    assert run() == run()


def test_dtypes():
    buffer = Buffer(4)
    buffer.add_data(
        np.zeros((2, 3), np.float64),
        labels=np.array([1, 2], np.int32),
        logits=torch.zeros(2, 3, dtype=torch.float16),
        task_labels=torch.tensor([0.0, 1.0]),
        true_labels=[5, 6],
    )
    types = {name: getattr(buffer, name).dtype for name in buffer.used_attributes}
    assert types == {
        "examples": torch.float32,
        "labels": torch.int64,
        "logits": torch.float32,
        "task_labels": torch.int64,
        "true_labels": torch.int64,
    }
    assert buffer.true_labels[:2].tolist() == [5, 6]


def test_bytes_are_stored_as_bytes():
    buffer = Buffer(4)
    buffer.add_data(torch.full((2, 3), 200, dtype=torch.uint8))
    assert buffer.examples.dtype == torch.uint8
    assert buffer.get_data(2)[0].unique().tolist() == [200]


def test_stored_logits_have_no_gradient():
    buffer = Buffer(4)
    buffer.add_data(torch.zeros(2, 3), logits=torch.ones(2, 3, requires_grad=True) * 2)
    assert not buffer.logits.requires_grad
    assert not buffer.get_data(2)[1].requires_grad


def test_get_data_returns_copies(filled):
    filled.get_data(6)[1].zero_()
    assert filled.labels[:6].tolist() == [0, 1, 2, 3, 4, 5]


def test_order_of_attributes():
    buffer = Buffer(4)
    buffer.add_data(torch.zeros(1, 2), task_labels=[3], labels=[1])
    assert buffer.used_attributes == ["examples", "labels", "task_labels"]
    _, labels, task_labels = buffer.get_data(1)
    assert (labels.item(), task_labels.item()) == (1, 3)
    assert buffer.attributes == ["examples", "labels", "logits", "task_labels", "true_labels"]


def test_get_data_by_index_and_get_all_data(filled):
    assert filled.get_data_by_index(torch.tensor([4, 1]))[1].tolist() == [4, 1]
    assert filled.get_all_data()[1].tolist() == [0, 1, 2, 3, 4, 5]


def test_reset(filled):
    filled.reset()
    assert (len(filled), filled.used_attributes, filled.num_seen_examples) == (0, [], 0)
    filled.add_data(torch.zeros(1, 5))
    assert filled.examples.shape == (10, 5)


def test_state_resumes_exactly():
    buffer = Buffer(5)
    buffer.add_data(*rows(0, 12))
    random, state = torch.get_rng_state(), buffer.state_dict()
    buffer.add_data(*rows(12, 30))
    other = Buffer(5)
    other.load_state_dict(state)
    torch.set_rng_state(random)
    other.add_data(*rows(12, 30))
    for name in ("examples", "labels", "logits"):
        assert torch.equal(getattr(buffer, name), getattr(other, name))
    assert other.num_seen_examples == buffer.num_seen_examples == 42


def test_state_is_a_copy(filled):
    state = filled.state_dict()
    filled.labels.zero_()
    assert state["data"]["labels"][:6].tolist() == [0, 1, 2, 3, 4, 5]


def test_state_of_another_size_is_rejected():
    buffer = Buffer(5)
    buffer.add_data(*rows(0, 2))
    with pytest.raises(ValueError, match="5 rows, but this one has 6: use --buffer_size 5"):
        Buffer(6).load_state_dict(buffer.state_dict())


def test_state_of_an_empty_buffer():
    buffer = Buffer(3)
    buffer.load_state_dict(Buffer(3).state_dict())
    assert buffer.is_empty()


def test_serialize_and_to(filled):
    assert set(filled.serialize()) == {"examples", "labels", "logits"}
    assert filled.to("cpu") is filled


@pytest.mark.parametrize("size", [0, -1, 2.5, "10", None])
def test_invalid_capacity_is_rejected(size):
    with pytest.raises(ConfigError, match="buffer_size must be an integer >= 1"):
        Buffer(size)


def test_invalid_calls_are_rejected(filled):
    with pytest.raises(ValueError, match="the buffer is empty"):
        Buffer(3).get_data(1)
    with pytest.raises(ValueError, match="size must be at least 1"):
        filled.get_data(0)
    with pytest.raises(ValueError, match="2 examples but 3 labels"):
        filled.add_data(torch.zeros(2, 2, 2), torch.zeros(3))
    with pytest.raises(
        ValueError, match=r"got task_labels, but the buffer stores only examples, labels, logits"
    ):
        filled.add_data(*rows(0, 1), task_labels=[1])
    with pytest.raises(ValueError, match=r"examples must have shape \[B, 2, 2\] .*got \[1, 3, 3\]"):
        filled.add_data(torch.zeros(1, 3, 3), [1], torch.zeros(1, 1))


def test_rejected_batch_changes_nothing(filled):
    before = filled.state_dict()
    with pytest.raises(ValueError, match="task_labels"):
        filled.add_data(*rows(50, 4), task_labels=[1, 1, 1, 1])
    assert filled.num_seen_examples == before["num_seen_examples"]
    assert torch.equal(filled.labels, before["data"]["labels"])


def test_missing_attribute_is_rejected(filled):
    # Otherwise the new rows would keep the logits of the old ones.
    examples, labels, _ = rows(6, 2)
    with pytest.raises(ValueError, match="missing logits, which the buffer stores"):
        filled.add_data(examples, labels)


def test_batched_and_single_image_transforms_agree():
    # A lambda has no batched version and is applied image by image.
    images = torch.rand(5, 3, 4, 4)
    single = transforms.Lambda(lambda image: (image - 0.5) / 0.25)
    batched = transforms.Normalize((0.5,) * 3, (0.25,) * 3)
    buffer = Buffer(5)
    buffer.add_data(images)
    (one,), (other,) = buffer.get_all_data(single), buffer.get_all_data(batched)
    assert torch.equal(one, other)


def test_every_replayed_image_has_its_own_random_transform():
    buffer = Buffer(64)
    buffer.add_data(torch.arange(4.0).repeat(64, 1, 4, 1))
    flipped = buffer.get_data(64, transforms.RandomHorizontalFlip())[0][:, 0, 0, 0] == 3
    assert 10 < flipped.sum() < 54


def test_update_overwrites_rows_in_place(filled):
    store = filled.logits
    index, _, labels, logits = filled.get_data(3, return_index=True)
    filled.update(index, logits=-logits, labels=labels + 10)
    assert filled.logits is store
    assert torch.equal(filled.get_data_by_index(index)[1], labels + 10)
    untouched = [row for row in range(6) if row not in index.tolist()]
    assert filled.labels[untouched].tolist() == untouched
    assert torch.equal(filled.logits[index], -logits)


def test_invalid_updates_are_rejected(filled):
    with pytest.raises(ValueError, match="no task_labels; it stores examples, labels, logits"):
        filled.update(torch.tensor([0]), task_labels=[1])
    with pytest.raises(ValueError, match=r"logits must have shape \[2, 1\], got \[2\]"):
        filled.update(torch.tensor([0, 1]), logits=torch.zeros(2))


@pytest.fixture
def scored():
    buffer = Buffer(4)
    buffer.add_column("score")
    buffer.add_column("code", shape=(2,), dtype=torch.int32)
    return buffer


def test_columns_follow_their_samples(scored):
    for start in range(0, 40, 5):
        examples, labels, _ = rows(start, 5)
        code = labels[:, None].expand(5, 2)
        scored.add_data(examples, labels, score=labels / 4, code=code)
    examples, labels, score, code = scored.get_data(4)
    assert torch.equal(score, labels / 4)
    assert code.dtype == torch.int32
    assert torch.equal(code[:, 1].long(), labels)


def test_columns_start_at_zero_for_every_new_sample(scored):
    scored.add_data(*rows(0, 4)[:2])
    scored.update(torch.arange(4), score=torch.ones(4))
    scored.add_data(*rows(4, 60)[:2])
    assert torch.equal(scored.score, (scored.labels < 4).float())


def test_columns_are_saved_moved_and_reset(scored):
    scored.add_data(*rows(0, 3)[:2], score=[1.0, 2.0, 3.0])
    other = Buffer(4)
    other.load_state_dict(scored.state_dict())
    assert other.attributes[-2:] == ["score", "code"]
    assert other.score.tolist() == [1, 2, 3, 0]
    assert scored.to("meta").score.device.type == "meta"
    other.reset()
    assert other.score.tolist() == [0, 0, 0, 0]
    other.add_data(torch.zeros(1, 7), score=[5.0])
    assert [tensor.shape[1:] for tensor in other.get_data(1)] == [(7,), (), (2,)]


def test_herding_keeps_the_columns_of_the_samples_it_keeps():
    buffer = Buffer(4, policy="herding", num_classes=4)
    buffer.add_column("task")

    def fetch(first):
        return lambda index: {"examples": index[:, None] + first, "labels": index + first}

    features = torch.eye(4)
    buffer.end_task(features, torch.tensor([0, 0, 1, 1]), fetch(0))
    buffer.update(torch.arange(4), task=torch.ones(4))
    buffer.end_task(features, torch.tensor([2, 2, 3, 3]), fetch(10))
    assert buffer.task.tolist() == [1, 1, 0, 0]


def test_invalid_columns_are_rejected(scored):
    for name in ("score", "labels", "policy", "get_data", "not a name"):
        with pytest.raises(ValueError, match=f"'{name}' is taken or not a name"):
            scored.add_column(name)
    with pytest.raises(ValueError, match=r"no extra: add it first with add_column\('extra'"):
        scored.add_data(torch.zeros(1, 2), extra=[1])
    with pytest.raises(ValueError, match=r"score must have shape \[B\]"):
        scored.add_data(torch.zeros(1, 2), score=[[1.0]])
    with pytest.raises(AttributeError, match="Buffer has no attribute 'logits'"):
        print(scored.logits)
