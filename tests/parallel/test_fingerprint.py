from __future__ import annotations

from dataclasses import replace

import pytest

from everloop.parallel.fingerprint import Fingerprint, get_fingerprint, measure_memory_bandwidth

LAPTOP = Fingerprint("A CPU", 8, 4, 16 << 30, 8 << 20, 1, "Linux-x86_64", "3.11")


def test_it_goes_through_its_line() -> None:
    for machine in (LAPTOP, get_fingerprint()):
        assert Fingerprint.of_line(machine.line()) == machine
        assert len(machine.key) == 8
    with pytest.raises(ValueError, match="not enough values"):
        Fingerprint.of_line("A CPU|8")


def test_equal_machines_are_alike_and_others_the_less_the_more_they_differ() -> None:
    twin = replace(LAPTOP)
    newer_python = replace(LAPTOP, python="3.13")
    bigger = replace(LAPTOP, cores=16, physical_cores=8)
    server = replace(LAPTOP, cpu_model="Another", cores=128, physical_cores=64, memory_total=512 << 30, numa_nodes=2)
    likeness = [LAPTOP.similarity(other) for other in (twin, newer_python, bigger, server)]
    assert likeness[0] == 1
    assert likeness == sorted(likeness, reverse=True)
    assert 0 < likeness[-1] < 0.1
    assert LAPTOP.similarity(server) == pytest.approx(server.similarity(LAPTOP))


def test_a_separator_in_a_model_s_name_does_no_harm() -> None:
    odd = replace(LAPTOP, cpu_model="x|y")
    assert Fingerprint.of_line(odd.line()).cores == 8


def test_memory_bandwidth_is_measured() -> None:
    assert measure_memory_bandwidth(megabytes=1, times=1) > 0
