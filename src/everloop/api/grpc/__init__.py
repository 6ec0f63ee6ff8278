"""gRPC: the Open Inference Protocol's service over the verbs of `api.oip`, health checks, reflection. Needs the extra `grpc`."""
