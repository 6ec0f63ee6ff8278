"""Whether something has changed: in the errors, or in the inputs."""
