"""WORDS: the nouns every other room speaks in. Imports nothing from the house.

types      predictions, labels, examples, records of predictions; request ids
schema     what a model takes and gives; a caller's features become a checked row
errors     the one tree of errors, each with a stable code and whose fault it is
events     what happens to a model, and the bus that tells it in this process
clock      time as a dependency
stepping   a thread that takes one step after the other, and outlives what a step raises
structs    what several threads decode into
hashing    digests of artifacts and of bodies
"""
