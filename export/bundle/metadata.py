"""Key-value metadata of a model file, for readers that have only that file.

Values are strings. `mammoth.contract` and `mammoth.dataset` are JSON objects. `names`,
`classes_seen`, `mean`, `std` and `input_shape` repeat single facts as JSON lists for simpler
readers, and are left out if unknown.
"""

import json

from mammoth_compiled.export.bundle.manifest import SCHEMA, Manifest


def metadata_of(manifest: Manifest) -> dict[str, str]:
    """Returns the metadata of a bundle's model files."""
    info = manifest.info
    facts = {
        "mammoth.contract": manifest.contract(),
        "mammoth.dataset": info.to_dict() | {"classes_seen": info.classes_seen},
        "input_shape": info.input_shape,
    }
    optional = {
        "names": info.class_names,
        "classes_seen": info.classes_seen,
        "mean": info.mean,
        "std": info.std,
    }
    facts |= {key: value for key, value in optional.items() if value}
    return {"mammoth.schema": str(SCHEMA)} | {
        key: json.dumps(value) for key, value in facts.items()
    }
