"""What the tests of the service share: engines and servers for the tiny snapshot, as built and calibrated."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from calibrated import calibrate
from serving import SlowPredictor, serving

from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_service.config import Limits
from ffnsearch_service.engine import Engine


@pytest.fixture(scope="session")
def engine(tiny_snapshot: Path) -> Iterator[Engine]:
    with Engine.open(tiny_snapshot) as opened:
        yield opened


@pytest.fixture(scope="session")
def address(engine: Engine) -> Iterator[str]:
    with serving(engine) as served:
        yield served


@pytest.fixture(scope="session")
def calibrated_snapshot(tiny_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return calibrate(tiny_snapshot, tmp_path_factory.mktemp("calibrated") / "tiny.ffn")


@pytest.fixture(scope="session")
def calibrated_engine(calibrated_snapshot: Path) -> Iterator[Engine]:
    with Engine.open(calibrated_snapshot) as opened:
        yield opened


@pytest.fixture(scope="session")
def calibrated_address(calibrated_engine: Engine) -> Iterator[str]:
    with serving(calibrated_engine) as served:
        yield served


@pytest.fixture
def slow(tiny_snapshot: Path) -> SlowPredictor:
    return SlowPredictor(Datastore.open(tiny_snapshot, check="sizes"))


@pytest.fixture
def slow_engine(slow: SlowPredictor) -> Iterator[Engine]:
    with Engine(slow, Limits(calls_max=2)) as opened:
        yield opened
        slow.release.set()
