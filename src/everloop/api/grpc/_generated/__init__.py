"""What `python -m everloop.api.grpc.regenerate` makes of `inference.proto`: messages, and their types for checkers."""
