"""Hugging Face: ViT and Llama with residual connections as transformers models, known to its Auto classes.

Importing this module registers the model types ``ortho_vit`` and ``ortho_llama``; published files load from then on
without code from their repository. Needs transformers 5, tested with 5.23.

Example::

    from orthostream.hub import OrthoViTForImageClassification

    model = OrthoViTForImageClassification.from_pretrained("BootsofLagrangian/ortho-vit-b-imagenet1k-hf")
"""

from orthostream.errors import UsageError, needs_extra

with needs_extra("hub"):
    import torchvision  # noqa: F401 - transformers would hide its absence behind stand-ins for image processors
    import transformers

if int(transformers.__version__.partition(".")[0]) < 5:
    raise UsageError(
        f"orthostream.hub needs transformers 5 or newer, found {transformers.__version__}; "
        "install it with: pip install -U 'orthostream[hub]'"
    )

from orthostream.hub.configuration import OrthoLlamaConfig, OrthoViTConfig
from orthostream.hub.llama import OrthoLlamaForCausalLM, OrthoLlamaModel
from orthostream.hub.registration import register
from orthostream.hub.vit import OrthoViTForImageClassification, OrthoViTModel

__all__ = [
    "OrthoLlamaConfig",
    "OrthoLlamaForCausalLM",
    "OrthoLlamaModel",
    "OrthoViTConfig",
    "OrthoViTForImageClassification",
    "OrthoViTModel",
]

register()
