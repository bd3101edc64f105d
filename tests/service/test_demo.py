"""The demonstration builds, serves in another process, asks, shows the evidence, and leaves nothing behind."""

import pytest

from ffnsearch_indexer.corpora import shakespeare
from ffnsearch_service import demo


@pytest.fixture(autouse=True)
def _small(tiny_snapshot, monkeypatch):
    text = shakespeare.render(1)[:4000]
    monkeypatch.setattr(demo.shakespeare, "render", lambda plays: text)
    monkeypatch.setattr(demo, "reference_folder", lambda: tiny_snapshot / "model")


def test_the_demonstration_runs_from_end_to_end(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(demo.tempfile, "tempdir", str(tmp_path))
    demo.run_demo(None, keep=False)
    out, _ = capfd.readouterr()
    for expected in (
        "Indexing Coriolanus",
        "Serving it at 127.0.0.1:",
        "Hellinger distance",
        "The server has stopped.",
    ):
        assert expected in out
    for prompt in demo.PROMPTS:
        assert f'Why "{prompt}": in block' in out
    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_that_is_there_is_used_again(tiny_snapshot, capfd):
    demo.run_demo(tiny_snapshot, keep=False)
    out, _ = capfd.readouterr()
    assert f"Using the snapshot in {tiny_snapshot}" in out
    assert "Indexing" not in out
    assert tiny_snapshot.exists()


def test_a_server_that_does_not_start_is_told(tmp_path):
    with pytest.raises(demo.AddressError, match="did not start"):
        demo.run_demo(tmp_path, keep=False)
