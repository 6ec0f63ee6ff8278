"""everloop: the model server that keeps learning."""
