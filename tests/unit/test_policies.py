"""What each policy of a buffer keeps: the same as the rule taken one item after the other."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mammoth_compiled import Buffer
from mammoth_compiled.buffers.policies import POLICIES, herding
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.kernels import launch
from mammoth_compiled.kernels.reservoir import reservoir_slots

CPU = torch.device("cpu")
STREAMING = [name for name, policy in POLICIES.items() if policy.choose is not None]
BY_CLASS = [name for name, policy in POLICIES.items() if policy.by_class]


def labels_of(n, num_classes, seed=0):
    """An imbalanced stream: each class comes half as often as the one before, in any order."""
    generator = np.random.default_rng(seed)
    weights = 0.5 ** np.arange(num_classes)
    return torch.from_numpy(generator.choice(num_classes, n, p=weights / weights.sum()))


def batches(labels, *sizes):
    """Cuts a stream into batches of these sizes, again and again."""
    start, k = 0, 0
    while start < len(labels):
        yield labels[start : start + sizes[k % len(sizes)]]
        start += sizes[k % len(sizes)]
        k += 1


def test_the_reservoir_draws_as_it_always_did():
    policy = POLICIES["reservoir"]
    state = policy.initial(7, 0, CPU)
    for num_seen in (0, 9, 18):
        torch.manual_seed(num_seen)
        draws = policy.draw(9, CPU)
        slots, state = policy.choose(state, draws, torch.empty(0), num_seen, 7)
        torch.manual_seed(num_seen)
        assert torch.equal(slots, reservoir_slots(num_seen, 9, 7, CPU))
    assert state["seen"] == 27


@pytest.fixture
def by_kernel(monkeypatch):
    """Buffers as on a GPU: one operator does it all, which on a CPU is its reference."""
    monkeypatch.setattr(launch, "supports", lambda device: True)


def test_the_reservoir_kernel_keeps_each_item_with_the_same_chance(by_kernel):
    kept = torch.zeros(40)
    for seed in range(400):
        torch.manual_seed(seed)
        buffer = Buffer(10)
        for items in torch.arange(40).split(7):
            buffer.add_data(items[:, None].float(), labels=items)
        assert torch.equal(buffer.examples[:, 0], buffer.labels.float())
        assert len(buffer.labels.unique()) == 10
        kept[buffer.labels] += 1
    # Each with chance 1/4: the deviation of 400 draws is 8.7, and of 40 the largest is looked at.
    assert (kept - 100).abs().max() < 4 * 8.7


def test_a_buffer_of_the_kernel_goes_on_where_it_was_saved(by_kernel):
    one, other = Buffer(6), Buffer(6)
    items = torch.arange(40.0)[:, None]
    one.add_data(items[:20])
    other.load_state_dict(one.state_dict())
    one.add_data(items[20:])
    other.add_data(items[20:])
    assert torch.equal(one.examples, other.examples)
    assert one.num_seen_examples == other.num_seen_examples == 40


class SequentialClassBalanced:
    """Algorithm 1 of Chrysakis and Moens 2020, item by item, with the draws given."""

    def __init__(self, capacity, num_classes):
        self.capacity = capacity
        self.rows = []
        self.seen = [0] * num_classes
        self.full = set()

    def offer(self, label, keep, where):
        self.seen[label] += 1
        if len(self.rows) < self.capacity:
            self.rows.append(label)
            return len(self.rows) - 1
        count = {c: self.rows.count(c) for c in set(self.rows)}
        largest = {c for c in count if count[c] == max(count.values())}
        self.full |= largest
        if label not in self.full:
            places = [i for i, c in enumerate(self.rows) if c in largest]
        elif keep * self.seen[label] < count.get(label, 0):
            places = [i for i, c in enumerate(self.rows) if c == label]
        else:
            return -1
        place = places[int(where * len(places))]
        self.rows[place] = label
        return place


@pytest.mark.parametrize(
    ("capacity", "num_classes", "sizes"),
    [(7, 3, (5, 1, 20)), (20, 6, (32,)), (3, 8, (4, 9)), (1, 2, (3,)), (40, 4, (7, 64))],
    ids=str,
)
def test_class_balanced_equals_the_sequential_rule(capacity, num_classes, sizes):
    policy, sequential = POLICIES["class-balanced"], SequentialClassBalanced(capacity, num_classes)
    state, num_seen, twice = policy.initial(capacity, num_classes, CPU), 0, False
    for labels in batches(labels_of(300, num_classes), *sizes):
        draws = policy.draw(len(labels), CPU)
        slots, state = policy.choose(state, draws, labels, num_seen, capacity)
        want = [
            sequential.offer(*row) for row in zip(labels.tolist(), *draws.T.tolist(), strict=True)
        ]
        assert slots.tolist() == want
        num_seen += len(labels)
        kept = [slot for slot in want if slot >= 0]
        twice |= len(set(kept)) < len(kept)
        assert state["seen"].tolist() == sequential.seen
    assert state["classes"].tolist() == sequential.rows
    assert set(state["full"].nonzero()[:, 0].tolist()) == sequential.full
    assert twice


class SequentialRing:
    """A queue for each class, the oldest item out when it is full."""

    def __init__(self, capacity, num_classes):
        share, rest = divmod(capacity, num_classes)
        self.size = [share + (c < rest) for c in range(num_classes)]
        self.queues = [[] for _ in range(num_classes)]

    def offer(self, item, label):
        self.queues[label] = [*self.queues[label], item][-self.size[label] :]


@pytest.mark.parametrize(
    ("capacity", "num_classes", "sizes"),
    [(9, 3, (5, 1, 20)), (20, 6, (32,)), (8, 8, (4, 9)), (41, 4, (7, 64))],
    ids=str,
)
def test_ring_equals_a_queue_for_each_class(capacity, num_classes, sizes):
    buffer, sequential = (
        Buffer(capacity, policy="ring", num_classes=num_classes),
        SequentialRing(capacity, num_classes),
    )
    item = 0
    for labels in batches(labels_of(300, num_classes), *sizes):
        items = torch.arange(item, item + len(labels))
        buffer.add_data(items[:, None], labels, task_labels=items)
        for number, label in zip(items.tolist(), labels.tolist(), strict=True):
            sequential.offer(number, label)
        item += len(labels)
        examples, held, numbers = buffer.get_all_data()
        want = [(i, c) for c, queue in enumerate(sequential.queues) for i in queue]
        assert sorted(zip(numbers.tolist(), held.tolist(), strict=True)) == sorted(want)
        assert torch.equal(examples[:, 0], numbers.float())
        assert len(buffer) == len(want)


def sequential_herding(features, labels, quota):
    """Algorithm 4 of iCaRL, class by class."""
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    ranks = np.full(len(labels), quota)
    for label in set(labels.tolist()):
        rows = np.flatnonzero(labels == label)
        mean = features[rows].mean(0)
        mean /= np.linalg.norm(mean)
        total = np.zeros_like(mean)
        for k in range(min(quota, len(rows))):
            left = [row for row in rows if ranks[row] == quota]
            distances = [np.linalg.norm(mean - (features[row] + total) / (k + 1)) for row in left]
            best = left[int(np.argmin(distances))]
            ranks[best] = k
            total += features[best]
    return ranks


@pytest.mark.parametrize("quota", [1, 6, 50])
def test_herding_equals_icarls_algorithm(quota):
    features, labels = torch.rand(90, 5, dtype=torch.float64) - 0.3, labels_of(90, 4)
    ranks = herding.rank(features, labels, 6, quota)
    assert ranks.tolist() == sequential_herding(features.numpy(), labels.numpy(), quota).tolist()


def test_equal_images_are_chosen_once_each():
    ranks = herding.rank(torch.ones(5, 3), torch.tensor([1, 1, 0, 1, 0]), 2, 4)
    assert ranks.tolist() == [0, 1, 0, 2, 1]


def end_task(buffer, first, labels):
    """Ends a task of as many examples, each of which is its number; returns the features."""
    numbers = torch.arange(first, first + len(labels))
    features = torch.rand(len(labels), 4)
    buffer.end_task(
        features,
        labels,
        lambda index: {"examples": numbers[index, None].float(), "labels": labels[index]},
    )
    return features


def test_herding_shares_the_rows_and_gives_up_those_chosen_last():
    buffer = Buffer(12, policy="herding", num_classes=5)
    first = torch.tensor([0, 1] * 10)
    ranks = herding.rank(end_task(buffer, 0, first), first, 5, 6)
    assert len(buffer) == 12
    examples, labels = buffer.get_all_data()
    assert set(examples[:, 0].tolist()) == set((ranks < 6).nonzero()[:, 0].tolist())
    assert torch.equal(labels, first[examples[:, 0].long()])
    second = torch.tensor([2, 3, 4] * 7)
    later = herding.rank(end_task(buffer, 100, second), second, 5, 2)
    # Five classes: two rows each, the first two chosen of each old class.
    assert len(buffer) == 10
    examples, labels = buffer.get_all_data()
    kept = set((ranks < 2).nonzero()[:, 0].tolist())
    kept |= {100 + row for row in (later < 2).nonzero()[:, 0].tolist()}
    assert set(examples[:, 0].tolist()) == kept
    assert labels.bincount().tolist() == [2] * 5
    assert buffer.labels[10:].tolist() == [0, 0]


def test_herding_keeps_nothing_of_the_stream():
    buffer = Buffer(4, policy="herding", num_classes=2)
    buffer.add_data(torch.zeros(3, 2), labels=[0, 1, 1])
    assert (len(buffer), buffer.is_empty(), buffer.num_seen_examples) == (0, True, 3)


def test_herding_a_class_of_several_tasks():
    buffer = Buffer(6, policy="herding", num_classes=2)
    for first in (0, 100, 200):
        end_task(buffer, first, torch.tensor([0, 1] * 4))
    tasks = buffer.get_all_data()[0][:, 0].long() // 100
    assert tasks.bincount().tolist() == [2, 2, 2]
    before = buffer.state_dict()
    with pytest.raises(ValueError, match="6 rows are too few for 8"):
        end_task(buffer, 300, torch.tensor([0, 1]))
    assert torch.equal(buffer.examples, before["data"]["examples"])


def test_class_balanced_keeps_each_item_of_a_class_alike():
    # 30 items of class 0, 8 of class 1, in six rows: three rows each in the end.
    labels = torch.tensor(([0] * 4 + [1]) * 7 + [0, 0, 1])
    runs, counts = 400, torch.zeros(len(labels))
    torch.manual_seed(1)
    for _ in range(runs):
        buffer = Buffer(6, policy="class-balanced", num_classes=2)
        for index in torch.arange(len(labels)).split(16):
            buffer.add_data(index[:, None], labels[index])
        rows = buffer.examples[:, 0].long()
        assert labels[rows].bincount().tolist() == [3, 3]
        counts[rows] += 1
    for label in (0, 1):
        seen = counts[labels == label]
        n = len(seen)
        # Chi-square of n equally likely items, of which each run takes 3; its mean is n - 1.
        expected = runs * 3 / n
        chi = ((seen - expected) ** 2 / expected).sum() * (n - 1) / (n - 3)
        assert chi < n - 1 + 4.5 * (2 * (n - 1)) ** 0.5


@pytest.mark.parametrize("name", STREAMING)
def test_choosing_needs_no_value_on_the_host(name):
    policy = POLICIES[name]
    # A fake tensor has no values: reading one, or a shape that depends on one, raises.
    with FakeTensorMode():
        state = policy.initial(10, 4, CPU)
        labels = torch.zeros(16, dtype=torch.int64)
        for num_seen in (0, 16):
            slots, after = policy.choose(state, policy.draw(16, CPU), labels, num_seen, 10)
            assert slots.shape == (16,)
            shapes = {name: tensor.shape for name, tensor in after.items()}
            assert shapes == {name: tensor.shape for name, tensor in state.items()}
            state = after


@pytest.mark.parametrize("name", STREAMING)
def test_choosing_leaves_its_arguments_alone(name):
    policy = POLICIES[name]
    state, labels = policy.initial(5, 3, CPU), labels_of(20, 3)
    _, state = policy.choose(state, policy.draw(20, CPU), labels, 0, 5)
    kept, draws = {k: v.clone() for k, v in state.items()}, policy.draw(20, CPU)
    before = draws.clone()
    policy.choose(state, draws, labels, 20, 5)
    assert torch.equal(draws, before)
    assert all(torch.equal(state[k], kept[k]) for k in kept)


def fill(buffer, n=60, seed=3):
    """Offers n rows in batches of 7 (or ends a task), whose examples are their label."""
    labels = labels_of(n, 3, seed)
    if buffer.policy == "herding":
        rows = {"examples": labels[:, None].float(), "labels": labels}
        buffer.end_task(
            torch.rand(n, 4), labels, lambda index: {k: v[index] for k, v in rows.items()}
        )
    else:
        for part in batches(labels, 7):
            buffer.add_data(part[:, None], part)


@pytest.mark.parametrize("name", POLICIES)
def test_draws_are_filled_rows_without_replacement(name):
    buffer = Buffer(12, policy=name, num_classes=4)  # the fourth class never comes
    fill(buffer)
    counts = torch.zeros(12)
    for _ in range(600):
        index, examples, labels = buffer.get_data(4, return_index=True)
        assert len(set(index.tolist())) == 4
        assert torch.equal(examples[:, 0], labels.float())
        counts[index] += 1
    filled = torch.ones(12, dtype=torch.bool)
    if name == "ring":
        filled[9:] = False
    assert len(buffer) == filled.sum()
    assert counts[~filled].sum() == 0
    p = 4 / len(buffer)
    assert (counts[filled] - 600 * p).abs().max() < 5 * (600 * p * (1 - p)) ** 0.5
    assert len(buffer.get_data(100)[0]) == len(buffer)


@pytest.mark.parametrize("name", POLICIES)
def test_state_goes_on_as_if_never_stopped(name):
    buffer, other = (Buffer(8, policy=name, num_classes=3) for _ in range(2))
    fill(buffer)
    random, state, held = torch.get_rng_state(), buffer.state_dict(), len(buffer)
    fill(buffer, seed=4)
    other.load_state_dict(state)
    assert len(other) == held
    torch.set_rng_state(random)
    fill(other, seed=4)
    assert torch.equal(buffer.labels, other.labels)
    assert torch.equal(buffer.get_all_data()[0], other.get_all_data()[0])


def test_state_of_another_policy():
    ring = Buffer(4, policy="ring", num_classes=2)
    with pytest.raises(ValueError, match=r"policy 'ring'.* 'reservoir': use --buffer_policy ring"):
        Buffer(4).load_state_dict(ring.state_dict())


@pytest.mark.parametrize("name", POLICIES)
def test_reset_forgets_the_state_too(name):
    buffer = Buffer(8, policy=name, num_classes=3)
    fill(buffer)
    buffer.reset()
    assert (len(buffer), buffer.is_empty(), buffer.is_full()) == (0, True, False)
    fresh = Buffer(8, policy=name, num_classes=3).state_dict()
    for key, tensor in buffer.state_dict()["policy_state"].items():
        assert torch.equal(tensor, fresh["policy_state"][key])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": "rings"}, "unknown buffer policy 'rings'. Did you mean 'ring'"),
        ({"policy": "ring"}, r"'ring' goes by classes: give Buffer\(..., num_classes=...\)"),
        ({"policy": "herding", "num_classes": 6}, "--buffer_size 5 is less than 6"),
        ({"policy": "ring", "num_classes": 6}, "'ring' needs a row for every class"),
    ],
)
def test_bad_policies(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Buffer(5, **arguments)


@pytest.mark.parametrize("name", ["ring", "class-balanced"])
def test_bad_labels(name):
    buffer = Buffer(5, policy=name, num_classes=2)
    with pytest.raises(ValueError, match=f"the policy '{name}' goes by classes: give labels"):
        buffer.add_data(torch.zeros(2, 3))
    with pytest.raises(RuntimeError, match="labels must be 0 to 2 - 1"):
        buffer.add_data(torch.zeros(2, 3), labels=[0, 2])
    assert buffer.is_empty()


def test_only_herding_ends_tasks():
    with pytest.raises(ValueError, match="the policy is 'reservoir', not 'herding'"):
        end_task(Buffer(5), 0, torch.tensor([0]))
