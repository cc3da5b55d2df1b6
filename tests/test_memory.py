"""Memory that is freed and allocated again."""

import os
import subprocess
import sys

import pytest

PAGES = 100 * 2**20 // 4096  # of a block of 100 MB

FAULTS = f"""
import resource
def block():
    bytearray({PAGES} * 4096)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
{{}}
first = block()
print(block() - first)
"""


def faults_of_second_block(code: str, **environment: str) -> int:
    """Return how many pages the kernel hands out for a block as large as one that was freed just before."""
    process = subprocess.run(
        [sys.executable, "-c", FAULTS.format(code)],
        env={name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(process.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems are left alone")
def test_freed_memory_is_kept_by_every_stage_unless_the_user_has_set_something() -> None:
    assert faults_of_second_block("") > 0.9 * PAGES  # what glibc does by itself
    assert faults_of_second_block("import stages") < 0.1 * PAGES
    assert faults_of_second_block("import stages", MALLOC_MMAP_THRESHOLD_="4096") > 0.9 * PAGES
