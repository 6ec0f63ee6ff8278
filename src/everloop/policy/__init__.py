"""DECIDE: pure functions and tables; no clocks, threads or I/O."""
