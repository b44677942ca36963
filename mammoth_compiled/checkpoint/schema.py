"""The schema of a checkpoint: types and ranges of every field, checked before any is used."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mammoth_compiled.checkpoint.checks import (
    Check,
    anything,
    check_extent,
    dict_of,
    fail,
    instance,
    list_of,
    number,
    optional,
    plain,
    record,
    tensor_of,
    tuple_of,
)

# Lowest label that losses of torch accept: `ignore_index` of `torch.nn.functional.cross_entropy`.
IGNORED_LABEL = -100
# Lists and dictionaries of a checkpoint, and how deep they are nested. A small file can stand for
# billions: a list of ten times the same list of ten times the same list.
MAX_CONTAINERS = 1_000_000
MAX_DEPTH = 50


def check_checkpoint(content: Mapping[str, Any]) -> None:
    """Checks all fields of a checkpoint.

    Raises:
        CheckpointError: If a field is missing, or has the wrong type or an impossible value; names
            the field.
    """
    check_extent(content, MAX_CONTAINERS, MAX_DEPTH)
    CHECKPOINT(content, "")
    num_done, data = content["tasks_done"], content["data"]
    lists = ("class_il", "task_il", "loss", "train_s", "compile_s", "eval_s", "train_images")
    for name in lists:
        if len(content["results"][name]) != num_done:
            fail(f"results.{name}", f"a list of tasks_done = {num_done} entries")
    for name in ("mean", "std"):
        if len(data[name]) not in (0, 1, data["input_shape"][0]):
            fail(f"data.{name}", f"a list of {data['input_shape'][0]} numbers, one per channel")
    for i, (first, end) in enumerate(data["tasks"]):
        if not 0 <= first <= end <= data["num_classes"]:
            fail(f"data.tasks.{i}", f"class ids between 0 and {data['num_classes']}")
    if data["tasks_seen"] > len(data["tasks"]):
        fail("data.tasks_seen", f"at most {len(data['tasks'])}")
    if "within" in content:
        _check_position(content["within"], num_done, len(data["tasks"]))
    for name, state in content["model"]["state"]["buffers"].items():
        if "num_seen_examples" in state:
            _check_buffer(state, f"model.state.buffers.{name}", data["num_classes"])


def _check_position(within: Mapping[str, Any], num_done: int, num_tasks: int) -> None:
    """Checks that a position within a task is one that a run can be at."""
    if num_done >= num_tasks:
        fail("tasks_done", f"below the number of tasks, {num_tasks}, within a task", num_done)
    if within["step"] > within["task_step"]:
        fail("within.step", f"at most task_step = {within['task_step']}", within["step"])
    drawn = within["batches"]["drawn"]
    if drawn is not None and drawn[0] > within["step"] + 1:
        fail("within.batches.drawn.0", f"at most {within['step'] + 1}", drawn[0])


def _check_buffer(state: dict[str, Any], field: str, num_classes: int) -> None:
    """Checks a replay buffer: no NaN, and integer labels are class ids or ignored by the loss."""
    BUFFER(state, field)
    for name, tensor in state["data"].items():
        if tensor.is_complex() or bool(tensor.isnan().any()):
            fail(f"{field}.data.{name}", "real numbers without NaN")
    labels = state["data"].get("labels")
    if labels is not None and labels.numel() and not labels.is_floating_point():
        low, high = int(labels.min()), int(labels.max())
        if low < IGNORED_LABEL or high >= num_classes:
            fail(f"{field}.data.labels", f"class ids below {num_classes}", [low, high])


def _check_weight(value: Any, field: str) -> None:
    # A module may save what it likes as its extra state.
    if not field.endswith("_extra_state"):
        TENSOR(value, field)


def _check_param_group(value: Any, field: str) -> None:
    """Checks a parameter group of an optimizer; the hyperparameters that it has, in range."""
    record(params=list_of(COUNT), lr=anything)(value, field)
    lr = value["lr"]
    NON_NEGATIVE(
        lr.item() if isinstance(lr, torch.Tensor) and lr.numel() == 1 else lr, f"{field}.lr"
    )
    for name, check in HYPERPARAMETERS.items():
        if name in value:
            check(value[name], f"{field}.{name}")


def _check_random(value: Any, field: str) -> None:
    """Checks the state of the random number generators by giving it to new ones."""
    RANDOM(value, field)
    version, internal, gauss = value["python"]
    kind, keys, *rest = value["numpy"]
    try:
        random.Random().setstate((version, tuple(internal), gauss))
    except Exception:  # a wrong state can raise anything
        fail(f"{field}.python", "a state of Python's random number generator")
    try:
        np.random.RandomState().set_state((kind, keys.numpy().astype(np.uint32), *rest))
    except Exception:
        fail(f"{field}.numpy", "a state of NumPy's random number generator")


def _check_generator(value: Any, field: str) -> None:
    """Checks the state of torch's random number generator on the CPU."""
    RANDOM_BYTES(value, field)
    try:
        torch.Generator().set_state(value)
    except RuntimeError:
        fail(field, "a state of torch's random number generator", value)


TEXT = instance(str, "a string")
FLAG = instance(bool, "True or False")
COUNT = number(int, "an integer >= 0", 0)
POSITIVE = number(int, "an integer >= 1", 1)
NUMBER = number((int, float), "a number")
FINITE = number((int, float), "a finite number", -1e300, 1e300)
NON_NEGATIVE = number((int, float), "a number >= 0", 0, 1e300)
FRACTION = number((int, float), "a number from 0 to 1", 0, 1)
ACCURACIES = list_of(list_of(FRACTION))
TENSOR = tensor_of()
TENSORS = dict_of(TENSOR)
NAMES = list_of(TEXT)
RANDOM_BYTES = tensor_of(torch.uint8, ndim=1)
HYPERPARAMETERS: dict[str, Check] = {
    "momentum": NON_NEGATIVE,
    "weight_decay": NON_NEGATIVE,
    "dampening": FINITE,
    "eps": NON_NEGATIVE,
    "betas": list_of(FRACTION, 2),
    "nesterov": FLAG,
    "maximize": FLAG,
    "amsgrad": FLAG,
    "capturable": FLAG,
    "differentiable": FLAG,
    "foreach": optional(FLAG),
    "fused": optional(FLAG),
    "initial_lr": NON_NEGATIVE,
}
OPTIMIZER = record(
    state=dict_of(instance(dict, "a dictionary"), (int, str)),
    param_groups=list_of(_check_param_group),
)
MODULE = record(state=instance(dict, "a dictionary"), like_net=FLAG, training=FLAG, frozen=NAMES)
BUFFER = record(
    {"is_resized": FLAG, "scores": optional(TENSOR)},
    buffer_size=POSITIVE,
    num_seen_examples=COUNT,
    data=TENSORS,
    policy=TEXT,
    policy_state=TENSORS,
)
# Checkpoints of earlier releases lack these.
ADDED_RESULTS: dict[str, Check] = {
    "top5": ACCURACIES,
    "micro_class_il": list_of(NUMBER),
    "per_class": list_of(list_of(optional(FRACTION))),
    "confusion": list_of(list_of(COUNT)),
    "ece": list_of(NUMBER),
    "recency_bias": list_of(optional(FRACTION)),
    "initial_class_il": list_of(FRACTION),
    "initial_task_il": list_of(FRACTION),
    "future_class_il": ACCURACIES,
    "future_task_il": ACCURACIES,
    "peak_memory": list_of(COUNT),
    "class_names": NAMES,
    "curve": list_of(
        record(
            task=COUNT,
            epoch=COUNT,
            step=POSITIVE,
            class_il=list_of(FRACTION),
            task_il=list_of(FRACTION),
            loss=NUMBER,
        )
    ),
}
RANDOM = record(
    python=tuple_of(COUNT, list_of(COUNT, 625), optional(FINITE)),
    numpy=tuple_of(TEXT, tensor_of(torch.int64, ndim=1), COUNT, COUNT, FINITE),
    torch=_check_generator,
    cuda=list_of(RANDOM_BYTES),
)
# Where a checkpoint within a task is in it; see `engine.position`.
WITHIN = record(
    begin=tensor_of(torch.uint8, ndim=1),
    epoch=COUNT,
    step=POSITIVE,
    task_step=POSITIVE,
    images=COUNT,
    times=list_of(NON_NEGATIVE, 3),
    batches=record(
        random=_check_random,
        drawn=optional(tuple_of(POSITIVE, _check_generator)),
        tensors=list_of(TENSOR),
    ),
    epochs_scheduled=COUNT,
    fitting=record({"best": NUMBER, "since": COUNT, "weights": dict_of(_check_weight)}),
    last_loss=NUMBER,
)
CHECKPOINT = record(
    {"within": WITHIN, "layout": dict_of(TEXT)},
    net=dict_of(_check_weight),
    backbone=record(name=TEXT, arguments=dict_of(plain)),
    data=record(
        name=TEXT,
        input_shape=list_of(POSITIVE, 3),
        mean=list_of(FINITE),
        std=list_of(number((int, float), "a number > 0", 1e-300, 1e300)),
        num_classes=POSITIVE,
        class_names=NAMES,
        tasks=list_of(list_of(COUNT, 2)),
        tasks_seen=COUNT,
    ),
    model=record(
        name=TEXT,
        state=record(
            optimizer=OPTIMIZER,
            scaler=dict_of(anything),
            frozen=NAMES,
            parameters=TENSORS,
            tensors=TENSORS,
            modules=dict_of(MODULE),
            buffers=dict_of(instance(dict, "a dictionary")),
            values=dict_of(anything),
            left_out=NAMES,
        ),
    ),
    random=_check_random,
    args=dict_of(plain),
    results=record(
        ADDED_RESULTS,
        class_il=ACCURACIES,
        task_il=ACCURACIES,
        loss=list_of(NUMBER),
        train_s=list_of(NON_NEGATIVE),
        compile_s=list_of(NON_NEGATIVE),
        eval_s=list_of(NON_NEGATIVE),
        train_images=list_of(COUNT),
        notes=dict_of(anything),
    ),
    tasks_done=COUNT,
    compute=record(
        compile=FLAG,
        disabled_because=TEXT,
        full_batch=COUNT,
        undeclared=list_of(POSITIVE),
        steps_with=dict_of(COUNT),
    ),
)
