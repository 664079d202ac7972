"""Common tests of transformers that our models do not pass as they stand, each with its reason.

No entry switches a test off. An excluded test runs, and must fail with the words that its entry gives. Where a refusal
of ours is the cause, it runs once more with that refusal lifted, and must pass.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from unittest import mock

from orthostream.hub.loading import StrictLoading

Refusal = Literal["strict loading", "lost weights"]


@dataclass(frozen=True)
class Exclusion:
    """Why a test is excluded.

    Args:
        reason: for the reader.
        words: a regular expression found in the test's error.
        refusal: of ours, without which the test passes.
    """

    reason: str
    words: str
    refusal: Refusal | None = None


STRICT = "loads a file that lacks weights of the class, or has others, which is refused unless `strict=False`"
LOST = "asks fused attention for its weights, which is refused instead of answered without them"

LOADING = {
    "test_base_model_prefix_loads_base_weights": Exclusion(STRICT, "missing in the file", "strict loading"),
    "test_can_init_all_missing_weights": Exclusion(STRICT, "missing in the file", "strict loading"),
    "test_correct_missing_keys": Exclusion(STRICT, "missing in the file", "strict loading"),
    "test_model_weights_reload_no_missing_tied_weights": Exclusion(STRICT, "missing in the file", "strict loading"),
}
WEIGHTS = {
    "test_capture_outputs_decorator": Exclusion(LOST, "needs eager attention", "lost weights"),
    "test_model_outputs_equivalence": Exclusion(LOST, "needs eager attention", "lost weights"),
}
SHAPES = Exclusion(
    "expects `RuntimeError` where shapes differ; ours is `UsageError`, which names the weights",
    "of another shape",
    "strict loading",
)
VIT = (
    LOADING
    | WEIGHTS
    | {
        "test_can_load_ignoring_mismatched_shapes": SHAPES,
        "test_model_get_set_embeddings": Exclusion(
            "expects a table of words; the input embedding of a ViT is a convolution", "not an instance of .*Embedding"
        ),
        "test_resize_tokens_embeddings": Exclusion("a ViT has no words", "vocab_size"),
    }
)
LLAMA = (
    LOADING
    | WEIGHTS
    | {
        "test_eager_matches_sdpa_inference_24_fp32_pad_left_output_attentions": Exclusion(
            LOST, "needs eager attention", "lost weights"
        ),
        "test_generation_tester_mixin_inheritance": Exclusion(
            "demands the tests of generation, which the source distribution leaves out", "GenerationTesterMixin"
        ),
    }
)


@contextmanager
def lifted(refusal: Refusal) -> Iterator[None]:
    """A refusal of ours does not happen."""
    with ExitStack() as patches:
        if refusal == "lost weights":
            for family in ("vit", "llama"):
                patches.enter_context(mock.patch(f"orthostream.hub.{family}.refuse_lost_weights"))
        else:
            patches.enter_context(mock.patch.object(StrictLoading, "from_pretrained", classmethod(_lenient)))
        yield


_strict = StrictLoading.__dict__["from_pretrained"].__func__


def _lenient(cls: Any, *arguments: Any, **options: Any) -> Any:
    return _strict(cls, *arguments, **options | {"strict": False})
