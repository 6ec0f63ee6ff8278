"""`everloop bench`: every number that the documentation states, measured again on the machine in front of you.

A bar is a ratio of two things measured in turns within one run, on pinned cores, and the median of several rounds, because
machines differ and drift. `runner.run_bench` is the way in; `peers/` holds what everloop is compared with.
"""

from everloop.app.bench.runner import Report, as_table, run_bench

__all__ = ["Report", "as_table", "run_bench"]
