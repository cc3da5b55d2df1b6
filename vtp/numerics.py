"""Square roots that have the same bits on every CPU.

torch.sqrt calls MKL's vector function, which approximates and rounds by the CPU that it finds, whatever
`vtp.instructions` tells it. Of the functions used here it is the only one that does so.
"""

from torch import Tensor


def sqrt(x: Tensor) -> Tensor:
    """Return √x of entries from 0 to infinity, within two units in the last place.

    The reciprocal of 1/√x is made of a root, two divisions and no approximation, each rounded as IEEE 754 says.
    """
    return x.rsqrt().reciprocal()
