"""The smallest models that the common tests mean something on, and inputs for them."""

from typing import Any

import torch
from torch import Tensor, nn

from orthostream.hub import (
    OrthoLlamaConfig,
    OrthoLlamaForCausalLM,
    OrthoViTConfig,
    OrthoViTForImageClassification,
)

BATCH, TOKENS, WORDS, CLASSES = 3, 9, 99, 3
IMAGE, PATCH, CHANNELS = 16, 4, 3
FAMILIES = ("vit", "llama")


def vit_config(**changes: Any) -> OrthoViTConfig:
    """Two blocks with every parameter that the family can have."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
    image = {"image_size": IMAGE, "patch_size": PATCH, "num_channels": CHANNELS, "num_labels": CLASSES}
    rest = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "elementwise_affine_ln": True}
    return OrthoViTConfig(**{"residual_connection": "orthogonal"} | sizes | image | rest | changes)


def llama_config(**changes: Any) -> OrthoLlamaConfig:
    """Two blocks, two query heads for each head of keys."""
    sizes = {"vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    words = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return OrthoLlamaConfig(**{"residual_connection": "orthogonal"} | sizes | heads | words | changes)


def images(count: int = BATCH, seed: int = 1) -> Tensor:
    """[count, channels, height, width]."""
    return torch.randn(count, CHANNELS, IMAGE, IMAGE, generator=torch.Generator().manual_seed(seed))


def tokens(count: int = BATCH, length: int = TOKENS, seed: int = 1) -> Tensor:
    """[count, length], none of them padding, beginning or end."""
    return torch.randint(3, WORDS, (count, length), generator=torch.Generator().manual_seed(seed))


def model_of(family: str, seed: int = 0, **changes: Any) -> Any:
    """A model with its head, in evaluation mode, whose blocks and connections all do something."""
    torch.manual_seed(seed)
    changes = {"initializer_range": 0.2} | changes
    if family == "vit":
        model: nn.Module = OrthoViTForImageClassification(vit_config(**changes))
    else:
        model = OrthoLlamaForCausalLM(llama_config(**changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Some connections do nothing at their first values.
            if "connection" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def inputs_of(family: str, count: int = BATCH) -> dict[str, Tensor]:
    """Keywords of the model's forward."""
    return {"pixel_values": images(count)} if family == "vit" else {"input_ids": tokens(count)}


def labels_of(family: str) -> Tensor:
    """Labels for the inputs."""
    return torch.arange(BATCH) % CLASSES if family == "vit" else tokens(seed=2)
