"""A configuration file in Python: ViT-S on CIFAR-10, its learning rate scaled with the batch.

A Python file is run as code and only when its path is given; what is stored with the run is the resolved YAML.

    orthostream train examples/vit_s_cifar10.py data.source=PATH_TO_CIFAR10 --run-dir runs/vit_s
    torchrun --nproc-per-node 2 train_classifier.py --config_file examples/vit_s_cifar10.py --data_dir PATH_TO_CIFAR10
"""

BATCH_SIZE = 256


def recipe():
    """The values of recipes/vit_s_cifar10.yaml at another batch size."""
    return {
        "description": f"ViT-S on CIFAR-10 at batch size {BATCH_SIZE}",
        "model": "vit_s",
        "connection": "orthogonal",
        "data": {"name": "cifar10", "workers": 1},
        "augment": {
            "randaugment_n": 9,
            "randaugment_m": 5,
            "random_erase": 0.25,
            "mix_probability": 1.0,
            "mixup_alpha": 0.8,
            "cutmix_alpha": 1.0,
            "label_smoothing": 0.1,
        },
        "optimizer": {"name": "adam", "lr": 1e-3 * BATCH_SIZE / 1024, "weight_decay": 1e-4},
        "schedule": {"kind": "cosine", "warmup_epochs": 10},
        "train": {"epochs": 300, "batch_size": BATCH_SIZE},
        "statistics": {"interval": 10},
        "log": {"interval": 10},
    }
