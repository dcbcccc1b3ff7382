"""Turns, batches, bounds."""

import threading

import pytest

from melody_jax.serve.fair_queue import ClosedError, FairQueue, FullError


def queue_of(*entries, batch=4, most=100, most_each=50):
    queue = FairQueue(most, most_each, batch)
    for client, item, key in entries:
        queue.put(client, item, key)
    return queue


def drained(queue):
    return [queue.take() for _ in iter(lambda: len(queue), 0)]


def test_clients_take_turns_whoever_asks_most():
    queue = queue_of(*(("greedy", f"g{i}", None) for i in range(4)), ("a", "a0", None), ("b", "b0", None))
    assert drained(queue) == [["g0"], ["a0"], ["b0"], ["g1"], ["g2"], ["g3"]]


def test_what_can_be_made_together_is_taken_together_from_all_clients():
    queue = queue_of(("a", 1, "x"), ("a", 2, "x"), ("b", 3, "x"), ("b", 4, "y"), ("c", 5, "x"), ("c", 6, None))
    assert queue.take() == [1, 3, 5, 2]
    assert drained(queue) == [[4], [6]]


def test_batches_have_few_sizes():
    assert [len(items) for items in drained(queue_of(*(("a", i, "x") for i in range(7))))] == [4, 2, 1]
    assert [len(items) for items in drained(queue_of(*(("a", i, "x") for i in range(5)), batch=3))] == [2, 2, 1]


def test_a_batch_costs_every_client_in_it_a_turn():
    queue = queue_of(("a", 1, "x"), ("b", 2, "x"), ("c", 3, None), ("a", 4, None), ("b", 5, None))
    assert drained(queue) == [[1, 2], [3], [4], [5]]


def test_every_second_turn_is_for_what_is_urgent():
    queue = queue_of(*((client, f"{client}{i}", None) for client in "ab" for i in range(2)))
    for item in ("first", "second", "third"):
        queue.put("a", item, urgent=True)
    assert drained(queue) == [["first"], ["a0"], ["second"], ["b0"], ["third"], ["a1"], ["b1"]]
    for item in ("first", "second", "third"):
        queue.put("a", item, urgent=True)
    assert queue.remove(lambda item: item == "second") == ["second"]
    assert drained(queue) == [["first"], ["third"]]  # nobody else waits


def test_bounds():
    queue = queue_of(("a", 1, None), ("a", 2, None), most=3, most_each=2)
    with pytest.raises(FullError) as error:
        queue.put("a", 3)
    assert error.value.own
    queue.put("b", 4)
    with pytest.raises(FullError) as error:
        queue.put("c", 5)
    assert not error.value.own
    queue.put("c", 6, urgent=True)
    assert len(queue) == 4 and queue.remove(lambda item: item == 2) == [2] and len(queue) == 3


def test_closing_wakes_who_waits_and_gives_back_the_rest():
    queue, got = queue_of(), []
    thread = threading.Thread(target=lambda: got.append(queue.take()))
    thread.start()
    assert queue.close() == []
    thread.join(10)
    assert got == [[]]
    with pytest.raises(ClosedError):
        queue.put("a", 1)
    queue = queue_of(("a", 1, None), ("b", 2, None), ("a", 3, None))
    queue.put("b", 4, urgent=True)
    assert queue.close() == [4, 1, 2, 3] and queue.take() == []
