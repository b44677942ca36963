"""python -m mammoth_compiled.kernels.check: compiles every Triton kernel without a GPU.

Every candidate tile of every kernel is compiled to machine code for each chip. The check fails if
registers spill, shared memory exceeds the limit of the chip, or a matrix multiplication does not
run on tensor cores.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from mammoth_compiled.kernels.discovery import launch_cases, triton_op_names
from mammoth_compiled.kernels.runtime.cases import LaunchCase
from mammoth_compiled.kernels.runtime.device import has_triton
from mammoth_compiled.kernels.runtime.launch import Launch, record_launches
from mammoth_compiled.kernels.runtime.resources import SHARED_LIMIT, find_faults, launch_key
from mammoth_compiled.kernels.runtime.tiles import TileConfig, TilePolicy, override_tiles


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0 if all kernels pass, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m mammoth_compiled.kernels.check",
        description="Compiles all tiles of the Triton kernels without a GPU and checks them.",
    )
    parser.add_argument(
        "ops",
        nargs="*",
        metavar="OP",
        help=f"Operations (default: all): {', '.join(triton_op_names())}.",
    )
    parser.add_argument(
        "--chips",
        type=int,
        nargs="+",
        default=list(SHARED_LIMIT),
        metavar="SM",
        help="Compute capabilities without the dot (default: %(default)s).",
    )
    parser.add_argument(
        "--first", action="store_true", help="Check the first case of each op only."
    )
    parser.add_argument("--quiet", action="store_true", help="Print failures only.")
    args = parser.parse_args(argv)
    unknown = (set(args.ops) - set(triton_op_names())) | {
        c for c in args.chips if c not in SHARED_LIMIT
    }
    if unknown:
        parser.error(
            f"unknown: {', '.join(map(str, sorted(unknown, key=str)))}; operations are "
            f"{', '.join(triton_op_names())}, chips are {', '.join(map(str, SHARED_LIMIT))}"
        )
    if not has_triton():
        parser.error("Triton is not installed: pip install triton")
    compiled = failed = 0
    for op in args.ops or triton_op_names():
        for chip in args.chips:
            for case, launch in candidate_launches(op, chip, first=args.first):
                faults, used = find_faults(launch, chip)
                compiled, failed = compiled + 1, failed + bool(faults)
                if faults or not args.quiet:
                    verdict = f"FAILED: {'; '.join(faults)}" if faults else "ok"
                    line = f"sm_{chip} {launch.config.kernel} [{case}] {launch.config}"
                    sys.stdout.write(f"{line}: {used or ''} {verdict}\n")
                    sys.stdout.flush()
    sys.stdout.write(f"{compiled} kernels compiled, {failed} failed\n")
    return 1 if failed else 0


def candidate_launches(op: str, chip: int, *, first: bool = False) -> Iterator[tuple[str, Launch]]:
    """Yields the launches of an operation's cases with every candidate tile, once each.

    Args:
        op: Name of the operation.
        chip: 90 for sm_90.
        first: Use the first case only.
    """
    seen: set[Any] = set()
    for case in launch_cases(op)[: 1 if first else None]:
        candidates = _candidates(case, chip)
        for number in range(max(map(len, candidates.values()))):
            with record_launches() as launches, override_tiles(_pick(number), f"sm_{chip}"):
                case.launch()
            for launch in launches:
                key = launch_key(launch)
                if key not in seen:
                    seen.add(key)
                    yield case.name, launch


def _pick(number: int) -> TilePolicy:
    return lambda _, candidates: candidates[min(number, len(candidates) - 1)]


def _candidates(case: LaunchCase, chip: int) -> dict[str, list[TileConfig]]:
    found: dict[str, list[TileConfig]] = {}

    def note(_: str, candidates: list[TileConfig]) -> TileConfig:
        found[candidates[0].kernel] = candidates
        return candidates[0]

    with record_launches(), override_tiles(note, f"sm_{chip}"):
        case.launch()
    return found


if __name__ == "__main__":
    sys.exit(main())
