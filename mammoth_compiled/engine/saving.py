"""Writes a run to a checkpoint and goes on from one; `models.state` knows what a model holds."""

from argparse import Namespace
from pathlib import Path

from mammoth_compiled.checkpoint import read_checkpoint, write_checkpoint
from mammoth_compiled.console import say
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.device import base_path, random_state, set_random_state
from mammoth_compiled.engine.forward import policy_of
from mammoth_compiled.engine.policy import batch_sizes
from mammoth_compiled.errors import CheckpointError
from mammoth_compiled.metrics import Results, plain_arguments
from mammoth_compiled.models.base import ContinualModel
from mammoth_compiled.models.state import model_state, restore_model
from mammoth_compiled.registry import backbones


def save(
    model: ContinualModel, dataset: ContinualDataset, args: Namespace, results: Results, done: int
) -> Path:
    """Writes a checkpoint and returns its path."""
    folder = Path(getattr(args, "checkpoint_path", None) or Path(base_path()) / "checkpoints")
    seed = "" if args.seed is None else f"_seed{args.seed}"
    path = folder / f"{args.model}_{args.dataset}_{args.backbone}{seed}_task{done}.pt"
    names = [p.name for p in backbones[args.backbone].parameters]
    state = model_state(model)
    if state["left_out"]:
        say(
            f"checkpoint: {', '.join(state['left_out'])} of {args.model} is not saved, as it is no "
            "plain data and has no state_dict(); a resumed run starts without it"
        )
    content = {
        "net": model.net.state_dict(),
        "backbone": {
            "name": args.backbone,
            "arguments": {name: getattr(args, name) for name in names if hasattr(args, name)},
        },
        "data": dataset.info().to_dict(),
        "model": {"name": args.model, "state": state},
        "calls_seen": sorted(policy.seen) if (policy := policy_of(model.net)) else [],
        "random": random_state(),
        "args": plain_arguments(args),
        "results": results.state_dict(),
        "tasks_done": done,
    }
    return write_checkpoint(path, content)


def resume(
    model: ContinualModel, dataset: ContinualDataset, args: Namespace, results: Results
) -> int:
    """Puts a run back to where the checkpoint `args.loadcheck` was written.

    Returns:
        How many tasks are done.

    Raises:
        CheckpointError: If the file cannot be read or is from another kind of run.
    """
    saved = read_checkpoint(args.loadcheck)
    names = {
        "model": saved["model"]["name"],
        "dataset": saved["data"]["name"],
        "backbone": saved["backbone"]["name"],
        **{name: saved["args"][name] for name in ("joint", "optimizer") if name in saved["args"]},
    }
    for kind, was in names.items():
        now = getattr(args, kind, was)
        if was != now:
            raise CheckpointError(
                f"{args.loadcheck} is from {kind} {was!r}, this run has {now!r}: use --{kind} {was}"
            )
    if saved["tasks_done"] > dataset.num_stages:
        raise CheckpointError(f"{args.loadcheck} has {saved['tasks_done']} tasks, the run fewer")
    try:
        model.net.load_state_dict(saved["net"])
    except RuntimeError as error:
        raise CheckpointError(
            f"{args.loadcheck} does not fit backbone {args.backbone!r} as built here: {error}"
        ) from error
    # The loaders of finished tasks are needed for their test images.
    for _ in range(saved["tasks_done"]):
        dataset.meta_get_data_loaders()
    restore_model(model, saved["model"]["state"])
    results.load_state_dict(saved["results"])
    policy = policy_of(model.net)
    if policy is not None:
        asked = getattr(args, "compile", "auto")
        policy.compile = bool(results.notes.get("compile")) if asked == "auto" else asked == "on"
        results.notes["compile"] = policy.compile
        policy.batch_sizes = batch_sizes(args)
        policy.seen = set(saved["calls_seen"])
    lr = model.opt.param_groups[0]["lr"]
    if lr != args.lr:
        say(f"checkpoint: goes on with lr {lr:g}, not {args.lr:g}")
    set_random_state(saved["random"])
    say(f"checkpoint: {args.loadcheck} loaded, {saved['tasks_done']} tasks done")
    return int(saved["tasks_done"])
