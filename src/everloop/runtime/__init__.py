"""RUN: an artifact's bytes become a session that answers; one file a kind of model."""
