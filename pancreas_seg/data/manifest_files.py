"""Which files of a data set's folder are images and label maps, and which belong together."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pancreas_seg.data.manifest_published import Published
from pancreas_seg.errors import ConfigError, ManifestError

_LOG = logging.getLogger(__name__)
_PAIR_IMAGES = ("images/*", "imagesTr/*", "imagesTs/*")
_PAIR_LABELS = ("labels/*", "labelsTr/*")
K = TypeVar("K", int, str)


@dataclass(frozen=True)
class Found:
    """A case on disk; ``number`` is its number in a published data set, from 1."""

    case_id: str
    image: Path
    label: Path | None
    number: int = 0


def find_pairs(root: Path, images: Sequence[str], label_files: Sequence[str], suffix: str) -> list[Found]:
    """Images with the label map of the same name, or of the same name without ``suffix``; sorted by name.

    Raises
    ------
    ManifestError
        If there is no image, or two files have the same name but for their format or folder.
    ConfigError
        If a pattern is no glob pattern below ``root``.
    """
    from pancreas_seg.io import case_name

    image_patterns = tuple(images) or _PAIR_IMAGES
    label_patterns = tuple(label_files) or _PAIR_LABELS
    label_of = _by_key(_files(root, label_patterns), case_name)

    def case_id(path: Path) -> str:
        name = case_name(path)
        return name if name in label_of else name.removesuffix(suffix)

    image_of = _by_key(_some(_files(root, image_patterns), root, image_patterns), case_id)
    _report_unused(len(set(label_of) - set(image_of)))
    return [Found(key, image_of[key], label_of.get(key)) for key in sorted(image_of)]


def find_published(
    root: Path, published: Published, images: Sequence[str], label_files: Sequence[str]
) -> tuple[list[Found], list[dict[str, Any]]]:
    """Images and label maps of a public data set by their number; and the withdrawn cases of which files are there.

    Raises
    ------
    ManifestError
        As `find_pairs`, and if a file is not named as the data set has it.
    ConfigError
        If a pattern is no glob pattern below ``root``.
    """
    image_patterns = tuple(images) or published.images + published.tests
    label_patterns = tuple(label_files) or published.label_files
    files = _some(_files(root, image_patterns), root, image_patterns)
    image_of = _by_key(files, lambda path: _number(path, published.image_number))
    label_of = _by_key(_files(root, label_patterns), lambda path: _number(path, published.label_number))
    _report_unused(len(set(label_of) - set(image_of) - set(published.withdrawn)))
    found = [
        Found(published.case_id.format(n=n), image_of[n], label_of.get(n), n)
        for n in sorted(image_of)
        if n not in published.withdrawn
    ]
    withdrawn = [
        {"case_id": published.case_id.format(n=n), "reason": reason}
        for n, reason in published.withdrawn.items()
        if n in image_of or n in label_of
    ]
    return found, withdrawn


def _files(root: Path, patterns: Iterable[str]) -> list[Path]:
    from pancreas_seg.io import IMAGE_SUFFIXES

    files: set[Path] = set()
    for pattern in patterns:
        try:
            hits = list(root.glob(pattern))
        except (ValueError, NotImplementedError) as error:
            raise wrong_option("images", repr(pattern), "a glob pattern relative to the data set's folder") from error
        files.update(
            path
            for path in hits
            if path.name.lower().endswith(IMAGE_SUFFIXES) and not path.name.startswith(".") and path.is_file()
        )
    return sorted(files)


def _some(files: list[Path], root: Path, patterns: Sequence[str]) -> list[Path]:
    from pancreas_seg.io import IMAGE_SUFFIXES

    if not files:
        raise ManifestError(
            "manifest.nothing_found",
            where=root,
            found=f"no image; tried {', '.join(patterns)}",
            expected=f"files that end with {', '.join(IMAGE_SUFFIXES)}",
            advice="Give the folder above the images, or other patterns.",
        )
    return files


def _number(path: Path, pattern: re.Pattern[str]) -> int:
    from pancreas_seg.io import case_name

    match = pattern.fullmatch(case_name(path))
    if match is None:
        raise ManifestError(
            "manifest.unknown_name",
            where=path,
            found=f"the name {case_name(path)}",
            expected=f"one that matches {pattern.pattern}",
            advice="Rename or move the file, or use the layout `pairs`.",
        )
    return int(match[1])


def _by_key(files: Iterable[Path], key: Callable[[Path], K]) -> dict[K, Path]:
    found: dict[K, Path] = {}
    for path in files:
        k = key(path)
        if k in found:
            raise ManifestError(
                "manifest.duplicate_case",
                where=path,
                found=f"another file of the case {k}: {found[k]}",
                expected="one image and one label map for each case",
                advice="Remove one of the two, or give narrower patterns.",
            )
        found[k] = path
    return found


def wrong_option(key: str, found: str, expected: str) -> ConfigError:
    """The error for an option that makes no sense."""
    return ConfigError(
        f"config.manifest_{key}", where=key, found=found, expected=expected, advice="Correct the option."
    )


def _report_unused(n: int) -> None:
    if n:
        _LOG.warning("%d label map(s) without an image were left out", n)
