"""WORDS: the nouns every other room speaks in. Imports nothing from the house."""
