"""What the documents show works: their code runs, their commands and links exist.

Every ```python block of README.md and docs/*.md runs in a process of its own; all blocks of one document share one temporary
folder and run in order, so that a later one finds the files of an earlier one. A ```bash or ```console block runs too (of the
latter, what follows `$ `) if it is below a line `<!-- runs -->` or begins with `# runs`:

- `everloop serve` is started beside the rest, on a free port that takes the place of 3000, and waited for;
- a request id in a command is replaced by the last one that was answered;
- all other commands must end with exit code 0, and no answer may be one of everloop's errors.

A ```python block that begins with `# NAME.py` is kept under that name, too, so that a later command can run it again.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ALL_DOCUMENTS = [*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
BLOCK = re.compile(r"^(<!-- runs -->\n+)?```(\w+)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
REQUEST_ID = re.compile(r"\b[0-9a-f]{10,}-[0-9a-f]+\b")


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int
    runs: bool

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block, continued lines joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path) -> list[Block]:
    text = path.read_text()
    return [
        Block(
            m[2],
            m[3],
            text.count("\n", 0, m.start(2)) + 1,
            m[2] == "python" or m[1] is not None or m[3].startswith("# runs\n"),
        )
        for m in BLOCK.finditer(text)
    ]


class Reader:
    """Somebody who follows a document in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: list[subprocess.Popen[bytes]] = []
        self.request_id = "none-0"
        self.scheme = "http"
        self.any_certificate = ssl._create_unverified_context()  # readiness only: what commands check is their own
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "EVERLOOP_URL": f"http://127.0.0.1:{self.port}",
            "EVERLOOP_PORT": str(self.port),
            "NO_COLOR": "1",
            "HOME": str(folder),
        }

    def follow(self, path: Path, block: Block) -> None:
        if block.language == "python":
            named = re.match(r"# (\w+\.py)\n", block.text)
            if named:
                (self.folder / named[1]).write_text(self.here(block.text))
            self.run([sys.executable, "-c", self.here(block.text)], f"{name_of(path)}:{block.line}", block.text)
            return
        for command in block.commands:
            if command.startswith("everloop serve"):
                self.serve(command.removesuffix("&").strip())
            else:
                self.run(["sh", "-ec", self.here(command)], f"{name_of(path)}:{block.line}", command)

    def here(self, text: str) -> str:
        text = re.sub(r"((?:localhost|127\.0\.0\.1):)3000\b", rf"\g<1>{self.port}", text)
        return REQUEST_ID.sub(self.request_id, text)

    def run(self, command: list[str], where: str, text: str) -> None:
        ran = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=100, check=False
        )
        failed = ran.returncode != 0 or "urn:everloop:error" in ran.stdout
        assert not failed, f"{where} failed:\n{text}\n--- it printed\n{ran.stdout}\n{ran.stderr}"
        for found in REQUEST_ID.findall(ran.stdout):
            self.request_id = found

    def serve(self, command: str) -> None:
        self.stop()
        log = (self.folder / "serve.log").open("wb")
        with log:
            server = subprocess.Popen(
                ["sh", "-c", f"exec {command} --port {self.port}"],
                cwd=self.folder,
                env=self.environment,
                stderr=log,
                stdout=log,
            )
        self.servers.append(server)
        self.scheme = "https" if "tls_cert" in command else "http"
        until = time.monotonic() + 60
        while not self.ready():
            log_text = (self.folder / "serve.log").read_text()
            assert server.poll() is None, f"`{command}` ended with {server.returncode}:\n{log_text}"
            assert time.monotonic() < until, f"`{command}` was not ready in a minute:\n{log_text}"
            threading.Event().wait(0.1)

    def ready(self) -> bool:
        try:
            address = f"{self.scheme}://127.0.0.1:{self.port}/v2/health/ready"
            with urllib.request.urlopen(address, timeout=1, context=self.any_certificate) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        while self.servers:
            server = self.servers.pop()
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait(20)


@pytest.mark.e2e
@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", [path for path in DOCUMENTS if any(b.runs for b in blocks(path))], ids=name_of)
def test_the_code_of_a_document_runs(path: Path, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    try:
        for block in blocks(path):
            if block.runs:
                reader.follow(path, block)
    finally:
        reader.stop()


@pytest.mark.parametrize("path", ALL_DOCUMENTS, ids=name_of)
def test_every_link_to_a_file_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("path", ALL_DOCUMENTS, ids=name_of)
def test_every_make_target_that_is_named_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^|\$ )make ([a-z]+)", path.read_text(), re.MULTILINE))
    assert named - targets == set()


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if "```toml" in path.read_text()], ids=name_of)
def test_every_configuration_that_is_shown_is_one(path: Path, tmp_path: Path) -> None:
    from everloop.app.settings import load_settings

    for block in blocks(path):
        if block.language == "toml":
            file = tmp_path / "everloop.toml"
            file.write_text(block.text)
            assert load_settings(environ={}, cwd=tmp_path, config=file).warnings == ()


def test_every_command_that_is_named_exists() -> None:
    """Commands in shell blocks and in `code`; a group's own commands (`models list`) count with their group."""
    from typer.main import get_command

    from everloop.app.cli.commands import app

    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    for path in ALL_DOCUMENTS:
        shell = "\n".join(block.text for block in blocks(path) if block.language in ("bash", "sh", "console"))
        prose = "\n".join(re.findall(r"`([^`\n]+)`", path.read_text()))
        named = set(re.findall(r"(?:^|[$&;|] ?)everloop ([a-z]+)", f"{shell}\n{prose}", re.MULTILINE))
        assert named - known == set(), f"{name_of(path)} names commands that do not exist"
