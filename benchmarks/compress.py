"""What `compress` costs on a vision transformer of timm at 224 pixels, and what it says of it.

    PYTHONPATH=. python benchmarks/compress.py [--model NAME] [--images COUNT] [--depth BLOCKS] [--keep FRACTION]

The weights are random, and so are the images: time and memory do not depend on them, the errors do. It is started
as a script, so that the libraries use all instructions of the CPU, as they do for whoever imports `vtp`.
"""

import argparse
import resource
import sys
import time

import torch

import vtp.data.sources.torchvision_shim  # noqa: F401  (before timm, which imports torchvision)
from vtp import compress

SIZE = 224


def main() -> None:
    """Compress the model and print the report, seconds, and the largest resident memory."""
    import timm

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deit_base_patch16_224")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--depth", type=int, help="blocks, where not all")
    parser.add_argument("--keep", type=float, default=0.5)
    options = parser.parse_args()
    torch.manual_seed(0)
    depth = {} if options.depth is None else {"depth": options.depth}
    model = timm.create_model(options.model, **depth).eval()
    images = torch.randn(options.images, 3, SIZE, SIZE)
    wall, cpu = time.perf_counter(), time.process_time()
    _, report = compress(model, images, keep=options.keep)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    unit = 1024 if sys.platform == "linux" else 1
    gibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    from benchmarks.timing import machine  # now that the libraries have chosen their instructions

    print(report)
    print(
        f"{options.model}, {options.images} images: {wall:.0f} s, of which the CPU computed {cpu:.0f} s, "
        f"with {torch.get_num_threads()} threads; at most {gibibytes:.2f} GiB; {machine()}"
    )


if __name__ == "__main__":
    main()
