"""For Triton's Python backend: the ONNX file beside this one, a batch at a time."""

from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = Path(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        inputs = [triton.get_input_tensor_by_name(request, "X").as_numpy() for request in requests]
        labels, scores = self.session.run(None, {"X": np.concatenate(inputs)})
        answers, at = [], 0
        for X in inputs:
            part = slice(at, at + len(X))
            outputs = [triton.Tensor("label", labels[part, None]), triton.Tensor("probabilities", scores[part])]
            answers.append(triton.InferenceResponse(outputs))
            at += len(X)
        return answers
