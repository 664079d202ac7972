"""Keys are fixed for good, and differ wherever anything of their place differs."""

import pytest

from orthostream.data.keys import generator, key
from orthostream.errors import UsageError


def test_a_key_never_changes():
    # A run of an older version must resume with the same augmentations: these numbers are part of the format.
    assert key(42, "augmentation", 3, 7) == 10530688480403051237
    assert key(0, "order", 0) == 12174131014002871997


def test_each_part_of_a_place_matters():
    places = [
        key(seed, purpose, epoch, index)
        for seed in (-1, 0, 1, 2**63 - 1)
        for purpose in ("split", "order", "augmentation", "mixing")
        for epoch in range(6)
        for index in range(6)
    ]
    places += [key(0, "order"), key(0, "order", 0)]
    assert len(set(places)) == len(places)
    assert all(0 <= place < 2**64 for place in places)
    assert max(places) > 2**63, "the upper bits are used"


def test_a_generator_uses_all_bits_of_its_key(monkeypatch):
    from orthostream.data import keys

    drawn = []
    for made in (5, 5 + 2**32, 5 + 2**63):
        monkeypatch.setattr(keys, "key", lambda *place, made=made: made)
        drawn.append(generator(0, "order").random())
    assert len(set(drawn)) == 3


def test_a_seed_of_more_than_64_bits_is_refused():
    with pytest.raises(UsageError, match="64 bits"):
        key(2**63, "order", 0)
