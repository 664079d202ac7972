"""Parts of a batch in threads of their own, and torch as it was."""

import pytest
import torch

from orthostream.data.batched.threads import Threads


@pytest.fixture
def open_threads():
    before, made = torch.get_num_threads(), []

    def make(count):
        torch.set_num_threads(count)
        made.append(Threads())
        return made[-1]

    yield make
    for threads in made:
        threads.close()
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("batch", [0, 1, 2, 10])
def test_parts_come_back_in_order(count, batch, open_threads):
    threads, samples = open_threads(count), torch.arange(batch)
    parts = []
    found = threads.map(lambda part: parts.append(len(part)) or 2 * part, samples)
    assert torch.equal(found, 2 * samples)
    assert sum(parts) == batch and len(parts) == max(1, min(count, batch))


def test_torch_computes_alone_in_each_thread_and_as_before_outside(open_threads):
    threads = open_threads(3)
    for _ in range(2):
        found = threads.map(lambda part: part * 0 + torch.get_num_threads(), torch.arange(9))
        assert found.tolist() == [1] * 9
        assert torch.get_num_threads() == 3
        # Whoever comes later has all threads again.
        threads.close()


def test_an_error_in_a_thread_is_raised(open_threads):
    def fail(part):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        open_threads(2).map(fail, torch.arange(4))
