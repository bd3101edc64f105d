"""A client in another language gets the same answers from the .proto file alone."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest
from scripted import Scripted, scripted_server

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_service.answering.engine import Engine
from ffnsearch_service.client import Client

NODE = Path(__file__).parent / "node"
CONTRACT = Path(__file__).parents[2] / "protos" / "ffnsearch" / "v1"
FILES = (CONTRACT / "ffnsearch.proto", CONTRACT / "service_config.json")
INSTALL_S = 300

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None, reason="needs node and npm, to run a foreign client"
)


@pytest.fixture(scope="module")
def node_folder(pytestconfig):
    """A folder in pytest's cache with the client and the packages that it needs, installed when they change."""
    folder = pytestconfig.cache.mkdir("node-client")
    wanted = (NODE / "package.json").read_text()
    stamp = folder / "installed.json"
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.copy(NODE / "package.json", folder)
        install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(install, cwd=folder, check=True, timeout=INSTALL_S)
        stamp.write_text(wanted)
    shutil.copy(NODE / "client.js", folder)
    return folder


def run_node(folder: Path, address: str) -> Any:
    """What the client tells of the server."""
    command = ["node", "client.js", *map(str, FILES), address]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=180)
    return json.loads(done.stdout)


def test_a_node_client_gets_the_same_answers(node_folder, address):
    told = run_node(node_folder, address)
    with Client(address) as client:
        answer = client.predict(["the people"], dense=True, include_model=True).results[0]
        neighbors = [neighbor.id for neighbor in client.neighbors("the people", 1)]
        assert told["substrings"] == client.info().snapshot["substrings"]
    assert told["statuses"][0::2] == ["PROMPT_STATUS_OK", "PROMPT_STATUS_INVALID"]
    assert told["reason"] == "UNKNOWN_CHARACTER"
    assert [token["id"] for token in told["answer"]] == [token.id for token in answer.distribution.tokens]
    assert told["dense"] == told["of_queries"] == answer.distribution.dense.tolist()
    assert told["hellinger"] == answer.hellinger
    assert [neighbor for page in told["pages"] for neighbor in page] == neighbors
    assert told["refusal"]["code"] == "INVALID_ARGUMENT"
    assert "min_prob" in told["refusal"]["details"]


class Faltering(Scripted):
    """Fails the first calls, then answers from an engine."""

    def __init__(self, engine: Engine, *failures: grpc.StatusCode) -> None:
        super().__init__(*failures)
        self._engine = engine

    def GetInfo(self, request: pb.GetInfoRequest, context: grpc.ServicerContext) -> pb.GetInfoResponse:
        self._receive(request, context)
        return self._engine.get_info(request)

    def Predict(self, request: pb.PredictRequest, context: grpc.ServicerContext) -> pb.PredictResponse:
        self._receive(request, context)
        return self._engine.predict(request)


def test_a_node_client_takes_responses_beyond_the_default_limit_of_grpc(node_folder, engine):
    class Talkative(Faltering):
        def GetInfo(self, request: pb.GetInfoRequest, context: grpc.ServicerContext) -> pb.GetInfoResponse:
            told = super().GetInfo(request, context)
            return pb.GetInfoResponse(snapshot=told.snapshot, backend="x" * (5 << 20))

    with scripted_server(Talkative(engine)) as address:
        assert run_node(node_folder, address)["substrings"] > 0


def test_a_node_client_retries_by_the_same_service_config(node_folder, engine):
    servicer = Faltering(engine, *[grpc.StatusCode.UNAVAILABLE] * 2)
    with scripted_server(servicer) as address:
        assert run_node(node_folder, address)["substrings"] > 0
    assert [request.DESCRIPTOR.name for request in servicer.requests[:4]] == ["GetInfoRequest"] * 3 + ["PredictRequest"]
