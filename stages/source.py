"""source: fingerprints of the user's files, by names, sizes and times, so that a change in them is seen.

Those of data.path are for `fetch`; those of models, for `baseline`. It runs at every `dvc repro`, so it loads no
library that computes.
"""

from typing import Any

from stages.paths import PARAMS, SOURCE, USERS_MODELS, WEIGHTS, repository_root, users_path
from vtp.errors import UserError
from vtp.files import write_json
from vtp.fingerprint import fingerprint
from vtp.yaml import read_yaml


def main() -> None:
    """Write the fingerprints, null where there is no such path: the stage that reads it says what is wrong."""
    try:
        params = read_yaml(PARAMS.read_text(encoding="utf-8"), PARAMS)
    except (OSError, ValueError, UserError):
        params = None
    write_json(SOURCE, {"fingerprint": fingerprint_at(params, "data.path")})
    write_json(WEIGHTS, {key: fingerprint_at(params, key) for key in USERS_MODELS})


def fingerprint_at(params: Any, key: str) -> str | None:
    """Return the fingerprint of what lies at a path of params.yaml."""
    path = users_path(params, key)
    try:
        return fingerprint(repository_root() / path.expanduser()) if path else None
    except (OSError, ValueError, RuntimeError):
        return None


if __name__ == "__main__":
    main()
