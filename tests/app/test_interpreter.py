"""What a server process asks of its interpreter and its C library."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from everloop.app.interpreter import SWITCH_SECONDS, quick_switches


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
