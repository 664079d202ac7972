"""The common tests of transformers on tiny models of both families, with the projection and with several streams."""

import unittest
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar
from unittest import mock

import pytest
import torch

from hub.common import library, tiny
from hub.common.exclusions import LLAMA, VIT, Exclusion, lifted
from orthostream.hub import (
    OrthoLlamaConfig,
    OrthoLlamaForCausalLM,
    OrthoLlamaModel,
    OrthoViTConfig,
    OrthoViTForImageClassification,
    OrthoViTModel,
)

if reason := library.reason_to_skip():
    pytest.skip(reason, allow_module_level=True)

pytestmark = pytest.mark.slow

modeling = library.module("test_modeling_common")
configuration = library.module("test_configuration_common")
training = library.module("test_training_mixin")
tensor_parallel = library.module("test_tensor_parallel_mixin")
fsdp = library.module("test_fsdp_mixin")

# Otherwise these run for a few types of the library's own models alone.
tensor_parallel.TP_DISTRIBUTED_TEST_MODEL_TYPES = fsdp.FSDP_DISTRIBUTED_TEST_MODEL_TYPES = None
# Several processes may share a core.
fsdp._get_available_fsdp_workers = lambda: 8

# The tests know what a class is for by its name in these tables. The library's own tables are not touched.
for table, model in (
    ("MODEL_MAPPING_NAMES", OrthoViTModel),
    ("MODEL_MAPPING_NAMES", OrthoLlamaModel),
    ("MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES", OrthoViTForImageClassification),
    ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", OrthoLlamaForCausalLM),
):
    setattr(modeling, table, getattr(modeling, table) | {model.config_class.model_type: model.__name__})

STREAMS = {"residual_connection": "hyper_connections", "residual_options": {"streams": 2}}


class CommonTester:
    """What the common tests ask about a model, of both families."""

    batch_size, is_training = tiny.BATCH, True
    num_hidden_layers, hidden_size, num_attention_heads = 2, 32, 4

    def __init__(self, changes: dict[str, Any]) -> None:
        self.changes = changes


class ViTTester(CommonTester):
    image_size, patch_size = tiny.IMAGE, tiny.PATCH
    seq_length = 1 + (tiny.IMAGE // tiny.PATCH) ** 2

    def get_config(self) -> OrthoViTConfig:
        return tiny.vit_config(**self.changes)

    def prepare_config_and_inputs_for_common(self) -> tuple[OrthoViTConfig, dict[str, Any]]:
        return self.get_config(), {"pixel_values": tiny.images()}


class LlamaTester(CommonTester):
    seq_length = tiny.TOKENS
    causal_lm_class = OrthoLlamaForCausalLM

    def get_config(self) -> OrthoLlamaConfig:
        return tiny.llama_config(**self.changes)

    def prepare_config_and_inputs_for_common(self) -> tuple[OrthoLlamaConfig, dict[str, Any]]:
        ids = tiny.tokens()
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def excluded(test: Callable[[Any], None], exclusion: Exclusion) -> Callable[[Any], None]:
    """The test, which must fail as its exclusion says, and must pass without the refusal that is its cause."""

    def still_excluded(self: unittest.TestCase) -> None:
        # an error inside a part of a test would be reported, not raised
        whole = mock.patch.object(self, "subTest", lambda *_, **__: nullcontext())
        with whole, pytest.raises(Exception, match=exclusion.words):
            test(self)
        if exclusion.refusal:
            with lifted(exclusion.refusal):
                test(self)

    return still_excluded


class CommonTests(modeling.ModelTesterMixin):
    """What both families add to the library's tests of models."""

    changes: ClassVar[dict[str, Any]] = {}
    exclusions: ClassVar[dict[str, Exclusion]] = {}
    # Otherwise left out for files of configs without a year of copyright.
    test_can_init_all_missing_weights_before_2023 = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, exclusion in cls.__dict__.get("exclusions", {}).items():
            setattr(cls, name, excluded(getattr(cls, name), exclusion))

    def test_config(self) -> None:
        self.config_tester.run_common_tests()


class OrthoViTTest(CommonTests, unittest.TestCase):
    all_model_classes = (OrthoViTModel, OrthoViTForImageClassification)
    exclusions = VIT

    def setUp(self) -> None:
        self.model_tester = ViTTester(self.changes)
        self.config_tester = configuration.ConfigTester(
            self, OrthoViTConfig, has_text_modality=False, hidden_size=32, **self.changes
        )


class OrthoViTStreamsTest(OrthoViTTest):
    changes = STREAMS


class OrthoLlamaTest(
    fsdp.FSDPTesterMixin,
    tensor_parallel.TensorParallelTesterMixin,
    training.TrainingTesterMixin,
    CommonTests,
    unittest.TestCase,
):
    all_model_classes = (OrthoLlamaModel, OrthoLlamaForCausalLM)
    exclusions = LLAMA
    model_tester = None

    def setUp(self) -> None:
        self.model_tester = LlamaTester(self.changes)
        self.config_tester = configuration.ConfigTester(self, OrthoLlamaConfig, hidden_size=32, **self.changes)


class OrthoLlamaStreamsTest(OrthoLlamaTest):
    changes = STREAMS
