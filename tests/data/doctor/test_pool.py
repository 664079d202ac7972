"""Work in processes of which some die: nothing is lost, the guilty are named, and none stays behind."""

import multiprocessing
import os
import signal
import time

import pytest

from orthostream.data.doctor.pool import Died, spread


def twice(number):
    """Doubles, but for a few numbers that do harm."""
    if number == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 17:
        os._exit(5)
    if number == 19:
        time.sleep(60)
    return 2 * number


def chunks(numbers, size=4):
    held = list(numbers)
    return (held[at : at + size] for at in range(0, len(held), size))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_thing_comes_back_once(workers):
    assert sorted(spread(twice, chunks(range(12)), workers)) == [(number, 2 * number) for number in range(12)]
    assert not multiprocessing.active_children()


def test_without_work_there_is_nothing():
    assert list(spread(twice, [], 2)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_what_kills_a_process_is_named_and_its_neighbours_are_worked_on(workers):
    answers = dict(spread(twice, chunks(range(12, 20)), workers, seconds=1.0))
    assert answers.pop(13) == Died("killed by signal 9")
    assert answers.pop(17) == Died("ended with code 5")
    assert answers.pop(19) == Died("no end after 1 s")
    assert answers == {number: 2 * number for number in (12, 14, 15, 16, 18)}
    assert not multiprocessing.active_children()


def test_chunks_are_taken_as_they_are_needed():
    taken = []

    def counted():
        for number in range(100):
            taken.append(number)
            yield [number]

    answers = spread(twice, counted(), 2)
    next(answers)
    assert len(taken) < 10
    answers.close()


def test_leaving_ends_the_processes_at_once():
    begun = time.monotonic()
    answers = spread(twice, [[1], [19], [19]], 3)
    assert next(answers) == (1, 2)
    answers.close()
    assert not multiprocessing.active_children() and time.monotonic() - begun < 30
