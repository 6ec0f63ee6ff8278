"""ASSEMBLE: the only room that reads the environment and files, and constructs.

continuum   `Continuum`: the engine in one object, for use in a program
build       `Engine`: where the rooms are put together
settings    where options come from
server      one engine behind one port
saving      an engine copied into a new data folder
logs        what the process logs
client      the HTTP client of the command line and the demo
cli/        `everloop …`, `demo/` what `everloop demo` plays, `bench/` what `everloop bench` measures
"""
