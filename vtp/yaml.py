"""The dialect of YAML in which params.yaml is read; this module loads no library that computes."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from vtp.errors import UserError


def read_yaml(text: str, path: Path) -> Any:
    """Return plain data from YAML 1.2, by the reader that DVC uses for the same file; UserError if it is none."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}: not valid YAML: {error.problem}{where}") from error
    # The others: dates that do not exist, tags on content of another kind, endless nesting.
    except (YAMLError, ValueError, TypeError, KeyError, RecursionError, AttributeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
