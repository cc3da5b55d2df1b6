"""The files of a directory or an archive, read where they lie: nothing is unpacked onto the disk."""

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

from vtp.errors import UserError
from vtp.files import walk

VALIDATION = ("val", "valid", "validation")  # the names that one folder, that of the validation images, may have
FOLDERS = ("train", *VALIDATION, "test")  # of images, in capitals or not; what else a tree holds does not matter
KINDS = ".zip, .tar, .tar.gz, .tar.xz"
UTF8, WINDOWS = 0x800, 0  # a flag of a zip's member, and the system that wrote it


class FileTree(Protocol):
    """A tree of files. Raises UserError for a file or archive that cannot be read."""

    def names(self) -> list[str]:
        """Return the name of each file and folder, in any order; those of folders end in a slash."""

    def contents(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield (name, content) of the files named, in the order in which they are stored."""


def open_tree(path: Path) -> FileTree:
    """Return the files at `path`: a directory, a .zip, or else a .tar, compressed or not."""
    if path.is_dir():
        return _Directory(path)
    return _Zip(path) if path.suffix.lower() == ".zip" else _Tar(path)


@dataclass(frozen=True)
class _Directory:
    path: Path

    def names(self) -> list[str]:
        names = []
        for parent, folders, files in walk(self.path, self._skip):
            below = Path(parent).relative_to(self.path)
            names += [f"{(below / folder).as_posix()}/" for folder in folders]
            names += [(below / file).as_posix() for file in files]
        return names

    def _skip(self, error: OSError) -> None:
        """Leave out a folder that cannot be read, such as lost+found, unless it may hold images."""
        parts = Path(error.filename).relative_to(self.path).parts
        if not parts or any(part.casefold() in FOLDERS for part in parts[:2]):
            _unreadable(error)

    def contents(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        for name in names:
            try:
                yield name, (self.path / name).read_bytes()
            except OSError as error:
                _unreadable(error)


def _unreadable(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class _Zip:
    path: Path

    def names(self) -> list[str]:
        with _reading(self.path), zipfile.ZipFile(self.path) as archive:
            return [_meant(member) for member in archive.infolist()]

    def contents(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        with _reading(self.path), zipfile.ZipFile(self.path) as archive:
            for member in archive.infolist():
                if _meant(member) in names:
                    yield _meant(member), archive.read(member)


def _meant(member: zipfile.ZipInfo) -> str:
    """Return a member's name as it was meant: some write UTF-8 without saying so, or Windows' own slashes."""
    name = member.filename
    if not member.flag_bits & UTF8:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()  # which zipfile takes it for
    return name.replace("\\", "/") if member.create_system == WINDOWS else name


@dataclass(frozen=True)
class _Tar:
    path: Path

    def names(self) -> list[str]:
        with _reading(self.path), tarfile.open(self.path) as archive:
            names = [member.name + ("/" if member.isdir() else "") for member in archive]
            _check_end(archive)
            return names

    def contents(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        with _reading(self.path), tarfile.open(self.path) as archive:
            for member in archive:
                if member.name in names:
                    yield member.name, self._content(archive, member)

    def _content(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
        file = None
        with suppress(KeyError):  # a link to what the archive does not have
            file = archive.extractfile(member)
        if file is None:
            raise UserError(
                f"{self.path}: {member.name} is a device or a link that leads out of the archive; allowed are "
                "files and links to them"
            )
        return file.read()


def _check_end(archive: tarfile.TarFile) -> None:
    """Raise unless the archive ends in a block of zeros, and read on, for the checksum of the compression.

    tarfile takes a damaged or missing header for the end of the archive.
    """
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("no end of archive")
    while archive.fileobj.read(2**20):
        pass


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    damaged = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)
    try:
        yield
    except PermissionError as error:
        _unreadable(error)
    # ValueError: names that are no text; the last two: encrypted or rare kinds of zip
    except (*damaged, ValueError, RuntimeError, NotImplementedError) as error:
        raise UserError(
            f"{path}: truncated, altered or of another kind; allowed is a directory or one of {KINDS}"
        ) from error
