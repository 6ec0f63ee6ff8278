"""Structs that several threads decode into at once, each for the first time."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

RUNTIME = Path(__file__).parents[2] / "src/everloop/runtime"
DECODES = {"msgspec.json.decode", "msgspec.msgpack.decode", "msgspec.convert", "_decoded"}
AT_ONCE = """
import sys, threading
import msgspec
from everloop.core.structs import looked_into

sys.setswitchinterval(1e-6)
for _ in range(1000):
    class Code(msgspec.Struct):
        text: str

    @looked_into
    class Payload(msgspec.Struct):
        number: int
        code: Code

    together = threading.Barrier(4)

    def read():
        together.wait()
        assert msgspec.json.decode(b'{"number": 1, "code": {"text": "a"}}', type=Payload).code.text == "a"

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print("done")
"""


def test_threads_that_are_the_first_at_once_crash_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", AT_ONCE], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_what_a_runtime_decodes_into_is_looked_into() -> None:
    """Sessions are opened by several threads: what their decoders do not know from the start has the decorator."""
    wanted, decorated = set(), set()
    for path in RUNTIME.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                decorated |= {node.name for each in node.decorator_list if ast.unparse(each) == "looked_into"}
            if isinstance(node, ast.Call) and ast.unparse(node.func) in DECODES:
                kinds = [each.value for each in node.keywords if each.arg == "type"] or node.args[1:2]
                wanted |= {each.id for each in kinds if isinstance(each, ast.Name) and not each.id.islower()}
    assert {"_Payload", "_Header", "Plan"} <= wanted
    assert sorted(wanted - decorated) == []
