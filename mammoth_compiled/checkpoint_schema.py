"""The schema of a checkpoint: types and ranges of every field, checked before any is used.

A check is a function of a value and the name of its field; it raises `CheckpointError`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from mammoth_compiled.errors import CheckpointError

Check = Callable[[Any, str], None]
# Lowest label that losses of torch accept: `ignore_index` of `torch.nn.functional.cross_entropy`.
IGNORED_LABEL = -100


def check_checkpoint(content: Mapping[str, Any]) -> None:
    """Checks all fields of a checkpoint.

    Raises:
        CheckpointError: If a field is missing, or has the wrong type or an impossible value; names
            the field.
    """
    CHECKPOINT(content, "")
    num_done, data = content["tasks_done"], content["data"]
    lists = ("class_il", "task_il", "loss", "train_s", "compile_s", "eval_s", "train_images")
    for name in lists:
        if len(content["results"][name]) != num_done:
            _fail(f"results.{name}", f"a list of tasks_done = {num_done} entries")
    for name in ("mean", "std"):
        if len(data[name]) not in (0, 1, data["input_shape"][0]):
            _fail(f"data.{name}", f"a list of {data['input_shape'][0]} numbers, one per channel")
    for i, (first, end) in enumerate(data["tasks"]):
        if not 0 <= first <= end <= data["num_classes"]:
            _fail(f"data.tasks.{i}", f"class ids between 0 and {data['num_classes']}")
    if data["tasks_seen"] > len(data["tasks"]):
        _fail("data.tasks_seen", f"at most {len(data['tasks'])}")
    for name, state in content["model"]["state"]["buffers"].items():
        if "num_seen_examples" in state:
            _check_buffer(state, f"model.state.buffers.{name}", data["num_classes"])


def _fail(field: str, expected: str, value: Any = None) -> None:
    got = "" if value is None else f", got {_describe(value)}"
    raise CheckpointError(f"{field} must be {expected}{got}")


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a {value.dtype} tensor of shape {list(value.shape)}"
    text = repr(value)
    return text if len(text) <= 40 else type(value).__name__


def _number(kinds: Any, expected: str, low: float = -math.inf, high: float = math.inf) -> Check:
    """Accepts numbers of some types from `low` to `high`, and NaN if there are no limits."""

    def check(value: Any, field: str) -> None:
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        limited = (low, high) != (-math.inf, math.inf)
        if not is_number or (limited and not low <= value <= high):
            _fail(field, expected, value)

    return check


def _instance(kind: type, expected: str) -> Check:
    def check(value: Any, field: str) -> None:
        if not isinstance(value, kind):
            _fail(field, expected, type(value).__name__)

    return check


def _tensor(*dtypes: torch.dtype, ndim: int | None = None) -> Check:
    """Accepts tensors of some dtypes, of all if none is given."""

    def check(value: Any, field: str) -> None:
        is_allowed = isinstance(value, torch.Tensor) and (not dtypes or value.dtype in dtypes)
        if not is_allowed or ndim not in (None, value.ndim):
            names = " or ".join(map(str, dtypes))
            _fail(field, f"a {names} tensor" if names else "a tensor", value)

    return check


def _list(item: Check, length: int | None = None) -> Check:
    def check(value: Any, field: str) -> None:
        if not isinstance(value, (list, tuple)) or length not in (None, len(value)):
            _fail(field, "a list" if length is None else f"a list of {length} entries", value)
        for i, entry in enumerate(value):
            item(entry, f"{field}.{i}")

    return check


def _tuple(*items: Check) -> Check:
    def check(value: Any, field: str) -> None:
        if not isinstance(value, (list, tuple)) or len(value) != len(items):
            _fail(field, f"a list of {len(items)} entries", value)
        for i, (item, entry) in enumerate(zip(items, value, strict=True)):
            item(entry, f"{field}.{i}")

    return check


def _dict(item: Check, key: type | tuple[type, ...] = str) -> Check:
    def check(value: Any, field: str) -> None:
        if not isinstance(value, dict):
            _fail(field, "a dictionary", value)
        for name, entry in value.items():
            if not isinstance(name, key):
                _fail(field, "a dictionary of named entries", name)
            item(entry, f"{field}.{name}")

    return check


def _record(optional: Mapping[str, Check] | None = None, /, **items: Check) -> Check:
    """Accepts dictionaries with at least these entries, and checks optional ones."""

    def check(value: Any, field: str) -> None:
        if not isinstance(value, dict):
            _fail(field or "the checkpoint", "a dictionary", value)
        prefix = f"{field}." if field else ""
        missing = [f"{prefix}{name}" for name in items if name not in value]
        if missing:
            raise CheckpointError(f"lacks {', '.join(missing)}")
        for name, item in {**items, **(optional or {})}.items():
            if name in value:
                item(value[name], f"{prefix}{name}")

    return check


def _optional(item: Check) -> Check:
    def check(value: Any, field: str) -> None:
        if value is not None:
            item(value, field)

    return check


def _any(value: Any, field: str) -> None:
    """Accepts everything; `torch.load(weights_only=True)` lets only plain data through."""


def _check_buffer(state: dict[str, Any], field: str, num_classes: int) -> None:
    """Checks a replay buffer: no NaN, and integer labels are class ids or ignored by the loss."""
    BUFFER(state, field)
    for name, tensor in state["data"].items():
        if tensor.is_complex() or bool(tensor.isnan().any()):
            _fail(f"{field}.data.{name}", "real numbers without NaN")
    labels = state["data"].get("labels")
    if labels is not None and labels.numel() and not labels.is_floating_point():
        low, high = int(labels.min()), int(labels.max())
        if low < IGNORED_LABEL or high >= num_classes:
            _fail(f"{field}.data.labels", f"class ids below {num_classes}", [low, high])


def _check_weight(value: Any, field: str) -> None:
    # A module may save what it likes as its extra state.
    if not field.endswith("_extra_state"):
        TENSOR(value, field)


def _check_param_group(value: Any, field: str) -> None:
    """Checks a parameter group of an optimizer; the hyperparameters that it has, in range."""
    _record(params=_list(COUNT), lr=_any)(value, field)
    lr = value["lr"]
    NON_NEGATIVE(
        lr.item() if isinstance(lr, torch.Tensor) and lr.numel() == 1 else lr, f"{field}.lr"
    )
    for name, check in HYPERPARAMETERS.items():
        if name in value:
            check(value[name], f"{field}.{name}")


TEXT = _instance(str, "a string")
FLAG = _instance(bool, "True or False")
COUNT = _number(int, "an integer >= 0", 0)
POSITIVE = _number(int, "an integer >= 1", 1)
NUMBER = _number((int, float), "a number")
FINITE = _number((int, float), "a finite number", -1e300, 1e300)
NON_NEGATIVE = _number((int, float), "a number >= 0", 0, 1e300)
FRACTION = _number((int, float), "a number from 0 to 1", 0, 1)
ACCURACIES = _list(_list(FRACTION))
TENSOR = _tensor()
TENSORS = _dict(TENSOR)
NAMES = _list(TEXT)
RANDOM_BYTES = _tensor(torch.uint8, ndim=1)
HYPERPARAMETERS: dict[str, Check] = {
    "momentum": NON_NEGATIVE,
    "weight_decay": NON_NEGATIVE,
    "dampening": FINITE,
    "eps": NON_NEGATIVE,
    "betas": _list(FRACTION, 2),
    "nesterov": FLAG,
    "initial_lr": NON_NEGATIVE,
}
OPTIMIZER = _record(
    state=_dict(_instance(dict, "a dictionary"), (int, str)), param_groups=_list(_check_param_group)
)
MODULE = _record(state=_instance(dict, "a dictionary"), like_net=FLAG, training=FLAG, frozen=NAMES)
BUFFER = _record(
    buffer_size=POSITIVE,
    num_seen_examples=COUNT,
    data=TENSORS,
    policy=TEXT,
    policy_state=TENSORS,
)
# Checkpoints of earlier releases lack these.
ADDED_RESULTS: dict[str, Check] = {
    "top5": ACCURACIES,
    "per_class": _list(_list(_optional(FRACTION))),
    "confusion": _list(_list(COUNT)),
    "ece": _list(NUMBER),
    "recency_bias": _list(_optional(FRACTION)),
    "initial_class_il": _list(FRACTION),
    "initial_task_il": _list(FRACTION),
    "future_class_il": ACCURACIES,
    "future_task_il": ACCURACIES,
    "peak_memory": _list(COUNT),
    "curve": _list(
        _record(
            task=COUNT,
            epoch=COUNT,
            step=POSITIVE,
            class_il=_list(FRACTION),
            task_il=_list(FRACTION),
            loss=NUMBER,
        )
    ),
}
CHECKPOINT = _record(
    net=_dict(_check_weight),
    backbone=_record(name=TEXT, arguments=_dict(_any)),
    data=_record(
        name=TEXT,
        input_shape=_list(POSITIVE, 3),
        mean=_list(FINITE),
        std=_list(_number((int, float), "a number > 0", 1e-300, 1e300)),
        num_classes=POSITIVE,
        class_names=NAMES,
        tasks=_list(_list(COUNT, 2)),
        tasks_seen=COUNT,
    ),
    model=_record(
        name=TEXT,
        state=_record(
            optimizer=OPTIMIZER,
            scaler=_dict(_any),
            frozen=NAMES,
            parameters=TENSORS,
            tensors=TENSORS,
            modules=_dict(MODULE),
            buffers=_dict(_instance(dict, "a dictionary")),
            values=_dict(_any),
            left_out=NAMES,
        ),
    ),
    random=_record(
        python=_tuple(COUNT, _list(COUNT, 625), _optional(FINITE)),
        numpy=_tuple(TEXT, _tensor(torch.int64, ndim=1), COUNT, COUNT, FINITE),
        torch=RANDOM_BYTES,
        cuda=_list(RANDOM_BYTES),
    ),
    args=_dict(_any),
    results=_record(
        ADDED_RESULTS,
        class_il=ACCURACIES,
        task_il=ACCURACIES,
        loss=_list(NUMBER),
        train_s=_list(NON_NEGATIVE),
        compile_s=_list(NON_NEGATIVE),
        eval_s=_list(NON_NEGATIVE),
        train_images=_list(COUNT),
        notes=_dict(_any),
    ),
    tasks_done=COUNT,
    compute=_record(
        compile=FLAG,
        disabled_because=TEXT,
        full_batch=COUNT,
        undeclared=_list(POSITIVE),
        steps_with=_dict(COUNT),
    ),
)
