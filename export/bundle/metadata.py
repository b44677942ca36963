"""What an ONNX file says of itself, for whoever has only that file.

Properties are texts. `mammoth.contract` and `mammoth.dataset` are JSON; `names`, `classes_seen`,
`mean`, `std` and `input_shape` repeat the facts as JSON lists for programs that look for no more,
and are left out where they are not known.
"""

import json

from mammoth_compiled.export.bundle.manifest import SCHEMA, Manifest

SCHEMA_KEY = "mammoth.schema"


def properties(manifest: Manifest) -> dict[str, str]:
    """Returns the properties of a bundle's model files."""
    info = manifest.info
    facts = {
        "mammoth.contract": manifest.contract(),
        "mammoth.dataset": info.to_dict() | {"classes_seen": info.classes_seen},
        "input_shape": info.input_shape,
    }
    known = {
        "names": info.class_names,
        "classes_seen": info.classes_seen,
        "mean": info.mean,
        "std": info.std,
    }
    facts |= {key: value for key, value in known.items() if value}
    return {SCHEMA_KEY: str(SCHEMA)} | {key: json.dumps(value) for key, value in facts.items()}
