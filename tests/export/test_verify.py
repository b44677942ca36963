"""verify_bundle and the verify command check hashes and golden values."""

import numpy as np
import pytest

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export import verify_bundle
from mammoth_compiled.export.__main__ import main
from mammoth_compiled.export.bundle.manifest_reader import read_manifest


def test_verify_command(every_format, capsys):
    assert main(["verify", str(every_format[1])]) == 0
    lines = capsys.readouterr().out.splitlines()
    models = read_manifest(every_format[1]).models
    assert [line.split()[0] for line in lines[:-1]] == [file.path for file in models]
    assert lines[-1].endswith(f"all hashes match, {len(models)} model files verified")
    assert main(["verify", str(every_format[1]), "--runtime", "ts"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("model.ts.pt")


def test_wrong_golden_values_raise(every_format_copy, rehash, capsys):
    values = np.load(every_format_copy / "golden/features.npy")
    np.save(every_format_copy / "golden/features.npy", values + 0.01)
    assert main(["verify", str(every_format_copy)]) == 2
    assert "golden/features.npy is not what the manifest says" in capsys.readouterr().err
    rehash(every_format_copy, "golden/features.npy")
    assert main(["verify", str(every_format_copy)]) == 2
    assert "output 'features' for 4 images (golden) differs by 0.01" in capsys.readouterr().err
    for data in (b"", b"garbage"):
        (every_format_copy / "golden/features.npy").write_bytes(data)
        rehash(every_format_copy, "golden/features.npy")
        with pytest.raises(ExportError, match="no NumPy file") as caught:
            verify_bundle(every_format_copy)
        assert caught.value.code == "damaged"
