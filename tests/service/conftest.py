"""What the tests of the service share: engines and servers for the tiny snapshot, as built and calibrated."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from calibrated import calibrate
from processes import Servers
from serving import SlowPredictor, serving

from ffnsearch_indexer.build.pipeline import build
from ffnsearch_indexer.build.request import BuildRequest
from ffnsearch_indexer.corpora import shakespeare
from ffnsearch_indexer.corpora.corpus import Corpus
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_service.answering.engine import Engine
from ffnsearch_service.answering.opened import OpenSnapshot
from ffnsearch_service.config import Limits


def engine_of(snapshot: str) -> Any:
    """A fixture: an engine for the snapshot that the fixture of this name gives."""

    @pytest.fixture(scope="session")
    def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
        with Engine.open(request.getfixturevalue(snapshot)) as opened:
            yield opened

    return engine


def address_of(engine: str) -> Any:
    """A fixture: the address at which the engine that the fixture of this name gives is served."""

    @pytest.fixture(scope="session")
    def address(request: pytest.FixtureRequest) -> Iterator[str]:
        with serving(request.getfixturevalue(engine)) as served:
            yield served

    return address


@pytest.fixture(scope="session")
def calibrated_snapshot(tiny_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return calibrate(tiny_snapshot, tmp_path_factory.mktemp("calibrated") / "tiny.ffn")


engine, calibrated_engine = engine_of("tiny_snapshot"), engine_of("calibrated_snapshot")
address, calibrated_address = address_of("engine"), address_of("calibrated_engine")


@pytest.fixture(scope="module")
def channel(address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address) as opened:
        yield opened


@pytest.fixture
def slow(tiny_snapshot: Path) -> SlowPredictor:
    return SlowPredictor(Datastore.open(tiny_snapshot, check="sizes"))


@pytest.fixture
def slow_engine(slow: SlowPredictor) -> Iterator[Engine]:
    with Engine.of(OpenSnapshot(slow, Limits(calls_max=2))) as opened:
        yield opened
        slow.release.set()


@pytest.fixture(scope="session")
def other_snapshot(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A snapshot of another text than the tiny one's, with the same model."""
    snapshot = tmp_path_factory.mktemp("snapshots") / "other.ffn"
    build(BuildRequest(Corpus("other", shakespeare.render(1)[4000:7000]), tiny_model, snapshot))
    return snapshot


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Starts servers in processes of their own."""
    with Servers.open(tmp_path_factory.mktemp("servers")) as opened:
        yield opened
