"""What a bundle says of itself, as the string properties of its model file.

The keys that begin with `mammoth.` are for this package; `names`, `classes_seen`, `mean`, `std` and
`input_shape` repeat the facts as JSON lists for programs in other languages, and are left out where
they are not known.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.graph import INPUT
from mammoth_compiled.export.verify import BATCH_SIZES, Difference
from mammoth_compiled.types import DatasetInfo, ReturnTypes

SCHEMA = "1"
_SCHEMA_KEY = "mammoth.schema"


@dataclass(frozen=True)
class Metadata:
    """The facts of a bundle.

    Attributes:
        info: The data the backbone was trained on; `name` is empty where nothing is known of it.
        widths: Output name to K or F, in order.
        parity: Output name to the largest difference from eager that was measured.
    """

    info: DatasetInfo
    widths: dict[str, int]
    parity: dict[str, Difference]

    @property
    def supports(self) -> tuple[ReturnTypes, ...]:
        """The return types that the outputs can answer."""
        if "features" not in self.widths:
            return (ReturnTypes.OUT,)
        return (ReturnTypes.OUT, ReturnTypes.FEATURES, ReturnTypes.BOTH)

    def to_properties(self) -> dict[str, str]:
        """Returns the facts as strings, JSON where they are not plain."""
        info = self.info
        outputs = {
            name: {"dtype": "float32", "shape": ["batch", width]}
            for name, width in self.widths.items()
        }
        contract = {
            "inputs": {INPUT: {"dtype": "float32", "shape": ["batch", *info.input_shape]}},
            "outputs": outputs,
            "returnt": [str(returnt) for returnt in self.supports],
        }
        parity = {
            "batch_sizes": BATCH_SIZES,
            "outputs": {name: difference.to_dict() for name, difference in self.parity.items()},
        }
        facts = {
            "mammoth.contract": contract,
            "mammoth.dataset": info.to_dict() | {"classes_seen": info.classes_seen},
            "mammoth.parity": parity,
            "input_shape": info.input_shape,
        }
        known = {
            "names": info.class_names,
            "classes_seen": info.classes_seen,
            "mean": info.mean,
            "std": info.std,
        }
        facts |= {key: value for key, value in known.items() if value}
        return {_SCHEMA_KEY: SCHEMA} | {key: json.dumps(value) for key, value in facts.items()}

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> "Metadata":
        """Reads what `to_properties` wrote.

        Raises:
            ExportError: If it is not there, or from a later version of this package.
        """
        schema = properties.get(_SCHEMA_KEY)
        if schema is None:
            raise ExportError(
                f"it is no bundle: its metadata has no {_SCHEMA_KEY!r}. Write bundles with "
                "export_bundle"
            )
        if schema != SCHEMA:
            raise ExportError(
                f"its metadata has schema {schema}, and this version of mammoth_compiled reads "
                f"schema {SCHEMA}. Upgrade mammoth_compiled, or export again"
            )
        try:
            outputs = json.loads(properties["mammoth.contract"])["outputs"]
            parity = json.loads(properties["mammoth.parity"])["outputs"]
            return cls(
                info=DatasetInfo.from_dict(json.loads(properties["mammoth.dataset"])),
                widths={name: output["shape"][1] for name, output in outputs.items()},
                parity={name: Difference(**fields) for name, fields in parity.items()},
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ExportError(
                f"its metadata is damaged ({type(error).__name__}: {error}). Export again"
            ) from error
