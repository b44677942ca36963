"""Files in Mammoth's style run after their imports were renamed."""

import importlib.util
from pathlib import Path

import pytest
import torch

from mammoth_compiled import load_runner, train
from mammoth_compiled.compat.__main__ import main
from mammoth_compiled.compat.mammoth import augmentations
from mammoth_compiled.compat.rename import MODULES, TARGET, rename

FILE = Path(__file__).with_name("mammoth_style.py")


@pytest.fixture
def renamed(tiny, tmp_path):
    """Renames and imports the file; the registries forget it after the test."""
    assert main([str(FILE), "--out", str(tmp_path / "renamed")]) == 0
    path = tmp_path / "renamed" / FILE.name
    spec = importlib.util.spec_from_file_location("renamed_mammoth_style", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_model_and_dataset_run(renamed):
    model, dataset = load_runner(
        "every-thing", "seq-patterns", {"buffer_size": 8, "seed": 0, "optim_mom": 0.9}
    )
    assert (model.args.n_epochs, model.args.batch_size, model.args.lr) == (2, 6, 0.05)
    train(model, dataset)
    # Of 8 stored samples some went into a validation set with as many images of the task.
    (zero, size), first_eval, (one, merged), second_eval = model.log
    assert (zero, size, first_eval) == (0, 12, (0, 1))
    assert (one, second_eval) == (1, (1, 2))
    assert merged + len(model.val_dataset.targets) == 12 + 8
    assert model.task_in_eval == 2
    assert not model.had_momentum
    assert model.iterations[0] == 2 * -(-merged // 6) - 1
    # The buffer is divided among four classes; the training set is that of the task again.
    assert model.buffer.labels.sort().values.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert set(dataset.train_loader.dataset.targets.tolist()) == {2, 3}
    assert len(model.everything) == 2 * (12 + merged)
    assert model.everything.task_labels[: len(model.everything)].eq(1).all()
    assert len(model.val_loader) == -(-len(model.val_dataset.targets) // 6)


def test_resumes_exactly(renamed, tmp_path):
    args = {"buffer_size": 8, "seed": 0, "checkpoint_path": str(tmp_path)}

    def run(**more):
        model, dataset = load_runner("every-thing", "seq-patterns", {**args, **more})
        train(model, dataset)
        return model

    whole = run(savecheck="task")
    resumed = run(loadcheck=str(next(tmp_path.glob("*_task1.pt"))))
    assert torch.equal(resumed.net.get_params(), whole.net.get_params())
    assert torch.equal(resumed.everything.labels, whole.everything.labels)


def test_rename_changes_imports_only():
    source = (
        "import os, utils.loggers\n"
        "from utils.buffer import (\n    Buffer,  # from utils.buffer import\n)\n"
        'text = "ü"; from  models.utils.continual_model  import ContinualModel\n'
        "from torch.utils.data import Dataset\n"
        "import utils.conf as conf, utils as u\n"
        "def f():\n    from utils.args import *\n    from models.lora_utils import merge\n"
    )
    renamed = rename(source)
    assert renamed.source.splitlines() == [
        "import os, utils.loggers",
        f"from {TARGET}.buffer import (",
        "    Buffer,  # from utils.buffer import",
        ")",
        f'text = "ü"; from  {TARGET}.model  import ContinualModel',
        "from torch.utils.data import Dataset",
        f"import {TARGET}.utils as conf, {TARGET}.utils as u",
        "def f():",
        f"    from {TARGET}.arguments import *",
        "    from models.lora_utils import merge",
    ]
    assert renamed.unknown == ["line 1: utils.loggers", "line 10: models.lora_utils"]


def test_direct_calls_of_forward_become_calls_of_the_network():
    source = "ü = self.net.forward(self.net.forward(x)), self.forward(x), self.old_net.forward(x)"
    expected = "ü = self.net(self.net(x)), self.forward(x), self.old_net.forward(x)"
    assert rename(source).source == expected


def test_model_files_renamed_together_import_each_other(tmp_path):
    (tmp_path / "one.py").write_text("from models.two import f\nfrom models.three import g\n")
    (tmp_path / "two.py").write_text("def f(): ...\n")
    assert main([str(tmp_path / "one.py"), str(tmp_path / "two.py"), "--out", str(tmp_path)]) == 0
    expected = "from two import f\nfrom models.three import g\n"
    assert (tmp_path / "one.py").read_text() == expected


def test_files_of_a_checkout_bring_what_they_import(tmp_path, capsys):
    files = {
        "models/lora.py": "from models.lora_utils import merge\nfrom utils.loss import mse\n",
        "models/lora_utils/merge.py": "from .low_rank import f\nfrom utils.buffer import Buffer\n",
        "models/lora_utils/low_rank.py": "from models.utils.base import Base\n",
        "models/utils/base.py": "from models.lora import Lora\nfrom utils.missing import g\n"
        "from .continual_model import ContinualModel\n",
        "utils/loss/__init__.py": "import utils.loss.mse as mse\n",
        "utils/loss/mse.py": "",
        "utils/unused.py": "",
        "utils/buffer.py": "",
    }
    for name, text in files.items():
        (tmp_path / "mammoth" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mammoth" / name).write_text(text)
    out = tmp_path / "out"
    assert main([str(tmp_path / "mammoth/models/lora.py"), "--out", str(out)]) == 0
    expected = {
        "lora.py": "from lora_utils import merge\nfrom loss import mse\n",
        "lora_utils/merge.py": f"from .low_rank import f\nfrom {TARGET}.buffer import Buffer\n",
        "lora_utils/low_rank.py": "from utils.base import Base\n",
        "utils/base.py": "from lora import Lora\nfrom utils.missing import g\n"
        f"from {TARGET}.model import ContinualModel\n",
        "loss/__init__.py": "import loss.mse as mse\n",
        "loss/mse.py": "",
    }
    found = {str(file.relative_to(out)): file.read_text() for file in out.rglob("*.py")}
    assert found == expected
    said, err = capsys.readouterr()
    assert f"lora.py imports models.lora_utils.merge: wrote {out}/lora_utils/merge.py" in said
    assert err.count("\n") == 1
    assert "base.py: line 2: utils.missing has no counterpart here" in err


def test_every_counterpart_exists():
    for name in set(MODULES.values()):
        module = importlib.import_module(f"{TARGET}.{name}")
        assert all(hasattr(module, public) for public in module.__all__)


def test_command_prints_and_names_what_is_missing(tmp_path, capsys):
    path = tmp_path / "model.py"
    path.write_text("from utils.loggers import log\nfrom utils.buffer import Buffer\n")
    assert main([str(path)]) == 0
    out, err = capsys.readouterr()
    assert out == f"from utils.loggers import log\nfrom {TARGET}.buffer import Buffer\n"
    assert "line 1: utils.loggers has no counterpart here" in err


@pytest.mark.parametrize("text", ["def f(:", None])
def test_unreadable_files(tmp_path, capsys, text):
    path = tmp_path / "model.py"
    if text is not None:
        path.write_text(text)
    assert main([str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_strong_views_are_normalized():
    images = torch.full((4, 3, 8, 8), 0.5)
    views = augmentations.strong_aug((8, 8), (0.5, 0.5, 0.5), (0.1, 0.1, 0.1))(images)
    assert views.shape == images.shape
    assert views.abs().max() > 0  # brightness is jittered
    flat = augmentations.strong_aug(None, (0.0,), (0.5,))(images[:, :1])
    torch.testing.assert_close(flat, 2 * images[:, :1])  # gray images are only cropped and flipped
