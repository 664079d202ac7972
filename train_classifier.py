"""The authors' command line: their flags, translated into a recipe and trained by ``orthostream train``.

example:
  torchrun --nproc-per-node 2 train_classifier.py --config_file recipes/vit_s_cifar10.yaml --orthogonal_residual
"""

import logging
import sys

from orthostream.authors import translate
from orthostream.build import TABLES
from orthostream.cli import guarded
from orthostream.cli.running import run_recipe


def main() -> int:
    """Translate the arguments and train."""
    translation = translate(sys.argv[1:], TABLES)
    if translation.debug:
        logging.basicConfig(level=logging.DEBUG)
    return run_recipe(
        translation.resolved,
        run_dir=translation.run_dir or translation.new_folder,
        resume=translation.resume,
        overwrite=translation.overwrite,
    )


if __name__ == "__main__":
    sys.exit(guarded(main))
