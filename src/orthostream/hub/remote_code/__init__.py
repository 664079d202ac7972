"""Code that lies inside an exported folder, for people who load it without orthostream.

The two files of the model import torch and the base classes of transformers and nothing else, and compute the linear
and the orthogonal connection by the plain formula. What they do not implement they refuse. They are ordinary modules
here, so that they are checked and tested like all others, and are copied into the folder unchanged.
"""

CONFIGURATION, MODELLING = "configuration_ortho_vit", "modeling_ortho_vit"

AUTO_MAP = {
    "AutoConfig": f"{CONFIGURATION}.OrthoViTConfig",
    "AutoModelForImageClassification": f"{MODELLING}.OrthoViTForImageClassification",
}
