"""Resolving the arguments of a run: precedence, validation and error messages."""

import pytest

from mammoth_compiled import (
    ContinualModel,
    get_avail_args,
    load_runner,
    register_backbone,
    register_dataset,
    register_model,
)
from mammoth_compiled.config import add_rehearsal_args, build_parser, resolve
from mammoth_compiled.config.commands import help_text
from mammoth_compiled.errors import ConfigError, ContractError, MammothError, RegistryError

REPLAY = {"buffer_size": 20, "alpha": 0.3, "beta": 0.5}


@pytest.fixture
def picky(tiny):
    """Registers a model, a dataset and a backbone with their own arguments and defaults."""

    @register_model("picky")
    class Picky(ContinualModel):
        DEFAULTS = {"seq-picky": {"lr": 0.2, "strength": 3.0}}  # noqa: RUF012

        @staticmethod
        def get_parser(parser):
            parser.add_argument("--strength", type=float, default=1.0)
            parser.add_argument("--power", type=int, default="2")
            parser.set_defaults(optimizer="adam")
            return parser

        def training_loss(self, batch):
            return self.loss(self.net(batch.inputs), batch.labels)

    @register_dataset("seq-picky")
    class PickyStream(tiny.Dataset):
        DEFAULTS = {"lr": 0.4, "n_epochs": 7}  # noqa: RUF012

        def __init__(self, args, noise: float = 0.0):
            super().__init__(args)
            self.noise = noise

        @staticmethod
        def get_backbone():
            return "picky-net"

    @register_backbone("picky-net")
    def picky_net(num_classes, width: int = 4, sizes: list[int] = (1, 2), fast: bool = False):
        net = tiny.Net(num_classes, width)
        net.options = (sizes, fast)
        return net


def both_forms(**args):
    """Returns the same arguments as a dictionary and as words of a command line."""
    words = []
    for name, value in args.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *map(str, values)]
    return args, words


# --- Precedence -------------------------------------------------------------------------------


def test_argument_default(picky):
    args = resolve("picky", "seq-tiny", {"backbone": "tiny-net"})
    assert (args.strength, args.power, args.joint, args.compile) == (1.0, 2, False, "auto")
    assert (args.lr, args.batch_size, args.n_epochs) == (0.03, 32, 1)


def test_dataset_default_overrides_argument_default(picky):
    assert resolve("sgd", "seq-picky", {}).lr == 0.4
    assert resolve("sgd", "seq-picky", {}).n_epochs == 7


def test_best_known_setting_overrides_dataset_default(picky):
    args = resolve("picky", "seq-picky", {})
    assert (args.lr, args.n_epochs, args.strength) == (0.2, 7, 3.0)


@pytest.mark.parametrize("given", both_forms(lr=0.1, strength=9, n_epochs=2))
def test_given_value_overrides_everything(picky, given):
    args = resolve("picky", "seq-picky", given)
    assert (args.lr, args.strength, args.n_epochs) == (0.1, 9.0, 2)


def test_model_may_set_defaults_of_base_arguments(picky):
    assert resolve("picky", "seq-tiny", {}).optimizer == "adam"
    assert resolve("picky", "seq-tiny", {"optimizer": "sgd"}).optimizer == "sgd"


def test_none_counts_as_not_given(picky):
    assert resolve("picky", "seq-picky", {"lr": None, "strength": None}).lr == 0.2


@pytest.mark.parametrize(("buffer_size", "alpha"), [(None, 0.2), (500, 0.2), (200, 0.1), (90, 0.1)])
def test_best_known_setting_is_nearest_in_buffer_size(buffer_size, alpha):
    args = resolve("derpp", "seq-cifar10", {"buffer_size": buffer_size})
    assert args.alpha == alpha
    assert args.buffer_size == (buffer_size or 500)


@pytest.mark.parametrize("given", both_forms(width=16, sizes=[3, 4, 5], fast=1, noise=0.5))
def test_backbone_and_dataset_parameters_are_arguments(picky, given):
    model, dataset = load_runner("picky", "seq-picky", given) if isinstance(given, dict) else (0, 0)
    args = resolve("picky", "seq-picky", given)
    assert (args.width, args.sizes, args.fast, args.noise) == (16, [3, 4, 5], True, 0.5)
    if model:
        assert model.net.conv.out_channels == 16
        assert model.net.options == ([3, 4, 5], True)
        assert dataset.noise == 0.5


def test_default_backbone_comes_from_the_dataset(picky):
    assert resolve("sgd", "seq-picky", {}).backbone == "picky-net"
    assert resolve("sgd", "seq-picky", ["--backbone", "tiny_net"]).backbone == "tiny-net"


def test_load_runner_works_without_arguments(picky):
    model, dataset = load_runner("picky", "seq_picky")
    assert model.args.model == "picky"
    assert model.args.dataset == dataset.NAME == "seq-picky"
    assert model.args.num_classes == 6


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("true", True), ("Yes", True), ("0", False), ("no", False)]
)
def test_boolean_spellings(tiny, text, value):
    assert resolve("sgd", "seq-tiny", ["--joint", text]).joint is value
    assert resolve("sgd", "seq-tiny", {"joint": value}).joint is value


def test_model_flags_can_be_given_in_a_dictionary(tiny):
    @register_model("flagged")
    class Flagged(ContinualModel):
        @staticmethod
        def get_parser(parser):
            parser.add_argument("--twice", action="store_true")
            parser.add_argument("--once", action="store_false")
            return parser

    assert resolve("flagged", "seq-tiny", {}).twice is False
    assert resolve("flagged", "seq-tiny", {"twice": True}).twice is True
    assert resolve("flagged", "seq-tiny", {"twice": False}).twice is False
    assert resolve("flagged", "seq-tiny", ["--twice"]).twice is True
    assert resolve("flagged", "seq-tiny", {"once": False}).once is False
    assert resolve("flagged", "seq-tiny", {"once": True}).once is True
    with pytest.raises(ConfigError, match="--twice: must be 0 or 1, got 'often'"):
        resolve("flagged", "seq-tiny", {"twice": "often"})


def test_model_may_redefine_a_base_argument(tiny):
    @register_model("redefines")
    class Redefines(ContinualModel):
        @staticmethod
        def get_parser(parser):
            parser.add_argument("--optim_wd", type=float, default=0.25)
            return parser

    assert resolve("redefines", "seq-tiny", {}).optim_wd == 0.25


def test_minibatch_defaults_to_batch_size_capped_by_buffer(tiny):
    assert resolve("er", "seq-tiny", {"buffer_size": 50, "batch_size": 8}).minibatch_size == 8
    assert resolve("er", "seq-tiny", {"buffer_size": 5, "batch_size": 8}).minibatch_size == 5


def test_joint_model_enables_joint(tiny):
    assert resolve("joint", "seq-tiny", {}).joint is True


# --- Errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batch_size", 0, "must be an integer >= 1, got '0'"),
        ("batch_size", 2.5, "must be an integer >= 1, got '2.5'"),
        ("batch_size", "many", "must be an integer >= 1, got 'many'"),
        ("n_epochs", -1, "must be an integer >= 1, got '-1'"),
        ("lr", -1, "must be a number > 0, got '-1'"),
        ("lr", 0, "must be a number > 0, got '0'"),
        ("lr", "nan", "must be a number > 0, got 'nan'"),
        ("lr", "inf", "must be a number > 0, got 'inf'"),
        ("lr", "fast", "must be a number > 0, got 'fast'"),
        ("optim_wd", -0.1, "must be a number >= 0, got '-0.1'"),
        ("optim_mom", "x", "must be a number >= 0 and below 1, got 'x'"),
        ("seed", -3, "must be an integer >= 0, got '-3'"),
        ("num_workers", -1, "must be an integer >= 0, got '-1'"),
        ("joint", 2, "must be 0 or 1, got '2'"),
        ("debug_mode", "maybe", "must be 0 or 1, got 'maybe'"),
        ("optimizer", "lion", "choose from sgd, adam, adamw"),
        ("compile", "yes", "choose from auto, on, off"),
        ("amp", "int8", "choose from off, bf16, fp16"),
        ("savecheck", "never", "choose from task, last"),
        ("width", "wide", "must be an integer, got 'wide'"),
        ("buffer_size", 0, "must be an integer >= 1, got '0'"),
        ("minibatch_size", 0, "must be an integer >= 1, got '0'"),
        ("device", "tpu", "device 'tpu' is not available; valid: cpu"),
        ("device", "cuda:99", "device 'cuda:99' is not available; valid: cpu"),
    ],
)
@pytest.mark.parametrize("form", [0, 1], ids=["dictionary", "words"])
def test_invalid_values(tiny, form, name, value, message):
    given = both_forms(**{"buffer_size": 20} | {name: value})[form]
    with pytest.raises(ConfigError) as caught:
        resolve("er", "seq-tiny", given)
    text = str(caught.value)
    assert name in text
    # argparse quotes choices in some versions of Python.
    assert message in text or message in text.replace("'", "")


@pytest.mark.parametrize(
    ("model", "dataset", "given", "message"),
    [
        ("sdg", "seq-tiny", {}, "unknown model 'sdg'. Did you mean 'sgd'? Valid: "),
        (
            "sgd",
            "seq-tinny",
            {},
            "unknown dataset 'seq-tinny'. Did you mean 'seq-tiny'? Valid: ",
        ),
        ("sgd", "seq-tiny", {"backbone": "tiny-nett"}, "Did you mean 'tiny-net'?"),
        (None, "seq-tiny", {}, "unknown model None"),
        ("sgd", 7, {}, "unknown dataset 7"),
    ],
)
def test_unknown_names_raise(tiny, model, dataset, given, message):
    with pytest.raises(RegistryError) as caught:
        resolve(model, dataset, given)
    assert message in str(caught.value)


@pytest.mark.parametrize("given", both_forms(batchsize=3))
def test_unknown_arguments_suggest_near_names(tiny, given):
    with pytest.raises(ConfigError, match=r"unknown argument '(--)?batchsize'.*mean '(--)?batch_s"):
        resolve("sgd", "seq-tiny", given)


@pytest.mark.parametrize("given", both_forms(alpha=0.5))
def test_arguments_of_another_model_are_unknown(tiny, given):
    with pytest.raises(ConfigError, match=r"unknown argument '(--)?alpha'. Other models .* der, d"):
        resolve("sgd", "seq-tiny", given)


def test_arguments_are_not_abbreviated(tiny):
    with pytest.raises(ConfigError, match="unknown argument '--batch'"):
        resolve("sgd", "seq-tiny", ["--batch", "3"])


def test_missing_backbone_argument(tiny):
    @register_backbone("needs-width")
    def needs_width(num_classes, width: int):
        return tiny.Net(num_classes, width)

    with pytest.raises(ConfigError, match=r"--width is required .*'needs-width'"):
        load_runner("sgd", "seq-tiny", {"backbone": "needs-width"})
    model, _ = load_runner("sgd", "seq-tiny", {"backbone": "needs-width", "width": 3})
    assert model.net.conv.out_channels == 3


def test_missing_model_argument(tiny):
    with pytest.raises(ConfigError, match=r"--alpha is required for model 'derpp' on 'seq-tiny'"):
        resolve("derpp", "seq-tiny", {"buffer_size": 20})


@pytest.mark.parametrize("given", both_forms(buffer_size=4, minibatch_size=5))
def test_minibatch_larger_than_buffer(tiny, given):
    with pytest.raises(ConfigError, match="--minibatch_size 5 exceeds --buffer_size 4"):
        resolve("er", "seq-tiny", given)


@pytest.mark.parametrize(
    "extra", [{}, {"optim_mom": 0.9, "optimizer": "adam"}, {"optim_mom": 0, "optimizer": "sgd"}]
)
def test_nesterov_requires_momentum(tiny, extra):
    with pytest.raises(ConfigError, match="optim_nesterov 1 needs --optimizer sgd and --optim_mom"):
        resolve("sgd", "seq-tiny", {"optim_nesterov": 1, **extra})


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"lr_scheduler": "multistep"}, "--lr_scheduler multistep and --lr_milestones EPOCH... go"),
        ({"lr_milestones": [1]}, "--lr_scheduler multistep and --lr_milestones EPOCH... go"),
        ({"formats": "onnx"}, "--formats needs --export DIR"),
        ({"export_variants": "fp16"}, "--export_variants needs --export DIR"),
        ({"export_each_task": True}, "--export_each_task needs --export DIR"),
    ],
)
def test_arguments_that_require_each_other(tiny, args, message):
    with pytest.raises(ConfigError) as caught:
        resolve("sgd", "seq-tiny", args)
    assert message in str(caught.value)


# --- Names shared by two parts ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["model", "lr", "export", "explain"])
def test_backbone_parameter_named_like_an_argument_of_the_run(tiny, name):
    namespace = {}
    exec(f"def clash(num_classes, {name}=1): pass", namespace)
    register_backbone("clash")(namespace["clash"])
    with pytest.raises(ConfigError) as caught:
        resolve("sgd", "seq-tiny", {"backbone": "clash"})
    text = str(caught.value)
    assert f"--{name} would set both a parameter of backbone 'clash'" in text
    assert "and an argument of the run: rename the parameter" in text


@pytest.mark.parametrize("name", ["explain", "dataset"])
def test_model_must_not_define_reserved_arguments(tiny, name):
    @register_model("clash")
    class Clash(ContinualModel):
        @staticmethod
        def get_parser(parser):
            parser.add_argument(f"--{name}")
            return parser

    with pytest.raises(ConfigError, match=rf"model 'clash' .* must not define --{name}"):
        resolve("clash", "seq-tiny", {})


def test_backbone_parameter_named_like_an_argument_of_the_model(tiny):
    @register_backbone("clash")
    def clash(num_classes, alpha: float = 0.1):
        return tiny.Net(num_classes)

    args = {"backbone": "clash", "buffer_size": 20, "alpha": 0.5}
    with pytest.raises(ConfigError, match=r"backbone 'clash' .* an argument of model 'der'"):
        resolve("der", "seq-tiny", args)
    assert resolve("sgd", "seq-tiny", {"backbone": "clash"}).alpha == 0.1


def test_backbone_parameter_named_like_a_parameter_of_the_dataset(tiny):
    @register_dataset("seq-clash")
    class Clash(tiny.Dataset):
        def __init__(self, args, width: int = 3):
            super().__init__(args)

    with pytest.raises(ConfigError, match=r"backbone 'tiny-net' .* argument of dataset 'seq-clash"):
        resolve("sgd", "seq-clash", {})


def test_some_arguments_of_the_run_are_shared(tiny):
    received = {}

    @register_backbone("shares")
    def shares(num_classes, device, seed, batch_size=1):
        received.update(device=device, seed=seed, batch_size=batch_size)
        return tiny.Net(num_classes)

    load_runner(
        "sgd", "seq-tiny", {"backbone": "shares", "device": "cpu", "seed": 3, "batch_size": 4}
    )
    assert received == {"device": "cpu", "seed": 3, "batch_size": 4}


def test_backbone_parameters_named_like_arguments_are_named_at_once(tiny):
    @register_backbone("clash")
    def clash(num_classes, width=4, model="small", lr=1.0, buffer_size=3, alpha=0.1):
        return tiny.Net(num_classes, width)

    args = {"backbone": "clash", "buffer_size": 20, "alpha": 0.5, "beta": 0.5}
    with pytest.raises(ConfigError) as caught:
        resolve("derpp", "seq-tiny", args)
    text = str(caught.value)
    assert "--model would set both a parameter of backbone 'clash'" in text
    assert (
        "The same holds for --lr (the run), --buffer_size (model 'derpp'), --alpha (model 'derpp')"
    ) in text
    assert "rename the parameter" in text


def test_defaults_of_methods_do_not_reach_a_backbone(tiny):
    """Neither the dataset's nor a method's: `alpha` of the backbone is not that of a method."""

    @register_backbone("own-alpha")
    def own_alpha(num_classes, alpha: float = 0.7, buffer_size: int = 10**12):
        net = tiny.Net(num_classes)
        net.given = (alpha, buffer_size)
        return net

    @register_dataset("seq-methods")
    class Stream(tiny.Dataset):
        DEFAULTS = {"alpha": 0.1, "buffer_size": 50, "lr": 0.2}  # noqa: RUF012

    @register_model("settled")
    class Settled(ContinualModel):
        DEFAULTS = {"seq-methods": {"alpha": 0.2, "source": "a paper"}}  # noqa: RUF012

    for name in ("sgd", "settled"):
        model, _ = load_runner(name, "seq-methods", {"backbone": "own-alpha"})
        assert model.net.given == (0.7, 10**12)
        assert model.args.lr == 0.2
    model, _ = load_runner("sgd", "seq-methods", {"backbone": "own-alpha", "alpha": 0.5})
    assert model.net.given[0] == 0.5


def test_a_dataset_may_set_parameters_of_its_own_backbone(tiny):
    @register_dataset("seq-wide")
    class Wide(tiny.Dataset):
        DEFAULTS = {"width": 6}  # noqa: RUF012

    assert load_runner("sgd", "seq-wide")[0].net.conv.out_channels == 6


@pytest.mark.parametrize("given", both_forms(n_epochs=1))
def test_a_method_that_cannot_run_is_refused_before_its_arguments_are_asked_for(tiny, given):
    @register_dataset("domains-tiny")
    class Domains(tiny.Dataset):
        SETTING = "domain-il"

    with pytest.raises(ConfigError) as caught:
        resolve("icarl", "domains-tiny", given)
    text = str(caught.value)
    assert "model 'icarl' supports class-il, task-il; dataset 'domains-tiny' is domain-il" in text
    assert "Models for domain-il: " in text
    assert " er," in text
    with pytest.raises(ConfigError, match=r"is general-continual because of --blurry\. Models for"):
        resolve("icarl", "seq-tiny", {"blurry": 0.1})


# --- Errors in building -----------------------------------------------------------------------


def test_nesterov_with_momentum(tiny):
    model, _ = load_runner("sgd", "seq-tiny", {"optim_nesterov": 1, "optim_mom": 0.9})
    assert model.opt.defaults["nesterov"] is True


def test_fp16_requires_a_gpu(tiny):
    with pytest.raises(ConfigError, match="--amp fp16 needs a GPU; valid on the CPU: off, bf16"):
        resolve("sgd", "seq-tiny", {"amp": "fp16", "device": "cpu"})


def test_backbone_function_must_return_a_backbone(tiny):
    @register_backbone("no-net")
    def no_net(num_classes):
        return "a string"

    with pytest.raises(
        ContractError, match=r"'no-net' .* returned a str; it must return a Mammoth"
    ):
        load_runner("sgd", "seq-tiny", {"backbone": "no-net"})


def test_backbone_must_honor_num_classes(tiny):
    @register_backbone("stubborn")
    def stubborn(num_classes):
        return tiny.Net(4)

    with pytest.raises(ContractError) as caught:
        load_runner("sgd", "seq-tiny", {"backbone": "stubborn"})
    assert "'stubborn' on 'seq-tiny'" in str(caught.value)
    assert "[B, 6] (num_classes = 6), but a batch of 2 gave [2, 4]" in str(caught.value)


def test_backbone_with_wrong_input_size_suggests_a_remedy(tiny):
    with pytest.raises(ContractError, match="Check the input size and number of channels"):
        load_runner("sgd", "seq-tiny", {"backbone": "cnn", "input_size": 32})


def test_model_must_support_the_setting(tiny):
    @register_model("only-domain")
    class OnlyDomain(ContinualModel):
        COMPATIBILITY = ["domain-il"]  # noqa: RUF012

    with pytest.raises(ConfigError, match="supports domain-il; dataset 'seq-tiny' is class-il"):
        load_runner("only-domain", "seq-tiny")


def test_errors_are_mammoth_errors_and_value_errors(tiny):
    with pytest.raises(MammothError):
        resolve("sgd", "seq-tiny", {"lr": -1})
    with pytest.raises(ValueError, match="lr"):
        resolve("sgd", "seq-tiny", {"lr": -1})


# --- get_avail_args --------------------------------------------------------------------------


def test_get_avail_args_lists_base_arguments():
    required, optional = get_avail_args()
    assert set(required) == {"model", "dataset"}
    assert {"lr", "batch_size", "n_epochs", "backbone", "device", "seed"} <= set(optional)
    assert optional["optimizer"]["default"] == "sgd"
    assert all(set(entry) == {"description"} for entry in required.values())
    assert all(set(entry) == {"default", "description"} for entry in optional.values())
    assert all(entry["description"] for entry in (*required.values(), *optional.values()))


def test_get_avail_args_includes_named_parts(picky):
    required, optional = get_avail_args("seq-picky", "derpp", "picky-net")
    assert {"buffer_size", "alpha", "beta"} <= set(required)
    assert optional["noise"]["default"] == 0.0
    assert optional["width"]["default"] == 4


def test_descriptions_may_contain_percent_signs(tiny):
    @register_backbone("percent")
    def percent(num_classes, share: float = 0.5):
        """A backbone.

        Args:
            share: Share of the units, 50 % by default.
        """

    _, optional = get_avail_args(backbone="percent")
    text = "Share of the units, 50 % by default (default: 0.5)."
    assert optional["share"]["description"] == text
    assert text in " ".join(help_text(backbone="percent").split())


def test_rehearsal_args():
    parser = build_parser()
    add_rehearsal_args(parser)
    words = ["--model", "er", "--dataset", "seq-tiny", "--buffer_size", "9"]
    args = parser.parse_args(words)
    assert (args.buffer_size, args.minibatch_size) == (9, None)
