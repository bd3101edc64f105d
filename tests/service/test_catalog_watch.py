"""Those who keep count see what a catalog holds after each change, in the event loop, and nothing after its end."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from ffnsearch_service.catalog import Catalog
from ffnsearch_service.catalog_watch import CatalogWatch
from ffnsearch_service.operations.seen import CatalogSeen, SnapshotSeen


class Fake:
    """An open snapshot."""

    manifest = SimpleNamespace(snapshot_id="id", substrings=7)
    backend = "kernel"

    def close(self):
        pass


@pytest.fixture
def fake():
    return Fake()


@pytest.fixture
def seen():
    return []


@pytest.fixture
def watch(seen):
    return CatalogWatch(seen.append)


@pytest.fixture
def catalog(watch, fake, tmp_path):
    made = Catalog(lambda name, path: fake, size_of=lambda _: 1, on_change=watch.changed)
    made.load("a", tmp_path)
    yield made
    made.close()


def test_snapshots_and_aliases_are_seen_as_they_are_after_a_change(catalog, seen):
    catalog.move_alias("default", "a", allow_missing=True)
    snapshots = {"a": SnapshotSeen("id", 7, "kernel")}
    assert seen == [
        CatalogSeen({}, {}, frozenset({"a"})),
        CatalogSeen(snapshots, {}),
        CatalogSeen(snapshots, {"default": "a"}),
    ]
    catalog.delete_alias("default")
    catalog.unload("a")
    assert seen[-1] == CatalogSeen({}, {})


def test_a_snapshot_is_seen_with_the_backend_that_searches_it_now(catalog, watch, fake, seen):
    fake.backend = "tiles"
    watch.changed(catalog)
    assert [one.snapshots["a"].backend for one in seen[1:]] == ["kernel", "tiles"]


def test_changes_are_shown_in_the_loop_that_is_followed_and_not_after_it(catalog, watch, seen, tmp_path):
    threads = []

    async def follow():
        with watch.following(asyncio.get_running_loop()):
            watch._see = lambda found: threads.append(threading.current_thread())
            await asyncio.to_thread(catalog.load, "b", tmp_path)
            await asyncio.sleep(0)

    asyncio.run(follow())
    assert threads == [threading.main_thread()] * 2
    catalog.unload("b")
    assert len(threads) == 2


def test_a_change_may_come_at_any_moment_of_the_loops_end(catalog, watch):
    """The change has found the loop, and the loop ends before it is asked to run anything."""
    loop = asyncio.new_event_loop()
    found, following = threading.Event(), watch.following(loop)
    ask = loop.call_soon_threadsafe

    def ask_slowly(*arguments):
        found.set()
        ended.join(0.2)
        return ask(*arguments)

    def end():
        assert found.wait(20)
        following.__exit__(None, None, None)
        loop.close()

    loop.call_soon_threadsafe = ask_slowly
    ended = threading.Thread(target=end)
    following.__enter__()
    ended.start()
    watch.changed(catalog)
    ended.join()
