"""What is labelled in a phantom."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

LABELS: Mapping[int, str] = MappingProxyType(
    {
        1: "pancreas",
        2: "liver",
        3: "spleen",
        4: "kidney_left",
        5: "kidney_right",
        6: "gallbladder",
        7: "stomach",
        8: "duodenum",
        9: "aorta",
        10: "inferior_vena_cava",
        11: "portal_and_splenic_vein",
        12: "bowel",
        13: "bone",
        14: "superior_mesenteric_artery",
        15: "superior_mesenteric_vein",
        16: "lung",
    }
)
"""Name of each value in a phantom's label map; 0 is everything else."""

LABEL_OF: Mapping[str, int] = MappingProxyType({name: label for label, name in LABELS.items()})
