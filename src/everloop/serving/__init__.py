"""ANSWER: what is live in this process, and how it answers."""
