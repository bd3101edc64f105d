"""Compiled code has a place wherever the program runs, and never one that somebody else can write."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import ffnsearch_indexer
from ffnsearch_indexer.hardware.compiled import PREFIX, private_folder

COMPILED = ("answer", "hardware", "index", "models")


@pytest.fixture
def temporary(tmp_path):
    """A temporary folder as systems have it: everybody may write, nobody may rename what is another's."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@pytest.fixture
def read_only(tmp_path):
    """The path of an installed package whose folders of compiled code cannot be made."""
    package = tmp_path / "site" / "ffnsearch_indexer"
    shutil.copytree(
        Path(ffnsearch_indexer.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "reference")
    )
    for name in COMPILED:
        (package / name / "__pycache__").touch()
    return package.parent


def place_of(site, **environment):
    """Load all that is compiled; where its code is kept (empty: where numba keeps it), or the error."""
    code = (
        "from ffnsearch_indexer.errors import OutputError\n"
        "try:\n"
        "    import ffnsearch_indexer.answer.predictor, ffnsearch_indexer.answer.classes, numba\n"
        "    print(numba.config.CACHE_DIR)\n"
        "except OutputError as error:\n"
        "    print(error.message)\n"
    )
    inherited = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, "PYTHONPATH": str(site), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.removesuffix("\n")


def test_a_read_only_installation_without_a_home_compiles_into_a_private_folder(read_only, temporary):
    nowhere = {"HOME": "/dev/null", "TMPDIR": str(temporary)}
    place = Path(place_of(read_only, **nowhere))
    assert place.parent == temporary
    assert place.stat().st_mode & 0o777 == 0o700
    assert place_of(read_only, **nowhere) == str(place), "what is compiled is found again"


def test_where_numba_has_a_place_it_is_left_there(read_only, temporary, tmp_path):
    assert place_of(read_only, HOME=str(tmp_path), TMPDIR=str(temporary)) == ""
    set_by_hand = {"NUMBA_CACHE_DIR": str(tmp_path / "set"), "HOME": "/dev/null", "TMPDIR": str(temporary)}
    assert place_of(read_only, **set_by_hand) == str(tmp_path / "set")
    assert list(temporary.iterdir()) == []


def test_a_place_that_cannot_be_written_is_told_in_one_line(read_only, temporary):
    told = place_of(read_only, NUMBA_CACHE_DIR="/dev/null/x", HOME="/dev/null", TMPDIR=str(temporary))
    assert told == (
        "the search cannot be compiled, because /dev/null/x cannot be written: set NUMBA_CACHE_DIR to a folder that can"
    )


def test_an_unsafe_temporary_folder_is_told_in_one_line(read_only, temporary):
    temporary.chmod(0o777)
    told = place_of(read_only, HOME="/dev/null", TMPDIR=str(temporary))
    assert told.endswith("rename the folders of this user): set NUMBA_CACHE_DIR to a folder that can be written")
    assert told.count("\n") == 0


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o720, 0o702, 0o755])
def test_a_folder_that_others_can_use_is_not_used(temporary, mode):
    prepared = temporary / f"{PREFIX}0"
    prepared.mkdir()
    prepared.chmod(mode)
    assert private_folder(temporary) != prepared


def test_a_folder_of_somebody_else_is_not_used(temporary, monkeypatch):
    ours = private_folder(temporary)
    monkeypatch.setattr(os, "geteuid", lambda: ours.stat().st_uid + 1)
    with suppress(PermissionError):  # unless root owns the temporary folder, it is somebody else's too
        assert private_folder(temporary) != ours


def test_a_link_is_not_followed(temporary, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(0o700)
    link = temporary / f"{PREFIX}0"
    link.symlink_to(elsewhere)
    assert private_folder(temporary).is_relative_to(temporary)
    assert private_folder(temporary) != link
