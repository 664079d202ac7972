"""Images in memory, augmented in whole batches on the device: the second of two pipelines with one meaning."""

from orthostream.data.batched.choose import Chosen, choose_pipeline
from orthostream.data.batched.draws import Draws
from orthostream.data.batched.loader import BatchedEvalLoader, BatchedTrainLoader
from orthostream.data.batched.pipeline import Batched, Unsupported, batched

__all__ = [
    "Batched",
    "BatchedEvalLoader",
    "BatchedTrainLoader",
    "Chosen",
    "Draws",
    "Unsupported",
    "batched",
    "choose_pipeline",
]
