"""What a server process asks of its interpreter and its C library."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from everloop.app.interpreter import SWITCH_SECONDS, one_core_each, quick_switches


def test_threads_hand_over_sooner_for_the_time_of_the_block_only() -> None:
    before = sys.getswitchinterval()
    with quick_switches():
        assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
    assert sys.getswitchinterval() == before


def test_glibc_takes_the_number_of_arenas() -> None:
    """In a process of its own: it cannot be taken back."""
    ran = subprocess.run(
        [sys.executable, "-c", "from everloop.app.interpreter import few_arenas; print(few_arenas())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == str(platform.libc_ver()[0] == "glibc")


PRODUCT = """
import os
from everloop.app.interpreter import one_core_each
{before}
print(one_core_each(os.environ))
import numpy, threadpoolctl
print({{each["num_threads"] for each in threadpoolctl.threadpool_info() if each["user_api"] == "blas"}})
"""


@pytest.mark.parametrize("before", ["", "import numpy"])
def test_a_model_keeps_to_one_core_whether_or_not_its_library_is_loaded(before: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PRODUCT.format(before=before)], capture_output=True, text=True, check=True, env={}
    )
    assert ran.stdout.split() == ["True", "{1}"]


def test_who_says_how_many_threads_is_left_alone() -> None:
    said = {"OMP_NUM_THREADS": "4"}
    assert not one_core_each(said)
    assert said == {"OMP_NUM_THREADS": "4"}
