"""What is deployed fits the program: the unit and the image start it as it wants to be started."""

import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from ffnsearch_service.settings.loading import load
from ffnsearch_service.settings.sources import from_arguments, from_environment, from_file

DEPLOY = Path(__file__).parents[1] / "deploy"


def environment_of(text):
    return dict(re.findall(r"\b(FFNSEARCH_\w+)=(\S+)", text))


def test_the_unit_and_its_settings_fit():
    unit = (DEPLOY / "ffnsearch.service").read_text()
    config = load([*from_file(DEPLOY / "ffnsearch.toml"), *from_environment(environment_of(unit))]).config
    assert "\nLoadCredential" not in unit, "a copy from the start: revoked tokens would stay valid"
    assert str(config.state_folder).startswith("/var/lib/ffnsearch/")
    assert config.grace_s < float(re.search(r"TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[1])
    assert "Type=notify" in unit


def test_the_environment_of_the_image_gives_settings():
    image = (DEPLOY / "Containerfile").read_text()
    config = load([*from_arguments(["a.ffn"]), *from_environment(environment_of(image))]).config
    assert (config.metrics.port, config.logging.format) == (9464, "json")
    assert re.search(r"^USER \d+$", image, re.MULTILINE)
    assert 'ENTRYPOINT ["tini"' in image, "as process 1 a server would not hear a second SIGTERM"
    for folder in re.findall(r"^COPY (?!--)(.+) \S+$", image, re.MULTILINE):
        assert all((DEPLOY.parent / name).exists() for name in folder.split())


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (None, 1)])
def test_the_health_check_asks_for_readiness(status, code):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.handle_request)
        if status is None:
            server.server_close()
        else:
            thread.start()
        environment = {"FFNSEARCH_METRICS_PORT": str(server.server_address[1])}
        ended = subprocess.run(
            [sys.executable, DEPLOY / "healthcheck.py"], env=environment, capture_output=True, text=True
        )
        if status is not None:
            thread.join()
    assert ended.returncode == code
    assert ("not ready" in ended.stderr) == bool(code)
