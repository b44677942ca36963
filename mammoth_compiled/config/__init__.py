"""The configuration of a run: its schema, the command line and the resolution of defaults."""

from mammoth_compiled.config.cli import (
    add_base_args,
    add_rehearsal_args,
    build_parser,
    default_backbone,
    get_avail_args,
)
from mammoth_compiled.config.parser import Parser
from mammoth_compiled.config.resolve import Resolution, resolve, resolve_with_origins
from mammoth_compiled.config.schema import (
    ComputeConfig,
    ExperimentConfig,
    FilesConfig,
    LoggingConfig,
    OptimizerConfig,
    RunConfig,
)
from mammoth_compiled.config.values import (
    boolean,
    non_negative_float,
    non_negative_int,
    positive_float,
    positive_int,
)

__all__ = [
    "ComputeConfig",
    "ExperimentConfig",
    "FilesConfig",
    "LoggingConfig",
    "OptimizerConfig",
    "Parser",
    "Resolution",
    "RunConfig",
    "add_base_args",
    "add_rehearsal_args",
    "boolean",
    "build_parser",
    "default_backbone",
    "get_avail_args",
    "non_negative_float",
    "non_negative_int",
    "positive_float",
    "positive_int",
    "resolve",
    "resolve_with_origins",
]
