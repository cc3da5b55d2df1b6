"""VTP: compress vision transformers by pruning dimensions and factorising what is left.

from vtp import compress, restore

small, report = compress(model, images, keep=0.5)
report.save("small.safetensors")
same = restore(fresh_model, "small.safetensors")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vtp.compression import Report, compress, restore

__all__ = ["Report", "compress", "restore"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'vtp' has no attribute {name!r}")
    from vtp import compression  # when it is asked for: it loads PyTorch

    return getattr(compression, name)
