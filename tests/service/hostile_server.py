"""A real server on loopback for whoever means it ill: what it serves, and what can be seen of it from outside."""

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from certificates import Authority
from serving import get
from vitals import Watched, free_port

from ffnsearch_indexer.build.pipeline import build
from ffnsearch_indexer.build.request import BuildRequest
from ffnsearch_indexer.corpora import shakespeare
from ffnsearch_indexer.corpora.corpus import Corpus
from ffnsearch_service.security.token_edits import add_token
from ffnsearch_service.security.tokens import new_secret, new_token
from tiny import make_model, save_model

START_S = 120.0
CALM_S = 60.0
"""How long a server may take to clear away what callers have left."""
CORPUS_CHARACTERS = 4000
LOADABLE = "second.ffn"
"""A snapshot that anybody with the scope may load."""


@dataclass(frozen=True)
class Server(Watched):
    """A server process. root: the folder that all its files are in. secret: a token; "" where none is asked for."""

    process: subprocess.Popen[str]
    root: Path
    address: str
    metrics: str
    authority: bytes | None = None
    secret: str = ""

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid

    @property
    def snapshot(self) -> Path:
        """What the alias `default` points to."""
        return self.root / "snapshots" / "tiny.ffn"

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a caller who may do everything sends."""
        return (("authorization", f"Bearer {self.secret}"),) if self.secret else ()

    def channel(self, **options: int) -> grpc.aio.Channel:
        """A connection of its own, as an honest client makes one, but without limits at its end."""
        given = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1), *options.items()]
        if self.authority is None:
            return grpc.aio.insecure_channel(self.address, options=given)
        credentials = grpc.ssl_channel_credentials(self.authority)
        return grpc.aio.secure_channel(self.address, credentials, options=given)

    def connect(self, *, is_plain: bool = False) -> socket.socket:
        """A bare connection; encrypted where the server wants it, unless asked for otherwise."""
        host, port = self.address.split(":")
        connection = socket.create_connection((host, int(port)), timeout=CALM_S)
        if self.authority is None or is_plain:
            return connection
        context = ssl.create_default_context(cadata=self.authority.decode())
        context.set_alpn_protocols(["h2"])
        return context.wrap_socket(connection, server_hostname=host)

    def calls_by_code(self) -> dict[str, int]:
        """All calls that have ended, whoever still waited for them."""
        codes: dict[str, int] = {}
        for code, count in re.findall(
            r'^ffnsearch_calls_total\{code="(\w+)".*\} (\S+)', get(self.metrics, "/metrics")[1], re.MULTILINE
        ):
            codes[code] = codes.get(code, 0) + int(float(count))
        return codes

    def calm(self) -> None:
        """Wait until no call is in flight."""
        deadline = time.monotonic() + CALM_S
        while calls := self.measured("ffnsearch_calls_in_flight"):
            assert time.monotonic() < deadline, f"{calls:.0f} calls are still in flight"
            time.sleep(0.05)

    def log(self) -> list[dict[str, object]]:
        """Every line of the log; each has to be one JSON object."""
        return [json.loads(line) for line in self.log_text().splitlines()]

    def log_text(self) -> str:
        """The log as it is."""
        return (self.root / "log").read_text()


def make_site(root: Path) -> None:
    """A model, a corpus, two snapshots that may be opened, and links that lead out of the allowed folders."""
    model = save_model(root / "models" / "tiny", make_model())
    for folder in ("snapshots", "corpora"):
        (root / folder).mkdir()
        (root / folder / "link").symlink_to("/etc")
    text = shakespeare.render(1)[:CORPUS_CHARACTERS]
    (root / "corpora" / "novel.txt").write_text(text)
    build(BuildRequest(Corpus("tiny", text), model, root / "snapshots" / "tiny.ffn"))
    build(BuildRequest(Corpus("second", text[: CORPUS_CHARACTERS // 4]), model, root / "snapshots" / LOADABLE))


@contextmanager
def served(root: Path, *, protected: bool = False) -> Iterator[Server]:
    """Serve a site in a process of its own, with administration; protected: with TLS and tokens."""
    settings = {
        "admin.enabled": "true",
        "server.state_folder": root / "state",
        "metrics.port": free_port(),
        "logging.format": "json",
        "admin.snapshots_folder": root / "snapshots",
        "admin.corpora_folder": root / "corpora",
        "admin.models_folder": root / "models",
    }
    authority, secret = None, ""
    if protected:
        made = Authority()
        files = made.make().write(root)
        authority = made.certificate
        secret = new_secret()
        add_token(root / "tokens.toml", new_token("everything", ["read", "admin"], secret))
        settings |= {
            "tls.certificate_file": files.certificate,
            "tls.key_file": files.key,
            "auth.tokens_file": root / "tokens.toml",
        }
    command = [sys.executable, "-m", "ffnsearch_service.cli", "serve", f"tiny={root}/snapshots/tiny.ffn", "--port", "0"]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with (
        (root / "log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as process,
    ):
        try:
            assert process.stdout is not None
            told = re.search(r"127\.0\.0\.1:\d+", process.stdout.readline())
            assert told, (root / "log").read_text()
            yield Server(process, root, told[0], f"127.0.0.1:{settings['metrics.port']}", authority, secret)
            process.send_signal(signal.SIGTERM)
            assert process.wait(START_S) == 0
        finally:
            process.kill()
