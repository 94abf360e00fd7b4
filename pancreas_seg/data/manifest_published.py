"""What is published about the public data sets: source, licence, citation, label values, file names and splits.

No images come with this package. The splits were taken from the lists in data_manifests/README.md; a test compares
them with the manifests there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Published:
    """A public data set.

    Parameters
    ----------
    name, description, reference, licence, source : str
        Go into the manifest as they are.
    layout : str
        What the paths in data_manifests/ are relative to.
    fold_source : str
        What ``fold`` and ``splits`` mean where they are the published ones.
    labels : mapping of int to str
        Label values, background included.
    image_number, label_number : re.Pattern
        The case's number in a file name without suffix, as group 1.
    case_id : str
        Format of a case's name, with the number as ``n``.
    images, tests, label_files : tuples of str
        Where labelled images, test images and label maps may lie below the data set's folder, as glob patterns
        without the file's suffix.
    folds : mapping of int to int
        Published validation fold of each training case by its number; empty if none is published.
    splits : mapping of str to mapping of int to int or str
        Further published schemes: fold or list of each training case by its number.
    withdrawn : mapping of int to str
        Numbers of cases that the publisher took back, with the reason.
    """

    name: str
    description: str
    layout: str
    fold_source: str
    reference: str
    licence: str
    source: str
    labels: Mapping[int, str]
    image_number: re.Pattern[str]
    label_number: re.Pattern[str]
    case_id: str
    images: tuple[str, ...]
    tests: tuple[str, ...]
    label_files: tuple[str, ...]
    folds: Mapping[int, int]
    splits: Mapping[str, Mapping[int, int | str]]
    withdrawn: Mapping[int, str]

    def head(self, *notes: str) -> dict[str, Any]:
        """The manifest's keys that describe the data set; the notes are added to the description."""
        return {
            "name": self.name,
            "description": " ".join(note for note in (self.description, *notes) if note),
            "reference": self.reference,
            "licence": self.licence,
            "source": self.source,
            "modality": {"0": "CT"},
            "labels": {str(value): name for value, name in self.labels.items()},
        }


# Fold of each case 1 to 421 in MONAI's five folds; a dot is no training case.
_MSD_FOLDS = (
    "3..123...2.4..33.21.0..04..21..1..0.1..0103.34.22112..40.1..3..1.40.434..10.31.41.33.0110.204001.0343233431"
    ".003.20..4.03.4.3422.443...4.20.2....0.402.....4.2121....222.00.03.0..240442..12...0.03.431441.31..3.432024"
    "0.424..0.22342114..402..3.0030.00.2...3412.32.21.0000421...1033202..23320.31223223421303113..122412.31.1.14"
    ".0.4121332.13.0..3..2104341.10..04322.431.4412.13.0.3440124.4..32014.003.3..34114.421..10401431.44.1"
)
_NIH_FOLD_ENDS = (20, 40, 61, 82)
_NIH_MCNET_TEST = frozenset((1, 4, 5, 6, 8, 9, 21, 25, 37, 39, 40, 46, 50, 51, 54, 59, 60, 67, 73, 74))
_NIH_WITHDRAWN = (25, 70)
_BTCV_LABELS = (
    "background",
    "spleen",
    "right kidney",
    "left kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior vena cava",
    "portal vein and splenic vein",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
)

MSD = Published(
    name="Medical Segmentation Decathlon, Task07 Pancreas",
    description=(
        "281 labelled and 139 unlabelled portal-venous abdominal CTs of patients with a pancreatic mass. One CT per "
        "patient is assumed."
    ),
    layout="Paths are relative to the unpacked folder Task07_Pancreas.",
    fold_source="`fold` is the fold in which the case validates, of MONAI's five.",
    reference=(
        "Antonelli M, Reinke A, Bakas S, et al. The Medical Segmentation Decathlon. Nature Communications 13, 4128 "
        "(2022). doi:10.1038/s41467-022-30695-9. Simpson AL, Antonelli M, Bakas S, et al. A large annotated medical "
        "image dataset for the development and evaluation of segmentation algorithms. arXiv:1902.09063 (2019)."
    ),
    licence="CC BY-SA 4.0",
    source="http://medicaldecathlon.com",
    labels=MappingProxyType({0: "background", 1: "pancreas", 2: "cancer"}),
    image_number=re.compile(r"pancreas_(\d{3})(?:_0000)?"),
    label_number=re.compile(r"pancreas_(\d{3})"),
    case_id="pancreas_{n:03d}",
    images=("imagesTr/*",),
    tests=("imagesTs/*",),
    label_files=("labelsTr/*",),
    folds=MappingProxyType({n: int(fold) for n, fold in enumerate(_MSD_FOLDS, start=1) if fold != "."}),
    splits=MappingProxyType({}),
    withdrawn=MappingProxyType({}),
)

NIH = Published(
    name="NIH Pancreas-CT",
    description=(
        "80 labelled portal-venous abdominal CTs, one per patient. TCIA withdrew cases 25 and 70 of the 82 that were "
        "published first."
    ),
    layout=(
        "Paths are relative to a folder that the user makes: TCIA's DICOM series PANCREAS_<number>, each converted to "
        "images/PANCREAS_<number>.nii.gz, and TCIA's label files labels/label<number>.nii.gz."
    ),
    fold_source=(
        "`fold` is the fold in which the case validates, of OrganSegRSTN's four. `splits.mcnet_62_20` is its list in "
        "MC-Net's split into 62 and 20, of which 61 and 19 are left."
    ),
    reference=(
        "Roth HR, Farag A, Turkbey EB, Lu L, Liu J, Summers RM. Data From Pancreas-CT (Version 2). The Cancer Imaging "
        "Archive (2016). doi:10.7937/K9/TCIA.2016.tNB1kqBU. Roth HR, Lu L, Farag A, et al. DeepOrgan: Multi-level Deep "
        "Convolutional Networks for Automated Pancreas Segmentation. MICCAI 2015, LNCS 9349, 556-564. "
        "doi:10.1007/978-3-319-24553-9_68. Clark K, Vendt B, Smith K, et al. The Cancer Imaging Archive (TCIA): "
        "Maintaining and Operating a Public Information Repository. Journal of Digital Imaging 26, 1045-1057 (2013). "
        "doi:10.1007/s10278-013-9622-7."
    ),
    licence="CC BY 3.0",
    source="https://www.cancerimagingarchive.net/collection/pancreas-ct/",
    labels=MappingProxyType({0: "background", 1: "pancreas"}),
    image_number=re.compile(r"(?i:pancreas)_(\d{4})(?:_0000)?"),
    label_number=re.compile(r"(?:label|(?i:pancreas)_)(\d{4})"),
    case_id="PANCREAS_{n:04d}",
    images=("images/*", "data/*", "imagesTr/*"),
    tests=(),
    label_files=("labels/*", "TCIA_pancreas_labels-02-05-2017/*", "labelsTr/*"),
    folds=MappingProxyType({n: sum(n > end for end in _NIH_FOLD_ENDS) for n in range(1, 83)}),
    splits=MappingProxyType({"mcnet_62_20": {n: "test" if n in _NIH_MCNET_TEST else "training" for n in range(1, 83)}}),
    withdrawn=MappingProxyType(
        dict.fromkeys(_NIH_WITHDRAWN, "withdrawn by TCIA: the scan of case 2 with another crop")
    ),
)

BTCV = Published(
    name="BTCV: Multi-Atlas Labeling Beyond the Cranial Vault, abdomen",
    description=(
        "30 labelled and 20 unlabelled portal-venous abdominal CTs with 13 organs. One CT per patient is assumed. No "
        "folds are published with the data."
    ),
    layout="Paths are relative to RawData/Training as unpacked from RawData.zip.",
    fold_source="",
    reference=(
        "Landman B, Xu Z, Iglesias JE, Styner M, Langerak TR, Klein A. MICCAI Multi-Atlas Labeling Beyond the Cranial "
        "Vault: Workshop and Challenge (2015). doi:10.7303/syn3193805."
    ),
    licence="no open licence: Synapse account, registration for the challenge and its data use terms",
    source="https://www.synapse.org/Synapse:syn3193805",
    labels=MappingProxyType(dict(enumerate(_BTCV_LABELS))),
    image_number=re.compile(r"img(\d{4})"),
    label_number=re.compile(r"label(\d{4})"),
    case_id="img{n:04d}",
    images=("img/*", "Training/img/*", "RawData/Training/img/*"),
    tests=("../Testing/img/*", "Testing/img/*", "RawData/Testing/img/*"),
    label_files=("label/*", "Training/label/*", "RawData/Training/label/*"),
    folds=MappingProxyType({}),
    splits=MappingProxyType({}),
    withdrawn=MappingProxyType({}),
)

PUBLISHED: Mapping[str, Published] = MappingProxyType({"msd": MSD, "nih": NIH, "btcv": BTCV})
"""By layout name."""
