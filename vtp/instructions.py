"""Which instructions of the CPU the libraries may use, decided before they load.

PyTorch, oneDNN, MKL, OpenBLAS and NumPy each pick kernels for the CPU that they find, and kernels for AVX512 round
differently from those for AVX2. In `portable` mode all keep to AVX2, which every x86-64 CPU of the last ten years
has, and MKL to the one branch that it runs on the CPUs of every maker, so that the same inputs give the same bytes
on all of them; in `native` mode each uses its best.

The libraries read the environment when they load, so `choose_instructions` must run before they are imported; this
module imports none of them.
"""

import os
from pathlib import Path

import yaml

PORTABLE = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Zen",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}
# Threads that turn at barriers for long collapse beside a busy process, and such as sleep at once wake up late.
ALWAYS = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}


def choose_instructions(path: Path) -> None:
    """Set the environment that the key `machine.instructions` of the params.yaml at `path` asks for.

    What the user has set stays. A file that is not there or not valid counts as `portable`: whoever reads its
    values says what is wrong with it.
    """
    try:
        native = yaml.safe_load(path.read_text(encoding="utf-8"))["machine"]["instructions"] == "native"
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        native = False
    for name, value in (ALWAYS if native else ALWAYS | PORTABLE).items():
        os.environ.setdefault(name, value)
