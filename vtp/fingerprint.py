"""Whether files have changed, told without reading them and by a module that is quick to import."""

import hashlib
import os
from pathlib import Path

from vtp.files import walk


def fingerprint(path: Path) -> str | None:
    """Return the SHA-256 (hexadecimal) of what lies at `path`, a file or a folder; None if nothing does.

    It is over the name below `path`, size and time of last change (nanoseconds) of each file: an edit in place is
    seen unless it keeps both. Links are followed; one that leads nowhere counts by its name alone.
    """
    if not os.path.exists(path):
        return None
    top = str(path)
    files = [os.path.join(folder, name) for folder, _, names in walk(path) for name in names]
    total = hashlib.sha256()
    for file in [top] if os.path.isfile(path) else files:
        total.update(os.fsencode(f"{file.removeprefix(top)}\0{_size_and_time(file)}\0"))
    return total.hexdigest()


def _size_and_time(file: str) -> str:
    try:
        status = os.stat(file)
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"
