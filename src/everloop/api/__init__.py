"""SPEAK: the verbs, and their protocols."""
