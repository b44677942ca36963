"""Export: writes a trained backbone as files that run without this package.

`export_bundle` writes a directory of files, each verified against eager mode; `load_bundle` runs
it, `update_bundle` replaces its weights, and `verify_bundle` checks it on another machine.
"""

if __name__ != "mammoth_compiled.export":
    raise ImportError("import mammoth_compiled.export, not export")

from mammoth_compiled.export.export import export_bundle
from mammoth_compiled.export.load import Bundle, load_bundle
from mammoth_compiled.export.update import update_bundle
from mammoth_compiled.export.verify import verify_bundle

__all__ = ["Bundle", "export_bundle", "load_bundle", "update_bundle", "verify_bundle"]
