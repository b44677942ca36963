"""The typed configuration: its flags, defaults, documentation and conversion to a namespace."""

import pickle
from argparse import Namespace
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from mammoth_compiled.config import RunConfig, build_parser
from mammoth_compiled.config.schema import SECTIONS

# Scripts and notebooks rely on these names: add new ones, never rename or remove one.
FLAGS = """
experiment: model dataset backbone batch_size n_epochs joint seed debug_mode
protocol: n_tasks classes_per_task base_classes permute_classes class_order_seed
    custom_class_order validation labels_per_class noise_rate noise_type blurry disjoint_classes
    online
training: fitting_mode n_iters n_minutes early_stopping_patience early_stopping_metric drop_last
    start_from stop_after inference_only eval_future eval_every eval_epochs
optimizer: optimizer lr optim_wd optim_mom optim_nesterov clip_grad lr_scheduler lr_milestones
    lr_gamma scheduler_mode
compute: device compile cuda_graph whole_step amp precision deterministic sync_batchnorm
    num_workers
files: out data_dir savecheck checkpoint_path checkpoint_every ckpt_name loadcheck resume export
    formats export_variants export_each_task results_path
logging: log log_dir log_every nowand quiet notes
"""

ARGUMENTS = [(title, f) for title, section in SECTIONS.items() for f in fields(section)]
each_argument = pytest.mark.parametrize(
    ("section", "field"), ARGUMENTS, ids=[field.name for _, field in ARGUMENTS]
)


@pytest.fixture(scope="module")
def parser():
    return build_parser()


def test_flags_are_frozen(parser):
    frozen = [word for word in FLAGS.split() if not word.endswith(":")]
    assert list(parser.arguments) == frozen
    assert [field.name for _, field in ARGUMENTS] == frozen


def test_flags_are_spelled_like_their_fields(parser):
    for name, action in parser.arguments.items():
        assert action.option_strings == [f"--{name}"]


@each_argument
def test_parser_default_is_the_field_default(parser, section, field):
    action = parser.arguments[field.name]
    if action.required:
        assert field.name in ("model", "dataset")
    else:
        assert action.default == field.default
        assert getattr(getattr(RunConfig(), section), field.name) == field.default


@each_argument
def test_every_argument_has_a_help_text(parser, section, field):
    text = parser.arguments[field.name].help
    assert text == text.strip()
    assert text[0].isupper()
    assert text.endswith(".")
    assert field.metadata["help"].rstrip(".") in text


@each_argument
def test_every_default_is_shown(parser, section, field):
    if field.default not in (None, False, ""):
        assert "(default: " in parser.arguments[field.name].help


@each_argument
def test_every_field_is_documented(section, field):
    documentation = SECTIONS[section].__doc__
    assert f"        {field.name}: {field.metadata['help']}" in documentation


def test_config_is_read_only():
    config = RunConfig()
    with pytest.raises(FrozenInstanceError):
        config.optimizer.lr = 0.1
    with pytest.raises(FrozenInstanceError):
        config.optimizer = None


def test_partial_namespace_takes_defaults():
    config = RunConfig.from_namespace(Namespace(lr=0.5, batch_size=8))
    assert (config.optimizer.lr, config.experiment.batch_size) == (0.5, 8)
    assert config == RunConfig(
        optimizer=replace(RunConfig().optimizer, lr=0.5),
        experiment=replace(RunConfig().experiment, batch_size=8),
    )


def test_none_takes_the_default():
    config = RunConfig.from_namespace(Namespace(lr=None, optimizer=None, seed=None))
    assert config == RunConfig()


def test_other_names_are_extra():
    config = RunConfig.from_namespace(Namespace(alpha=0.1, num_classes=10, width=None))
    assert config.extra == {"alpha": 0.1, "num_classes": 10, "width": None}


def test_namespace_is_left_alone():
    args = Namespace(lr=0.5, alpha=0.1)
    RunConfig.from_namespace(args)
    assert vars(args) == {"lr": 0.5, "alpha": 0.1}


def test_round_trip():
    args = Namespace(model="er", lr=0.5, lr_milestones=[3, 6], joint=True, alpha=[1, 2])
    config = RunConfig.from_namespace(args)
    assert RunConfig.from_namespace(config.to_namespace()) == config
    full = config.to_namespace()
    assert vars(full).keys() == {field.name for _, field in ARGUMENTS} | {"alpha"}
    assert {name: getattr(full, name) for name in vars(args)} == vars(args)


def test_config_can_be_pickled():
    config = RunConfig.from_namespace(Namespace(lr=0.5, alpha=0.1))
    assert pickle.loads(pickle.dumps(config)) == config
