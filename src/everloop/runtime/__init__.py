"""RUN: an artifact's bytes become a session that answers.

session    the contract of a loaded model
artifact   the way in: which runtime loads what, and what is trusted; `save_model`
packing    whatever a person calls a model, as an artifact; `loaded` is a session for use by hand
sniff      what a file looks like, by its content
linear     linear models as data, compiled for single rows
sklearn    scikit-learn estimators; `inputs` shapes their rows, `trees` checks trees read from files
onnx       ONNX models; `protobuf` reads the labels that ONNX Runtime does not tell
river      River models
"""
