"""What all tests share: a tiny model, a snapshot built with it, the command line, and where the reference corpus is."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read by torch: spinning threads make tiny work ten times slower

import pytest
import torch
from hypothesis import HealthCheck, settings

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels run in Python; read where they are defined

from ffnsearch_indexer.build.pipeline import build
from ffnsearch_indexer.build.request import BuildRequest
from ffnsearch_indexer.corpora import shakespeare
from ffnsearch_indexer.corpora.corpus import Corpus
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_service import cli
from tiny import make_model, save_model

# No run fails for being slow, and all try the same examples; --hypothesis-profile=default tries others.
settings.register_profile("fixed", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fixed")

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started the tests in the background
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup; what a test starts does not ignore it
    signal.signal(signal.SIGHUP, lambda *_: None)

TINY_SHAKESPEARE = Path(__file__).parents[2] / "shared" / "data" / "tinyshakespeare.txt"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of 2 blocks and 65 characters."""
    return save_model(tmp_path_factory.mktemp("models") / "tiny", make_model())


@pytest.fixture(scope="session")
def tiny_corpus() -> Corpus:
    """The beginning of a play."""
    return Corpus("tiny", shakespeare.render(1)[:4000])


@pytest.fixture(scope="session")
def tiny_snapshot(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_corpus: Corpus) -> Path:
    """A snapshot of the tiny corpus. Not to be written to: tests that alter one copy it."""
    snapshot = tmp_path_factory.mktemp("snapshots") / "tiny.ffn"
    build(BuildRequest(tiny_corpus, tiny_model, snapshot))
    return snapshot


@pytest.fixture
def tiny_copy(tiny_snapshot: Path, tmp_path: Path) -> Path:
    """A copy of the tiny snapshot that a test may change."""
    return Path(shutil.copytree(tiny_snapshot, tmp_path / "copy.ffn"))


@pytest.fixture(scope="session")
def datastore(tiny_snapshot: Path) -> Iterator[Datastore]:
    """The tiny snapshot, open."""
    with Datastore.open(tiny_snapshot) as opened:
        yield opened


@pytest.fixture(scope="session")
def tinyshakespeare() -> Path:
    """The reference corpus, which is not in the repository."""
    if not TINY_SHAKESPEARE.exists():
        pytest.skip(f"the reference corpus is not at {TINY_SHAKESPEARE}")
    return TINY_SHAKESPEARE


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; gives its exit status, stdout and stderr."""

    def run_here(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ffnsearch", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run_here
