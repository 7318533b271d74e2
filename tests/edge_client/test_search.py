"""The search for the smallest network that keeps a floor."""

from __future__ import annotations

import itertools
import math

import pytest

from prunefleet_edge.search import DEFAULT_RATIOS, LevelSearch
from prunefleet_shared.errors import ConfigError


def grid(num: int) -> tuple[float, ...]:
    return tuple((index + 1) / (num + 1) for index in range(num))


@pytest.mark.parametrize("num", range(1, 40))
def test_every_monotone_pattern_is_found_in_few_questions(num: int) -> None:
    ratios = grid(num)
    for num_kept in range(num + 1):
        search, asked = LevelSearch(ratios), []
        while (ratio := search.next_ratio()) is not None:
            asked.append(ratio)
            search.tell(ratio, ratios.index(ratio) < num_kept)
        assert search.best == (ratios[num_kept - 1] if num_kept else None)
        assert len(asked) == len(set(asked)) <= math.ceil(math.log2(num)) + 1 if num > 1 else len(asked) == 1


@pytest.mark.parametrize("num", [1, 2, 5, 8])
def test_whatever_the_answers_what_is_returned_was_kept_and_the_search_ends(num: int) -> None:
    ratios = grid(num)
    for pattern in itertools.product((True, False), repeat=num):
        search, answers = LevelSearch(ratios), {}
        while (ratio := search.next_ratio()) is not None:
            answers[ratio] = pattern[ratios.index(ratio)]
            search.tell(ratio, answers[ratio])
            assert len(answers) <= num
        kept = [ratio for ratio, is_kept in answers.items() if is_kept]
        assert search.best == max(kept, default=None)


def test_the_paper_s_grid_and_where_it_starts() -> None:
    assert DEFAULT_RATIOS == (
        0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95
    )  # fmt: skip
    search = LevelSearch()
    assert search.next_ratio() == search.next_ratio() == 0.5
    search.tell(0.5, True)
    assert search.next_ratio() == 0.75
    search.tell(0.75, False)
    assert search.next_ratio() == 0.6
    assert search.best == 0.5


def test_answers_that_were_not_asked_for_are_used() -> None:
    search = LevelSearch()
    search.tell(0.9, True)
    assert search.best == 0.9
    assert search.next_ratio() == 0.95
    search.tell(0.5, False)  # not monotone: 0.9 was kept
    assert search.best == 0.9
    assert search.next_ratio() == 0.95
    search.tell(0.95, False)
    assert search.next_ratio() is None


def test_a_ratio_that_failed_once_is_never_returned() -> None:
    for answers in ((True, False), (False, True)):
        search = LevelSearch()
        for is_kept in answers:
            search.tell(0.5, is_kept)
        assert search.best is None
        assert search.next_ratio() == 0.25


def test_there_is_nothing_to_return_before_the_first_answer() -> None:
    assert LevelSearch().best is None


@pytest.mark.parametrize("ratios", [(), (0.5, 0.5), (0.6, 0.5)])
def test_ratios_must_ascend(ratios: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="expected ascending fractions, got"):
        LevelSearch(ratios)


@pytest.mark.parametrize("ratios", [(0.0, 0.5), (0.5, 1.0), (5.0, 95.0), (float("nan"),)])
def test_ratios_must_be_fractions(ratios: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="expected fractions between 0 and 1"):
        LevelSearch(ratios)


def test_an_answer_for_no_ratio_of_the_grid_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"pruning ratio 0.42 is none of \[0.05"):
        LevelSearch().tell(0.42, True)
