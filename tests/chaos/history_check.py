"""Judges a recorded history by all rules; each is stated where it is checked."""

from collections.abc import Mapping

from .history import History, Judgement
from .history_answers import check_answers
from .history_keys import WANTED, KeyHistory, check_enough, check_keys
from .history_log import check_log


def judge(
    history: History, keys: KeyHistory | None = None, wanted: Mapping[str, int] = WANTED
) -> Judgement:
    """Return everything that is wrong with a history; ``wanted`` is rule 11's."""
    found = Judgement()
    order = check_log(history, found)
    check_answers(history, order, found)
    if keys is not None:
        check_keys(keys, order, history.max_staleness, found)
    check_enough(history, found, wanted=wanted)
    return found
