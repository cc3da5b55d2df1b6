"""source: a fingerprint of what lies at data.path, by names, sizes and times, so that `fetch` sees a change in it.

It runs at every `dvc repro`, so it loads no library that computes.
"""

from pathlib import Path

import yaml

from stages.paths import PARAMS, SOURCE, repository_root
from vtp.files import write_json
from vtp.fingerprint import fingerprint


def main() -> None:
    """Read data.path; write the fingerprint, null where there is no such path: `fetch` says what is wrong."""
    try:
        path = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))["data"]["path"]
        found = fingerprint(repository_root() / Path(path).expanduser()) if path else None
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, yaml.YAMLError):
        found = None
    write_json(SOURCE, {"fingerprint": found})


if __name__ == "__main__":
    main()
