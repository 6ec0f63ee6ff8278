"""The numbers that decisions start from, by the names that callers know them by."""

from __future__ import annotations

DEFAULT_BUFFER_SIZE_MULTIPLIER = 3
"""Results in flight for each worker where nothing better is known."""
STREAMING_BUFFER_MEMORY_FRACTION = 0.1
"""The share of the available memory that results in flight may take."""
HETEROGENEOUS_CV_THRESHOLD = 0.5
"""Durations that vary more than this (standard deviation over mean) are heterogeneous: results need not wait for each other."""
LARGE_DATASET_THRESHOLD = 10_000
"""Items beyond which throughput counts for more than order, unless the caller says otherwise."""
MIN_TRAINING_SAMPLES = 3
"""Recorded runs below which nothing is predicted."""
TARGET_CHUNK_DURATION = 0.2
"""Seconds that a chunk should take: long enough to hide its dispatch, short enough to balance the workers."""
ADAPTATION_RATE = 0.3
"""Weight of the newest chunk in the running estimate of an item's time, where chunks adapt."""
MAX_IO_THREADS = 32
"""Threads beyond which waiting work is not spread: what it waits for is somebody's server."""
