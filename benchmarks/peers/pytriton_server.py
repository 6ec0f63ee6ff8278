"""The ONNX file as PyTriton's own documentation would serve it: `python pytriton_server.py PORT MODEL`."""

import sys

import numpy as np
import onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def main(port: int, path: str) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    @batch
    def infer(X):
        labels, scores = session.run(None, {"X": X})
        return {"label": labels[:, None], "probabilities": scores}

    here = TritonConfig(
        http_address="127.0.0.1", http_port=port, allow_grpc=False, allow_metrics=False, allow_gpu_metrics=False
    )
    with Triton(config=here) as triton:
        triton.bind(
            model_name="bc",
            infer_func=infer,
            inputs=[Tensor(name="X", dtype=np.float32, shape=(30,))],
            outputs=[
                Tensor(name="label", dtype=np.int64, shape=(1,)),
                Tensor(name="probabilities", dtype=np.float32, shape=(2,)),
            ],
            config=ModelConfig(max_batch_size=256, batcher=DynamicBatcher()),
        )
        triton.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
