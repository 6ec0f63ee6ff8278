"""The demo: a real server as a child process, real streams played to it over HTTP, and a terminal that shows it learn."""
