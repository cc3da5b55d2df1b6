"""source: fingerprints of the user's files, by names, sizes and times, so that a change in them is seen.

Those of data.path are for `fetch`; those of model.weights, and of what model.source names, for `baseline`. It runs
at every `dvc repro`, so it loads no library that computes.
"""

from pathlib import Path
from typing import Any

from stages.paths import PARAMS, SOURCE, WEIGHTS, repository_root
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
    write_json(SOURCE, {"fingerprint": fingerprint_at(params, "data", "path")})
    weights, source = (fingerprint_at(params, "model", key) for key in ("weights", "source"))
    write_json(WEIGHTS, {"weights": weights, "source": source})


def fingerprint_at(params: Any, section: str, key: str) -> str | None:
    """Return the fingerprint of what lies at a path of params.yaml; that of model.source begins with a library."""
    try:
        path = params[section][key]
        path = path.partition("/")[2] if key == "source" else path
        return fingerprint(repository_root() / Path(path).expanduser()) if path else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError):
        return None


if __name__ == "__main__":
    main()
