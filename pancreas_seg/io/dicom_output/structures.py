"""What DICOM calls the structures that a mask shows: SNOMED CT codes and colours.

Codes: DICOM PS3.16, CID 7150 (categories), CID 7151 (types), CID 244 (laterality).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from pancreas_seg.errors import InputError

Maker = Literal["automatic", "semiautomatic", "manual"]
"""Who drew a mask: the networks; the networks and then a person; a person."""


def _sct(value: str, meaning: str) -> Code:
    return Code(value, "SCT", meaning)


ANATOMY = _sct("91723000", "Anatomical Structure")
ABNORMAL = _sct("49755003", "Morphologically Abnormal Structure")
TISSUE = _sct("85756007", "Tissue")
PANCREAS = _sct("15776009", "Pancreas")


@dataclass(frozen=True)
class Structure:
    """How a structure is coded and shown.

    Parameters
    ----------
    name : str
        What the mask's label is called.
    category, kind : Code
        Segmented property category and type.
    rgb : (3,) ints
        Colour for display, 0 to 255.
    side : Code or None
        Left or right.
    region : Code or None
        The organ that something abnormal lies in.
    """

    name: str
    category: Code
    kind: Code
    rgb: tuple[int, int, int]
    side: Code | None = None
    region: Code | None = None


_LEFT, _RIGHT = _sct("7771000", "Left"), _sct("24028007", "Right")
_KIDNEY = _sct("64033007", "Kidney")
_NEOPLASM = _sct("108369006", "Neoplasm")
_OTHER_RGB = (0, 200, 200)


def _organ(name: str, value: str, rgb: tuple[int, int, int]) -> Structure:
    return Structure(name, ANATOMY, _sct(value, name.replace("_", " ").capitalize()), rgb)


_KNOWN = (
    Structure("pancreas", ANATOMY, PANCREAS, (255, 196, 0)),
    *(
        Structure(name, ABNORMAL, _NEOPLASM, (255, 64, 64), region=PANCREAS)
        for name in ("tumour", "tumor", "lesion", "cancer", "mass")
    ),
    Structure("kidney_left", ANATOMY, _KIDNEY, (185, 102, 83), _LEFT),
    Structure("kidney_right", ANATOMY, _KIDNEY, (200, 120, 90), _RIGHT),
    _organ("liver", "10200004", (221, 130, 101)),
    _organ("spleen", "78961009", (157, 108, 162)),
    _organ("gallbladder", "28231008", (139, 150, 98)),
    _organ("stomach", "69695003", (216, 132, 105)),
    _organ("duodenum", "38848004", (255, 253, 229)),
    _organ("esophagus", "32849002", (211, 171, 143)),
    _organ("aorta", "15825003", (224, 97, 76)),
    _organ("inferior_vena_cava", "64131007", (0, 151, 206)),
    _organ("superior_mesenteric_artery", "42258001", (216, 101, 79)),
    _organ("superior_mesenteric_vein", "90771006", (0, 122, 171)),
    _organ("lung", "39607008", (197, 165, 145)),
    _organ("bone", "272673000", (241, 214, 145)),
)
_BY_NAME: Mapping[str, Structure] = MappingProxyType({s.name: s for s in _KNOWN})


def structure_of(name: str) -> Structure:
    """The coding of a label's name; names that have none of their own here are coded as tissue, under their name."""
    return _BY_NAME.get(name.strip().lower(), Structure(name, TISSUE, TISSUE, _OTHER_RGB))


def code_item(code: Code) -> Dataset:
    """A code as an item of a DICOM code sequence."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def check_named(mask: NDArray[Any], names: Mapping[int, str]) -> dict[int, str]:
    """The names of a mask's values, in the values' order, without 0 (the background) and as DICOM can hold them.

    Raises
    ------
    InputError
        If the mask holds a value that has no name.
    """
    named = {value: _text(name) for value, name in sorted(names.items()) if value != 0}
    found = np.any([np.bincount(plane.ravel(), minlength=int(mask.max()) + 1) for plane in mask], axis=0)
    unnamed = sorted(set(np.flatnonzero(found).tolist()) - set(named) - {0})
    if unnamed:
        raise InputError(
            "input.unnamed_label",
            where="mask",
            found=f"values without a name: {', '.join(map(str, unnamed))}",
            expected=f"0 and those named: {', '.join(f'{value} {name}' for value, name in named.items())}",
            advice="Name each value, on the command line by --label VALUE=NAME.",
        )
    return named


def _text(name: str) -> str:
    """ASCII, for the series may be in any character set; a backslash would separate values."""
    return name.encode("ascii", "replace").decode().replace("\\", "/").strip()[:64] or "unnamed"
