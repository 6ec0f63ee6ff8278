"""DECIDE: pure functions and tables; no clocks, threads or I/O. `now` and `rng` are arguments.

batching     how many rows run together, where, and whom to turn away; which predictions are recorded
windows      how much of the past a fit sees, and how much is held out
retraining   when to fit, and how long to wait after a failure
promotion    whether a challenger may replace the champion
gates        whether a challenger is worse or better on live traffic: sequential tests, their findings and words
drift/       whether the errors or the inputs have changed
"""
