"""Exported files hold no path of this machine."""

import zipfile

import pytest

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle.local_paths import check_no_local_path, local_directories, scrub


def test_exported_files_hold_no_local_path(every_format):
    _, path = every_format
    files = [file for file in path.rglob("*") if file.is_file()]
    assert len(files) > 10
    for file in files:
        check_no_local_path(file)
        assert not any(folder + b"/" in file.read_bytes() for folder in local_directories())


@pytest.mark.parametrize("compressed", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_local_paths_are_found_and_scrubbed(tmp_path, compressed):
    text = b"x\0" + local_directories()[0] + b"/name/of_a.file:12\0y"
    with zipfile.ZipFile(tmp_path / "a.zip", "w", compressed) as archive:
        archive.writestr("inner", text * 20)
    with pytest.raises(ExportError, match="would hold the local path"):
        check_no_local_path(tmp_path / "a.zip")
    clean = scrub(text)
    assert len(clean) == len(text)
    assert (clean[:3], clean[-6:]) == (b"x\0/", b"_:12\0y")
    (tmp_path / "b").write_bytes(clean)
    check_no_local_path(tmp_path / "b")
    assert scrub(b"/usr/lib/libc.so") == b"/usr/lib/libc.so"


def test_inductor_cache_directories_are_local(monkeypatch, tmp_path):
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert {default_cache_dir().encode(), str(tmp_path).encode()} <= set(local_directories())
