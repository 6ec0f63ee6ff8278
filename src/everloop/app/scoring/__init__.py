"""Bulk scoring: a file in, the same rows with their predictions out, in order, in flat memory, and resumable after `kill -9`.

    models      what MODEL means: a file, a registered version, or a function        (this process)
    readers     cut the input into blocks of whole rows, without parsing it          (this process)
    scorer      block -> the bytes of its output: parse, predict, encode             (the workers)
    output      append those bytes to OUT.part, sync, note how far; at the end OUT   (this process)
    run         the spine of all that

The reading process only cuts and appends, so that everything that costs time is spread. A worker's answer is always bytes that can
be appended as they are: lines of text, whole gzip members, whole Arrow streams. So resuming is the same for every format: cut the part
file back to the length that the state file names, and go on reading where it says.
"""
