from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orthostream import connections, models
from orthostream.authors import Translation, translate

TABLES = {"model": models.table, "connection": connections.table}


def translated(arguments: str) -> Translation:
    return translate(arguments.split(), TABLES)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ("--dataset cifar10 --preset S --orthogonal_residual", "vit-S/4_orthogonal_feature_cifar10_seed42"),
        ("--dataset cifar10 --seed 7", "vit-B/4_linear_linear_cifar10_seed7"),
        ("--dataset imagenet1k --preset H", "vit-H/16_linear_linear_imagenet1k_seed42"),
        ("", "vit-B/7_linear_linear_mnist_seed42"),
        ("--dataset cifar10 --orthogonal_method negative", "vit-B/4_linear_negative_cifar10_seed42"),
        (
            "--dataset tiny-imagenet --model resnet34 --orthogonal_residual --orthogonal_method global",
            "resnet34-B/8_orthogonal_global_tiny-imagenet_seed42",
        ),
        ("--dataset cifar10 --residual_pattern rezero", "vit-B/4_linear_linear_cifar10_seed42"),
        (
            "--dataset cifar10 --residual_pattern rezero --orthogonal_residual",
            "vit-B/4_orthogonal_feature_cifar10_seed42",
        ),
        ("--dataset cifar10 data.name=cifar100 seed=1", "vit-B/4_linear_linear_cifar100_seed1"),
    ],
)
def test_names_of_runs(arguments, name):
    assert translated(arguments).run_name == name


def test_folders_are_numbered():
    translation = translated("--dataset cifar10 --preset S --orthogonal_residual --results_dir out")
    assert translation.folder(0) == Path("out/000-vit-S-4_orthogonal_feature_cifar10_seed42")
    assert translation.folder(12).name.startswith("012-vit-S-4_")


def test_a_new_folder_has_the_number_of_those_that_are_there(tmp_path):
    translation = translated(f"--dataset cifar10 --results_dir {tmp_path}/out")
    assert [translation.new_folder().name[:3] for _ in range(3)] == ["000", "001", "002"]


def test_runs_that_start_together_get_folders_of_their_own(tmp_path):
    translation = translated(f"--dataset cifar10 --results_dir {tmp_path}/out")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: translation.new_folder(), range(40)))
    assert len(set(made)) == 40
    assert all(folder.is_dir() for folder in made)
