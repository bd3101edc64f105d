"""Classes explain neighbors as plain counting says: what they hold, that none contains another, and none saves more."""

import itertools
import math
from collections.abc import Iterable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffnsearch_indexer.answer.classes import PARTS_PER_BIT, choose_classes
from ffnsearch_indexer.corpora.substrings import sort_suffixes

some = settings(max_examples=150)
shares = st.sampled_from([0.01, 0.5, 2 / 3, 0.9, 1.0])


class Case:
    """Some windows of a text, of which some are neighbors; what is asked and what plain Python makes of it."""

    def __init__(self, windows: list[str], neighbors: Iterable[str], alphabet: str) -> None:
        self.windows, self.neighbors, self.alphabet = windows, list(neighbors), alphabet
        self.members: dict[str, list[str]] = {}
        for window in windows:
            for first in range(len(window) + 1):
                self.members.setdefault(window[first:], []).append(window)

    def inside(self, suffix: str) -> list[str]:
        return [window for window in self.members[suffix] if window in self.neighbors]

    def saved(self, suffix: str, min_share: float) -> int:
        """What a class saves, in parts of a bit; 0 where its share is too small."""
        m, n, N, M = len(self.members[suffix]), len(self.inside(suffix)), len(self.windows), len(self.neighbors)
        if n == 0 or n / m < min_share:
            return 0
        named = n * math.log2(math.e * N / M)
        taken = len(suffix) * math.log2(len(self.alphabet)) + math.log2(m + 1) + math.log2(math.comb(m, n))
        return max(0, round(PARTS_PER_BIT * (named - taken)))

    def most_saved(self, classes_max: int, min_share: float) -> int:
        """The most that so many classes save, from the whole down to each window."""

        @cache
        def below(suffix: str, classes: int) -> int:
            longer = [c + suffix for c in self.alphabet if c + suffix in self.members]
            best = [0] * (classes + 1)
            for child in longer:
                best = [max(best[k - j] + below(child, j) for j in range(k + 1)) for k in range(classes + 1)]
            return max(best[classes], self.saved(suffix, min_share) if classes else 0)

        return below("", classes_max)

    def chosen(self, classes_max: int, min_share: float) -> list[tuple[str, int, list[str]]]:
        """What the product chooses: suffix, members, neighbors inside."""
        tokens = np.array([[self.alphabet.index(c) for c in window] for window in self.windows], dtype=np.uint16)
        ids = np.array([self.windows.index(window) for window in self.neighbors], dtype=np.int64)
        order = sort_suffixes(tokens, len(self.alphabet))
        found = choose_classes(ids, order, len(self.alphabet), classes_max=classes_max, min_share=min_share)
        texts = [[self.neighbors[rank] for rank in of_suffix.ranks.tolist()] for of_suffix in found]
        suffixes = [inside[0][len(inside[0]) - of.suffix_tokens :] for inside, of in zip(texts, found, strict=True)]
        return [(suffix, of.members, inside) for suffix, of, inside in zip(suffixes, found, texts, strict=True)]


@st.composite
def cases(draw: st.DrawFn, *, windows_max: int = 40) -> Case:
    """Neighbors are the windows of some endings, and then some windows more and some fewer."""
    alphabet = "abc"[: draw(st.integers(1, 3))]
    window = st.text(alphabet, min_size=(size := draw(st.integers(1, 5))), max_size=size)
    windows = draw(st.lists(window, min_size=1, max_size=windows_max, unique=True))
    endings = draw(st.lists(st.text(alphabet, max_size=3), max_size=3))
    flipped = draw(st.sets(st.sampled_from(windows), max_size=4))
    neighbors = [each for each in windows if any(map(each.endswith, endings)) != (each in flipped)]
    return Case(windows, draw(st.permutations(neighbors)), alphabet)


@some
@given(case=cases(), classes_max=st.integers(1, 6), min_share=shares)
def test_a_class_holds_what_it_says(case: Case, classes_max: int, min_share: float) -> None:
    found = case.chosen(classes_max, min_share)
    assert len(found) <= classes_max
    for suffix, members, inside in found:
        assert members == len(case.members[suffix])
        assert inside == [window for window in case.neighbors if window.endswith(suffix)]
        assert len(inside) / members >= min_share
    assert found == sorted(found, key=lambda one: (-len(one[2]), one[1], len(one[0]), one[0][::-1]))


@some
@given(case=cases(), classes_max=st.integers(1, 6), min_share=shares)
def test_no_class_contains_another(case: Case, classes_max: int, min_share: float) -> None:
    found = case.chosen(classes_max, min_share)
    for (one, _, _), (other, _, _) in itertools.permutations(found, 2):
        assert not one.endswith(other)
    covered = [window for _, _, inside in found for window in inside]
    assert len(covered) == len(set(covered)) <= len(case.neighbors)


@some
@given(case=cases(), classes_max=st.integers(1, 6), min_share=shares)
def test_no_other_classes_save_more(case: Case, classes_max: int, min_share: float) -> None:
    saved = [case.saved(suffix, min_share) for suffix, _, _ in case.chosen(classes_max, min_share)]
    assert all(one > 0 for one in saved)
    assert sum(saved) == case.most_saved(classes_max, min_share)


@some
@given(case=cases(windows_max=10), classes_max=st.integers(1, 3), min_share=shares)
def test_of_all_choices_none_saves_more(case: Case, classes_max: int, min_share: float) -> None:
    """The same without any cleverness: every choice of classes is tried."""
    saving = {suffix: saved for suffix in case.members if (saved := case.saved(suffix, min_share))}
    choices = itertools.chain.from_iterable(itertools.combinations(saving, size) for size in range(classes_max + 1))
    apart = (
        choice for choice in choices if not any(one.endswith(other) for one, other in itertools.permutations(choice, 2))
    )
    best = max(sum(saving[suffix] for suffix in choice) for choice in apart)
    assert sum(saving[suffix] for suffix, _, _ in case.chosen(classes_max, min_share)) == best


@some
@given(case=cases(), min_share=shares, shuffle=st.randoms(use_true_random=False))
def test_the_order_of_the_neighbors_does_not_matter(case: Case, min_share: float, shuffle: object) -> None:
    shuffled = list(case.neighbors)
    shuffle.shuffle(shuffled)
    other = Case(case.windows, shuffled, case.alphabet)
    ours, theirs = case.chosen(4, min_share), other.chosen(4, min_share)
    assert [one[:2] for one in ours] == [one[:2] for one in theirs]
    assert [set(one[2]) for one in ours] == [set(one[2]) for one in theirs]


LETTERS = "abcdefgh"
WINDOWS = ["".join(letters) for letters in itertools.product(LETTERS, repeat=3)]


def suffixes(neighbors: list[str], classes_max: int = 10, min_share: float = 0.5) -> list[tuple[str, int, int]]:
    """Suffix, neighbors and members of what is chosen of all 512 windows of three letters."""
    found = Case(WINDOWS, neighbors, LETTERS).chosen(classes_max, min_share)
    return [(suffix, len(inside), members) for suffix, members, inside in found]


def ending(*of: str) -> list[str]:
    return [window for window in WINDOWS if window.endswith(of)]


def test_a_whole_class_is_one_line() -> None:
    assert suffixes(ending("a")) == [("a", 64, 64)]


def test_a_purer_class_inside_takes_the_place_of_a_mixed_one() -> None:
    most = ending("aa", "ba", "ca", "da")
    assert suffixes([*most, "aea"]) == [(ending_, 8, 8) for ending_ in ("aa", "ba", "ca", "da")]
    assert suffixes([*most, "aea"], classes_max=3) == [("a", 33, 64)]  # one mixed line says more than three pure ones
    assert suffixes(most, classes_max=3, min_share=0.9) == [(ending_, 8, 8) for ending_ in ("aa", "ba", "ca")]


def test_a_class_with_exceptions_is_one_line_still() -> None:
    but_two = [window for window in ending("a") if window not in ("aba", "cca")]
    assert suffixes([*but_two, "hhb"]) == [("a", 62, 64)]


def test_neighbors_that_share_an_ending_by_chance_are_no_class() -> None:
    assert suffixes(["aaa", "cba", "ghb", "bde", "eff", "dch"]) == []


def test_everything_is_the_class_of_the_empty_suffix() -> None:
    assert suffixes(WINDOWS) == [("", 512, 512)]


def test_nothing_has_no_classes() -> None:
    assert suffixes([]) == []


def test_a_share_that_is_reached_exactly_counts() -> None:
    nine_of_ten = Case([c + "a" for c in "abcdefghij"] + [c + "b" for c in "abcdefghij"], [], "abcdefghij")
    nine_of_ten.neighbors = [c + "a" for c in "abcdefghi"]
    assert [one[:2] for one in nine_of_ten.chosen(1, 0.9)] == [("a", 10)]
    assert [one[:2] for one in nine_of_ten.chosen(1, 0.91)] == []


@pytest.mark.parametrize(("classes_max", "min_share"), [(0, 0.5), (1, 0.0), (1, 1.5), (1, math.nan), (1 << 15, 0.5)])
def test_what_has_no_meaning_is_refused(classes_max: int, min_share: float) -> None:
    with pytest.raises(AssertionError):
        suffixes(ending("a"), classes_max=classes_max, min_share=min_share)
