"""The demo: a real server as a child process, real streams played to it over HTTP, and a terminal that shows it learn.

run       one demo from start to end
host      the program of the server's process; `play` is what it is told
streams   what is played; `csvfile` for a file of the user's
feeder    plays it: predictions first, labels later
score     what is known of each model
board     what is shown
"""
