"""Where the bytes of DICOM files come from: a folder, a zip (never unpacked to disk), or a single file."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

from pancreas_seg.errors import InputError

LARGEST_FILE_BYTES = 4 * 2**30
"""A larger file is refused before it is read: a multi-frame CT of 4,000 slices has 2 GB."""

_LARGEST_ZIP_BYTES = 32 * 2**30
_LARGEST_ZIP_RATIO = 100
_LARGEST_COUNT = 100_000
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
_OTHER_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".zip", ".json", ".csv", ".txt", ".xml", ".html", ".pdf", ".png")


class Files(ABC):
    """Files in a fixed order, read one at a time.

    ``where`` is the path that was given; ``label`` says which file is meant without its name, which may be a patient's.
    """

    def __init__(self, where: Path, n: int) -> None:
        self.where = where
        self._n = n

    def __len__(self) -> int:
        return self._n

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def label(self, n: int) -> str:
        """What messages call the file: its place in the sorted list."""
        return f"file {n + 1} of {len(self)}" if len(self) > 1 else "the file"

    def close(self) -> None:  # noqa: B027
        """Let go of what is open; most have nothing."""

    @abstractmethod
    def name(self, n: int) -> str:
        """The file's name without its folders."""

    @abstractmethod
    def size(self, n: int) -> int:
        """Bytes that the file has, or says that it has."""

    @abstractmethod
    def head(self, n: int, size: int) -> bytes:
        """The first bytes.

        Raises
        ------
        InputError
            If the file cannot be read.
        """

    def read(self, n: int) -> bytes:
        """All bytes.

        Raises
        ------
        InputError
            If the file is too large, or cannot be read.
        """
        if self.size(n) > LARGEST_FILE_BYTES:
            raise InputError(
                "input.too_large",
                where=self.where,
                found=f"{self.label(n)} with {self.size(n)} bytes",
                expected=f"at most {LARGEST_FILE_BYTES} bytes a file",
                advice="Export the series as one file per slice.",
            )
        return self.head(n, -1)


class PathFiles(Files):
    """A list of paths on disk."""

    def __init__(self, where: Path, paths: list[Path]) -> None:
        super().__init__(where, len(paths))
        self._paths = paths

    def name(self, n: int) -> str:
        return self._paths[n].name

    def size(self, n: int) -> int:
        try:
            return self._paths[n].stat().st_size
        except OSError as error:
            raise self._unreadable(n, error) from error

    def head(self, n: int, size: int) -> bytes:
        try:
            with self._paths[n].open("rb") as file:
                return file.read(size)
        except OSError as error:
            raise self._unreadable(n, error) from error

    def _unreadable(self, n: int, error: OSError) -> InputError:
        return InputError(
            "input.unreadable",
            where=self.where,
            found=f"{self.label(n)}, which cannot be opened ({error.strerror})",
            expected="files that may be read",
            advice="Check the folder's permissions, and that it is not being written to.",
        )


class ZipFiles(Files):
    """The members of a zip, decompressed one at a time in memory."""

    def __init__(self, where: Path, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._members = sorted(
            (info for info in archive.infolist() if not info.is_dir() and not _hidden(PurePosixPath(info.filename))),
            key=lambda info: info.filename,
        )
        super().__init__(where, len(self._members))

    def close(self) -> None:
        self._archive.close()

    def name(self, n: int) -> str:
        return PurePosixPath(self._members[n].filename).name

    def size(self, n: int) -> int:
        return self._members[n].file_size

    def head(self, n: int, size: int) -> bytes:
        try:
            with self._archive.open(self._members[n]) as file:
                return file.read(size)
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, zlib.error, RuntimeError) as error:
            raise InputError(
                "input.truncated",
                where=self.where,
                found=f"{self.label(n)} in the zip, which cannot be decompressed",
                expected="a complete zip with right checksums",
                advice="Copy or export the zip again.",
            ) from error


def open_files(path: Path) -> Files:
    """The files that a path stands for; a folder's with those of folders in it, hidden ones left out.

    Raises
    ------
    InputError
        If the path cannot be read, or a zip is damaged, encrypted, a bomb, or leaves its folder.
    """
    if path.is_dir():
        return PathFiles(path, list(_walk(path)))
    if path.name.lower().endswith(".zip"):
        return _open_zip(path)
    return PathFiles(path, [path])


def may_be_dicom_name(name: str) -> bool:
    """False for names of formats that are surely something else."""
    return not name.lower().endswith(_OTHER_SUFFIXES)


def _walk(folder: Path) -> Iterator[Path]:
    n = 0
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(root, name)
            if name.startswith(".") or not path.is_file():
                continue
            n += 1
            _check_count(n, folder)
            yield path


def _open_zip(path: Path) -> ZipFiles:
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise InputError(
            "input.unreadable",
            where=path,
            found=f"a file that cannot be opened ({error.strerror})",
            expected="a file that may be read",
            advice="Check the path and its permissions.",
        ) from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise InputError(
            "input.truncated",
            where=path,
            found="a zip whose list of files cannot be read",
            expected="a complete zip",
            advice="Copy or export the zip again.",
        ) from error
    try:
        _check_members(archive.infolist(), path)
        return ZipFiles(path, archive)
    except BaseException:
        archive.close()
        raise


def _check_members(members: list[zipfile.ZipInfo], where: Path) -> None:
    _check_count(len(members), where)
    for n, info in enumerate(members, start=1):
        name = PurePosixPath(info.filename.replace("\\", "/"))
        # ZipInfo.orig_filename still has what follows a null byte, where readers differ.
        if name.is_absolute() or ".." in name.parts or ":" in "".join(name.parts[:1]) or "\0" in info.orig_filename:
            raise InputError(
                "input.zip_member_outside",
                where=where,
                found=f"member {n} of {len(members)}, whose path leads out of the zip's folder",
                expected="paths inside it",
                advice="Do not unpack this zip; ask for a new one.",
            )
        if info.flag_bits & 1:
            raise InputError(
                "input.encrypted",
                where=where,
                found=f"member {n} of {len(members)} with a password",
                expected="a zip without one",
                advice="Unpack the zip with its password and give the folder.",
            )
        if info.compress_type not in _ZIP_METHODS or stat.S_ISLNK(info.external_attr >> 16):
            raise InputError(
                "input.zip_unsupported",
                where=where,
                found=f"member {n} of {len(members)}, a link or compressed by method {info.compress_type}",
                expected="plain files, stored, deflated or by bzip2",
                advice="Unpack the zip and give the folder.",
            )
    total, packed = sum(info.file_size for info in members), where.stat().st_size
    if any(info.compress_size > packed for info in members):
        raise InputError(
            "input.truncated",
            where=where,
            found="a zip with a member that claims to be larger than the zip",
            expected="a complete zip",
            advice="Copy or export the zip again.",
        )
    if total > _LARGEST_ZIP_BYTES or total > _LARGEST_ZIP_RATIO * packed + 2**26:
        raise InputError(
            "input.zip_bomb",
            where=where,
            found=f"{packed} bytes that claim to unpack to {total}",
            expected=f"at most {_LARGEST_ZIP_RATIO} times its size, and {_LARGEST_ZIP_BYTES} bytes",
            advice="Do not unpack this zip; ask for a new one, or give the folder of one series.",
        )


def _check_count(n: int, where: Path) -> None:
    if n > _LARGEST_COUNT:
        raise InputError(
            "input.too_many_files",
            where=where,
            found=f"more than {_LARGEST_COUNT} files",
            expected="the files of one study",
            advice="Give the folder of the CT series.",
        )


def _hidden(name: PurePosixPath) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
