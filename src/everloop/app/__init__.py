"""ASSEMBLE: the only room that reads the environment and files, and constructs."""
