from datetime import UTC, datetime, timedelta

import pytest

from proj.ganeti.states import JOB_BLIND, LIST_ONLY, STATUS_OF_WORD, UnknownState, word_of
from proj.observation import Interval, Status

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("config_state", "run_state", "word"),
    [
        ("up", "up", "running"),
        ("up", "down", "ERROR_down"),
        ("down", "up", "ERROR_up"),
        ("down", "down", "ADMIN_down"),
        ("offline", "offline", "ADMIN_offline"),
        ("up", "user down", "USER_down"),
    ],
)
def test_the_two_states_of_a_query_job_give_the_word_of_the_list(
    config_state: str, run_state: str, word: str
) -> None:
    assert word_of(config_state, run_state, static=False) == word


def test_a_null_run_state_means_an_offline_node_and_never_stopped() -> None:
    word = word_of("up", None, static=False)

    assert word == "ERROR_nodeoffline"
    assert STATUS_OF_WORD[word] is Status.UNKNOWN


def test_a_static_query_says_nothing_about_the_state() -> None:
    assert word_of("up", None, static=True) is None


def test_a_word_never_seen_is_an_error_that_names_it() -> None:
    with pytest.raises(UnknownState, match="'paused'"):
        word_of("up", "paused", static=False)


def test_overlapping_readings_are_not_newer_than_each_other() -> None:
    first = Interval(NOON, NOON + timedelta(seconds=2))
    second = Interval(NOON + timedelta(seconds=1), NOON + timedelta(seconds=3))

    assert not second.begins_after(first)
    assert not first.begins_after(second)


def test_an_interval_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValueError, match="end before"):
        Interval(NOON, NOON - timedelta(seconds=1))


def test_what_a_job_is_blind_to_only_the_list_can_say() -> None:
    assert set(JOB_BLIND) <= LIST_ONLY <= set(STATUS_OF_WORD)
