"""The Auto classes of transformers learn the model types, and with which processors their inputs are made."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    ViTImageProcessor,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from orthostream.hub.configuration import OrthoLlamaConfig, OrthoViTConfig
from orthostream.hub.llama import OrthoLlamaForCausalLM, OrthoLlamaModel
from orthostream.hub.vit import OrthoViTForImageClassification, OrthoViTModel


def register() -> None:
    """Register both model types; a second call changes nothing."""
    for config in (OrthoViTConfig, OrthoLlamaConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(OrthoViTConfig, OrthoViTModel, exist_ok=True)
    AutoModel.register(OrthoLlamaConfig, OrthoLlamaModel, exist_ok=True)
    AutoModelForImageClassification.register(OrthoViTConfig, OrthoViTForImageClassification, exist_ok=True)
    AutoModelForCausalLM.register(OrthoLlamaConfig, OrthoLlamaForCausalLM, exist_ok=True)
    # For folders whose preprocessor or tokenizer names no class of its own.
    AutoImageProcessor.register(
        OrthoViTConfig,
        image_processor_classes={"torchvision": ViTImageProcessor, "pil": ViTImageProcessorPil},
        exist_ok=True,
    )
    AutoTokenizer.register(OrthoLlamaConfig, tokenizer_class=PreTrainedTokenizerFast, exist_ok=True)
