"""What the C library does with memory that tensors have freed.

A training step frees and allocates the same hundreds of megabytes as the one before it. glibc hands large blocks,
and the end of its heap, back to the kernel, which clears each page anew when it is touched again: where the heap's
end happens to be free between two steps, that takes longer than the step's arithmetic.
"""

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of mallopt(3)


def keep_freed_memory() -> None:
    """Let this process keep what it has freed for what it allocates next; all of it ends with the process.

    What the user has set in the environment (`MALLOC_…`, mallopt(3)) stays. Systems other than Linux are left
    alone.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    library = ctypes.CDLL(None)
    library.mallopt(MMAP_MAX, 0)
    library.mallopt(TRIM_THRESHOLD, -1)
