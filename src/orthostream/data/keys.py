"""Where all randomness of the data comes from: a key of 64 bits for each place in a run.

A key is a hash of the seed, a purpose and the place. It depends on nothing else: not on how many workers or
processes there are, nor on what ran before. This makes a resumed run see what the uninterrupted one saw.
"""

from hashlib import blake2b
from typing import Literal, TypeAlias

from orthostream.errors import UsageError, needs_extra

with needs_extra("vision"):
    import numpy as np

# "split" is the division of digits into training and evaluation; "order" of samples in an epoch;
# "augmentation" of one sample in an epoch; "mixing" of one micro-batch.
Purpose: TypeAlias = Literal["split", "order", "augmentation", "mixing"]


def key(seed: int, purpose: Purpose, *place: int) -> int:
    """Key of a place: ``blake2b(seed, place)``, a different hash for each purpose.

    Args:
        seed: of the run.
        purpose: what the key is for.
        place: epoch, step or index, in an order that the purpose fixes.

    Returns:
        An unsigned integer of 64 bits.

    Raises:
        UsageError: where the seed has more than 64 bits.
    """
    try:
        packed = b"".join(number.to_bytes(8, "little", signed=True) for number in (seed, *place))
    except OverflowError:
        raise UsageError(f"seed {seed} has more than 64 bits; give one between -2**63 and 2**63 - 1") from None
    return int.from_bytes(blake2b(packed, digest_size=8, person=purpose.encode()).digest(), "little")


def generator(seed: int, purpose: Purpose, *place: int) -> "np.random.Generator":
    """A NumPy generator for a place. Philox takes the key as it is, all 64 bits of it."""
    return np.random.Generator(np.random.Philox(key=key(seed, purpose, *place)))
