"""IMPROVE: labels come in, learners train, drift is noticed, challengers are judged and published."""
