"""MLServer has no runtime for ONNX; this is the one that its documentation shows how to write."""

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession("model.onnx", options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        X = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        labels, scores = self.session.run(None, {"X": X})
        outputs = [NumpyCodec.encode_output("label", labels), NumpyCodec.encode_output("probabilities", scores)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
