"""The sources `cifar10` and `cifar100`: the official archive, read by torchvision."""

import io
import sys
import tarfile
import tempfile
import warnings
from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vtp.data.dataset import Dataset, Split
from vtp.data.params import ImageParams
from vtp.data.sources.common import check_sha256, file_digest, local_path, resized, split_off
from vtp.errors import UserError
from vtp.files import replacing


def fetch_cifar(params: ImageParams, seed: int, root: Path) -> Dataset:
    """Return CIFAR-10 or CIFAR-100 (fine labels), three channels; `seed` draws validation off train.

    `data.path` names a local copy of the official archive; if it is empty, the archive is downloaded once to
    .vtp/downloads. Raises UserError if it cannot be had or is not the official one.
    """
    from vtp.data.sources.torchvision_shim import datasets  # slow to import, and only needed here

    source = getattr(datasets, params.name.upper())
    archive = local_path(params.path, root) if params.path else _downloaded(source, root)
    check_sha256(archive, params.sha256)
    _check_official(source, archive)
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(archive) as content:
            content.extraction_filter = getattr(tarfile, "data_filter", None)  # Python before 3.11.4 has none
            content.extractall(folder)
        train, class_names = _read(source, folder, params, train=True)
        test, _ = _read(source, folder, params, train=False)
    train, validation = split_off(train, params.validation_fraction, seed)
    return Dataset(train, validation, test, class_names)


def _downloaded(source: Any, root: Path) -> Path:
    from vtp.data.sources.torchvision_shim import datasets

    archive: Path = root / ".vtp" / "downloads" / source.filename
    if archive.is_file() and file_digest(archive, "md5") == source.tgz_md5:
        return archive
    # torchvision draws a progress bar whether or not there is a terminal to draw it on.
    bar: AbstractContextManager[Any] = nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())
    with replacing(archive) as temporary, bar:
        try:
            datasets.utils.download_url(source.url, temporary.parent, temporary.name, source.tgz_md5)
        except (OSError, RuntimeError, HTTPException) as error:
            raise UserError(
                f"{source.url}: cannot be downloaded ({error}); get that file on a machine which reaches it "
                "and name the local copy in data.path of params.yaml"
            ) from error
    return archive


def _check_official(source: Any, archive: Path) -> None:
    if not archive.is_file():
        raise UserError(f"{archive}: not a file; data.path must name a copy of {source.url} as it is")
    found = file_digest(archive, "md5")
    if found != source.tgz_md5:
        raise UserError(
            f"{archive}: its md5 is {found}, so it is truncated, altered or another file; "
            f"allowed is a copy of {source.url}, whose md5 is {source.tgz_md5}"
        )


def _read(source: Any, folder: str, params: ImageParams, train: bool) -> tuple[Split, tuple[str, ...]]:
    with warnings.catch_warnings():
        # The archive was pickled in 2009 by a NumPy whose form of dtype is deprecated today.
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        content = source(folder, train=train)
    images = torch.from_numpy(content.data).permute(0, 3, 1, 2).contiguous()
    return Split(resized(images, params), torch.tensor(content.targets)), tuple(content.classes)
