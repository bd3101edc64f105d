"""A server starts with what its settings name, and with what was changed over the wire as far as it is still there."""

import shutil
from dataclasses import replace

import pytest

from ffnsearch.v1 import admin_pb2 as pb
from ffnsearch_indexer.errors import OutputError, SnapshotError
from ffnsearch_indexer.store import check
from ffnsearch_service import hosting
from ffnsearch_service.catalog.state import STATE_FILE, CatalogState, Configured, Placed, write_state
from ffnsearch_service.catalog_watch import CatalogWatch
from ffnsearch_service.config import AdminSettings, ServerConfig
from ffnsearch_service.errors import ShuttingDownError, StateError
from ffnsearch_service.hosting import _open, _parts
from ffnsearch_service.settings.loading import load
from ffnsearch_service.settings.sources import from_flags


@pytest.fixture
def config(tiny_snapshot, tmp_path):
    admin = AdminSettings(enabled=True, snapshots_folder=tmp_path / "snapshots")
    return ServerConfig({"plays": tiny_snapshot}, verify="sizes", admin=admin, state_folder=tmp_path / "state")


def remember(config, **folders):
    """What an earlier server of these settings left, with these snapshots loaded."""
    placed = {name: Placed(str(folder), "e") for name, folder in folders.items()}
    before = Configured({name: str(path) for name, path in config.snapshots.items()})
    write_state(config.state_folder / STATE_FILE, CatalogState(placed, configured=before))


def states(config):
    """Start what is behind the socket, and tell the state of each snapshot by its name."""
    with _parts(config) as parts:
        found = parts.administration.list_snapshots(pb.ListSnapshotsRequest()).snapshots
        return {snapshot.name: pb.SnapshotState.Name(snapshot.state).rpartition("_")[2] for snapshot in found}


def test_a_snapshot_of_the_settings_that_cannot_be_opened_stops_the_start(config, tmp_path):
    config.snapshots["novel"] = tmp_path / "gone"
    with pytest.raises(SnapshotError, match="gone is no snapshot"):
        states(config)


def test_one_that_was_loaded_over_the_wire_stops_no_other(config, tmp_path):
    remember(config, plays=config.snapshots["plays"], novel=tmp_path / "gone")
    assert states(config) == {"plays": "OPEN", "novel": "FAILED"}


def test_one_that_was_loaded_over_the_wire_under_a_name_of_the_settings_stops_no_start(config, tmp_path):
    remember(config, plays=tmp_path / "gone")
    assert states(config) == {"plays": "FAILED"}


def test_a_state_folder_that_cannot_be_is_told_in_a_line(config, tmp_path):
    (tmp_path / "state").touch()
    for folder in (tmp_path / "state", tmp_path / "state" / "below"):
        with pytest.raises(OutputError, match=r"cannot write .*/state.*server\.state_folder"):
            states(replace(config, state_folder=folder))


def test_no_path_is_told_where_the_folders_were_given_relative_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = load(from_flags({}, ["admin.enabled=true", "admin.snapshots_folder=snapshots"])).config
    with _parts(settings) as parts, pytest.raises(StateError) as caught:
        parts.administration.load_snapshot(pb.LoadSnapshotRequest(name="june", folder="june.partial"))
    assert caught.value.message.startswith("june.partial is no snapshot")


def test_the_reading_of_a_snapshot_stops_with_the_loads(config, tiny_snapshot, monkeypatch):
    folder = config.admin.snapshots_folder
    shutil.copytree(tiny_snapshot, folder / "june")
    hash_files, read = check.hash_files, []

    with _parts(replace(config, verify="all")) as parts:

        def stop_while_it_is_read(*arguments, **options):
            parts.administration.stop_loads()
            read.append(hash_files(*arguments, **options))

        monkeypatch.setattr(check, "hash_files", stop_while_it_is_read)
        with pytest.raises(ShuttingDownError):
            parts.administration.load_snapshot(pb.LoadSnapshotRequest(name="june"))
    assert not read


def test_a_search_that_leaves_the_gpu_shows_in_the_catalog(config, monkeypatch):
    moves, changes = [], []

    def opening(*arguments, on_move, checkpoint):
        moves.append(on_move)
        return _open(*arguments, on_move=on_move, checkpoint=checkpoint)

    monkeypatch.setattr(hosting, "_open", opening)
    monkeypatch.setattr(CatalogWatch, "changed", lambda _, catalog: changes.append(catalog))
    with _parts(config):
        before = len(changes)
        moves[0]()
        assert len(changes) == before + 1
