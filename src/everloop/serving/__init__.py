"""ANSWER: what is live in this process, and how it answers.

A prediction, in order:

predictor    the spine: one snapshot of the table, the lane, its answer
table        the immutable map from models to lanes
lane         one version, live here; `open_lane` is the only way to make one
batcher      what one turn of the event loop brings runs together; `tickets` wait for the answer
runner       checked input in, checked values out of a session
counters     what was answered, in plain integers
recorder     predictions on their way into the journal; `outbox` merges those of batches

A swap: `reconciler` turns what should be live into what is.
"""
