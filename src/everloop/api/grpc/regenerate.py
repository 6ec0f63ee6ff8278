"""`python -m everloop.api.grpc.regenerate`: the messages of `inference.proto` as Python, after a change to it. Needs grpcio-tools.

protoc's own Python would put the messages into the process's one pool of descriptors, where those of another program's
`inference` package (`tritonclient` has one) may be already, and two of one name cannot be. So only protoc's descriptor is
taken, and the messages live in a pool of their own.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

HERE = Path(__file__).parent
NAME = "everloop/inference.proto"
"""Of the file, as reflection tells it."""
_HEAD = '''"""Messages of the Open Inference Protocol. Made by `python -m everloop.api.grpc.regenerate` of `inference.proto`: do not edit."""

from google.protobuf import descriptor_pool, message_factory

POOL = descriptor_pool.DescriptorPool()
SERIALIZED = (
'''
_TAIL = """)
DESCRIPTOR = POOL.AddSerializedFile(SERIALIZED) or POOL.FindFileByName("everloop/inference.proto")
for _name, _message in DESCRIPTOR.message_types_by_name.items():
    globals()[_name] = message_factory.GetMessageClass(_message)
"""


def generate(folder: Path) -> None:
    """Write `inference_pb2.py` and `inference_pb2.pyi` into `folder`. Raises RuntimeError where protoc refuses the file."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as place:
        source = Path(place, NAME)
        source.parent.mkdir()
        source.write_bytes((HERE / "inference.proto").read_bytes())
        described = Path(place, "descriptors")
        arguments = [f"-I{place}", f"--descriptor_set_out={described}", f"--pyi_out={place}", NAME]
        if protoc.main(["protoc", *arguments]) != 0:
            raise RuntimeError("protoc could not read inference.proto; what is wrong it has told on stderr")
        found = FileDescriptorSet.FromString(described.read_bytes())
        serialized = found.file[0].SerializeToString(deterministic=True)
        types = source.with_name("inference_pb2.pyi").read_text()
    lines = [f"    {serialized[at : at + 40]!r}\n" for at in range(0, len(serialized), 40)]
    (folder / "inference_pb2.py").write_text(_HEAD + "".join(lines) + _TAIL)
    pool = "from google.protobuf import descriptor_pool as _descriptor_pool\n"
    declared = "\nPOOL: _descriptor_pool.DescriptorPool\nSERIALIZED: bytes\n"
    at = types.index("\nDESCRIPTOR:")
    (folder / "inference_pb2.pyi").write_text(pool + types[:at] + declared + types[at + 1 :])


if __name__ == "__main__":
    generate(HERE / "_generated")
