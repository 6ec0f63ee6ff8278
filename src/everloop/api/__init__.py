"""SPEAK: the verbs, and their protocols.

services   what the app hands over: the running parts, and whether they start or drain
verbs      what can be done, without a protocol
versions   the same with the versions of a model
wire       the shapes of what is asked and answered about models
health     how the server is
traffic    what it has answered
status     error code -> HTTP and gRPC status
http/      the protocol
"""
