"""Files that are written whole or not at all, and the files below a folder."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vtp.errors import UserError


def users_file(key: str, path: str, root: Path) -> Path:
    """Return the path that a key of params.yaml names, which begins at `root` unless it is absolute or has a `~`.

    Raises UserError if it begins with `~NAME` and there is no user of that name.
    """
    try:
        return root / Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"params.yaml: {key} names {path!r}, but there is no such user") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` at the end, or remove it after an exception.

    Raises UserError if the file cannot be written, as on a full disk or in a folder of somebody else.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write plain data as indented UTF-8 JSON, floats at full precision, so that equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; raise UserError if the file is missing or is not JSON."""
    try:
        return json.loads(existing(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not a JSON file ({error}); run the stage that writes it again") from error


def existing(path: Path) -> Path:
    """Return `path`; raise UserError if there is no such file."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; run the stage that writes it first (dvc repro)")
    return path


def walk(
    top: Path, onerror: Callable[[OSError], object] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield (folder, names of the folders in it, names of its files) from `top` down, by name, as os.walk does.

    Links to folders are followed, except into a folder that the walk is inside of, which would never end.
    """
    inside_of = {str(top): frozenset([os.path.realpath(top)])}
    for folder, below, files in os.walk(top, onerror=onerror, followlinks=True):
        above = inside_of.pop(folder)
        real = {name: os.path.realpath(os.path.join(folder, name)) for name in sorted(below)}
        below[:] = [name for name in real if real[name] not in above]
        inside_of |= {os.path.join(folder, name): above | {real[name]} for name in below}
        yield folder, below, sorted(files)
