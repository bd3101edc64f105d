"""The command report: one page with every part there is data for, by itself, safe, and the figures beside it."""

import base64
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from measuring import evaluate

from ffnsearch_indexer.answer.predictor import Predictor
from ffnsearch_indexer.answer.profile import ProductProfile, ProductStep, one_step
from ffnsearch_indexer.corpora.corpus import Corpus
from ffnsearch_indexer.fidelity.protocols import Protocol
from ffnsearch_indexer.fidelity.report.calibrated import calibration_pictures
from ffnsearch_indexer.fidelity.report.explained import BEST, WORST, explain
from ffnsearch_indexer.fidelity.report.writing import write_report
from ffnsearch_indexer.progress import silent
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_indexer.store.manifest import read_manifest
from refusals import check_refusals
from tiny import build_splits, files_of, revise

PIECES = ["<script>", "a", "b", "&", " ", "\n"]
TEXT = "".join(np.random.default_rng(1).choice(PIECES, 400))
ALPHABET = "".join(sorted(set(TEXT)))
PROFILES = (
    ProductProfile(
        "<best>",
        (
            (ProductStep(0.2, 0.5, prior_mass=1.0), ProductStep(0.8, -0.2, 0.1, prior_mass=1.0)),
            (ProductStep(0.5, 0.3, 0.1, (0.1, 0.2), prior_mass=2.0),),
        ),
    ),
    one_step("article", (0.6, 0.7), (1, 2), source="by hand"),
)
CALIBRATION = {
    "protocol": "leave_one_out",
    "prompts": 60,
    "default": "<best>",
    "curves": [{"thresholds": [0.6, 0.9], "hellinger": [0.4, 0.3], "neighbors": [20.0, 0.0]}] * 2,
    "ladder": [
        {
            "name": name,
            "kind": kind,
            "steps": 2,
            "hellinger": 0.25,
            "ci95": [0.24, 0.26],
            "neighbors": 30.0,
            "profiles": profiles,
        }
        for name, kind, profiles in (("one-step", "sum", []), ("product-2", "product", ["<best>"]))
    ],
}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Measured snapshots: `train`, with a sister and a calibration, and `all`, with neither."""
    folder = build_splits(tmp_path_factory.mktemp("built"), Corpus("te<xt\udce9", TEXT), ALPHABET)
    for split, sisters in (("all", []), ("train", [folder / "sister"])):
        profiles = {profile.name: profile.to_json() for profile in PROFILES}
        revise(folder / split, profiles=profiles, default_profile="<best>")
        with Datastore.open(folder / split, check="sizes") as datastore:
            for protocol in Protocol:
                if protocol.indexed_split == split:
                    evaluate(Predictor(datastore), protocol, PROFILES, prompts=20, sisters=sisters, save=True)
    fidelity = read_manifest(folder / "train").fidelity or {}
    revise(folder / "train", fidelity={**fidelity, "calibration": CALIBRATION})
    return folder


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(built, tmp_path / "copy"))


class Page(HTMLParser):
    """A page, read: its tags, attributes and text; every tag that is opened is closed."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        assert self._open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def values(self, wanted_tag: str, wanted_name: str) -> list[str]:
        return [value for tag, name, value in self.attributes if (tag, name) == (wanted_tag, wanted_name)]


@pytest.fixture(scope="module")
def report(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report with every part."""
    folder = tmp_path_factory.mktemp("report") / "report"
    with Datastore.open(built / "train", check="sizes") as datastore:
        write_report(Predictor(datastore), folder)
    return folder


def test_a_full_report_has_every_part(report: Path, built: Path) -> None:
    page = Page(report / "report.html")
    assert page.values("section", "id") == [
        *("leave-one-out", "held-out", "calibration", "profile"),
        *("examples-leave-one-out", "examples-held-out", "words"),
    ]
    measured = [
        f"{figure}-{key}" for key in ("leave_one_out", "held_out") for figure in ("histogram", "comparison", "groups")
    ]
    figures = {f"figure-{name}.png" for name in (*measured, "curves", "ladder", "profile")}
    assert {path.name for path in report.iterdir()} == {"report.html"} | figures
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in report.glob("*.png"))
    assert page.tags["figure"] == page.tags["figcaption"] == page.tags["img"] == len(figures)
    assert all(len(alt) > 20 for alt in page.values("img", "alt"))
    fidelity = read_manifest(built / "train").fidelity or {}
    for key in ("leave_one_out", "held_out"):
        assert page.text.count(f"{fidelity[key]['hellinger']['mean']:.3f}") >= 2, "in the summary and in the table"
        told = {name: fidelity[key]["profiles"][name]["hellinger"]["mean"] for name in ("<best>", "article")}
        sister = fidelity[key]["sisters"][0]["hellinger"]["mean"]
        assert f"on {fidelity[key]['prompts']} prompts, the answer (profile <best>) differs" in page.text
        assert (
            f"a retrained model differs by {sister:.3f}; the article's constants by {told['article']:.3f}." in page.text
        )
    for word in ("back-off n-gram", "own next tokens", "unigram", "best block alone", "product-2", "by hand", "nats"):
        assert word in page.text
    assert page.tags["article"] == sum(
        min(n, fidelity[key]["prompts"]) for key in ("leave_one_out", "held_out") for n in (BEST, WORST)
    )


def test_a_report_is_one_file_without_links_to_others(report: Path) -> None:
    page = Page(report / "report.html")
    sources, links = page.values("img", "src"), page.values("a", "href")
    assert links
    assert all(link.removeprefix("#") in page.values("section", "id") for link in links)
    prefix = "data:image/svg+xml;base64,"
    assert all(source.startswith(prefix) for source in sources)
    for source in sources:
        assert not re.search(rb"(href|src)=\"(?!#)|<script|@import", base64.b64decode(source.removeprefix(prefix)))
    rest = re.sub(r"base64,[\w+/=]+", "", page.source)
    assert not re.search(r"https?:|//|url\(|@import", rest.replace("</", ""))
    assert page.tags.keys().isdisjoint({"script", "link", "iframe", "object"})


def test_text_of_the_corpus_is_never_markup(report: Path) -> None:
    page = Page(report / "report.html")
    assert "<script" not in page.source
    assert "&lt;script&gt;" in page.source
    assert page.tags.keys().isdisjoint({"script", "best", "xt"})
    assert r"te&lt;xt\udce9" in page.source
    assert "⏎" in page.text


def test_without_data_a_part_is_left_out(run: Run, folder: Path) -> None:
    code, out, err = run("report", folder / "all", "--json", "--skip-verify")
    written = folder / "all-report"
    page = Page(written / "report.html")
    assert (code, err) == (0, "")
    assert json.loads(out)["report"] == str(written / "report.html")
    assert sorted(json.loads(out)["figures"]) == sorted(map(str, written.glob("*.png")))
    assert page.values("section", "id") == ["parity", "profile", "examples-parity", "words"]
    assert page.tags["figure"] == len(list(written.glob("*.png"))) == 4
    assert "a retrained model" not in page.text
    assert "the article's constants by" in page.text


def test_a_report_replaces_an_earlier_one_and_nothing_else(run: Run, folder: Path, report: Path) -> None:
    written = Path(shutil.copytree(report, folder / "all-report"))
    (written / "notes.txt").write_text("mine")
    revise(folder / "all", fidelity={"calibration": {**CALIBRATION, "curves": []}})
    assert run("report", folder / "all")[0] == 0
    page = Page(written / "report.html")
    assert page.values("section", "id") == ["calibration", "profile", "words"]
    assert {path.name for path in written.iterdir()} == {
        *("figure-ladder.png", "figure-profile.png"),
        *("report.html", "notes.txt"),
    }


@pytest.mark.parametrize("files", [0, 1, 2])
def test_a_report_that_was_stopped_is_written_by_the_same_command(
    files: int, run: Run, built: Path, report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, replace = [files], Path.replace

    def stop(path: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return replace(path, target)

    arguments = ("report", built / "train", "--out", tmp_path / "out", "--skip-verify")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", stop)
        code, out, err = run(*arguments)
    assert (code, out) == (130, "")
    assert f"what is done is in {tmp_path / 'out'}; the same command continues it" in err
    assert run(*arguments)[0] == 0
    assert files_of(tmp_path / "out") == files_of(report)


def test_the_same_figure_is_the_same_file() -> None:
    document = {**CALIBRATION, "curves": []}
    assert calibration_pictures(document, None) == calibration_pictures(document, None)


def test_a_name_in_a_figure_is_no_formula() -> None:
    ladder = [{**rung, "profiles": ["$a^$"]} for rung in CALIBRATION["ladder"]]
    assert calibration_pictures({**CALIBRATION, "ladder": ladder}, None)


def test_every_refusal_is_one_line_and_status_2_and_leaves_nothing(run: Run, folder: Path, tmp_path: Path) -> None:
    revise(folder / "all", fidelity=None)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "report.html").write_text("somebody else's")
    (tmp_path / "file").write_text("")
    refusals = {
        (folder / "all",): f"run `ffnsearch evaluate {folder / 'all'}` first",
        (tmp_path / "nothing",): "is no snapshot",
        (folder / "train", "--out", tmp_path / "other"): "is no earlier report",
        (folder / "train", "--out", tmp_path / "file"): "is no earlier report",
        (folder / "train", "--backend", "abacus"): "abacus",
    }
    check_refusals(partial(run, "report"), refusals, tmp_path)


@pytest.mark.parametrize(("split", "protocol"), [("all", Protocol.PARITY), ("train", Protocol.LEAVE_ONE_OUT)])
def test_examples_are_answered_as_they_were_measured(built: Path, split: str, protocol: Protocol) -> None:
    with Datastore.open(built / split, check="sizes") as datastore:
        document = (datastore.manifest.fidelity or {})[protocol.key]
        examples = explain(Predictor(datastore), document, PROFILES[0], silent)
    expected = [*document["best"][:BEST], *document["worst"][:WORST]]
    assert [example.text for example in examples] == [each["text"] for each in expected]
    assert [example.hellinger for example in examples] == pytest.approx([each["hellinger"] for each in expected])
    for example in examples:
        probabilities = [row.model for row in example.tokens]
        assert probabilities == sorted(probabilities, reverse=True)
        assert all(evidence.score > example.threshold for evidence in example.evidence)
        finds_itself = any(evidence.is_self and evidence.text == example.text for evidence in example.evidence)
        assert finds_itself is (protocol is Protocol.PARITY)
