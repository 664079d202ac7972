"""Evaluation of Hugging Face models: the protocol's transform, exact counts, and data that does not fit refused."""

import io
import json
import shutil
import socket
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load_file, save_file
from torchvision import transforms as plain
from transformers import (
    AutoImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)

from locations import GOLDEN, data_folder
from orthostream import data
from orthostream.cli import main
from orthostream.data import hub
from orthostream.errors import UsageError
from orthostream.hub import OrthoViTConfig, OrthoViTForImageClassification
from orthostream.hub import evaluation as published
from orthostream.layouts.model_folder import read_folder
from orthostream.layouts.ortho_vit import from_hub
from orthostream.layouts.run_checkpoint import write_checkpoint

GOLDEN_MODEL = GOLDEN / "ortho" / "hf_vit" / "feature"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """34 images of 5 classes, as class folders without a training split, tar shards and parquet of the same bytes."""
    root, members = tmp_path_factory.mktemp("images"), []
    rows: dict[str, list[object]] = {"image": [], "label": []}
    for index in range(34):
        pixels = np.random.default_rng(index).integers(0, 256, (20 + index % 3, 24, 3), dtype=np.uint8)
        held = io.BytesIO()
        Image.fromarray(pixels).save(held, "PNG")
        path = root / "val" / f"c{index % 5}" / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(held.getvalue())
        rows["image"].append({"bytes": held.getvalue(), "path": path.name})
        rows["label"].append(index % 5)
        members += [(f"{index:02d}.png", held.getvalue()), (f"{index:02d}.cls", str(index % 5).encode())]
    for part, name in enumerate(("parquet", "named")):
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": [*"abcde"]}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})} if part else None
        (root / name / "data").mkdir(parents=True)
        table = pyarrow.table(rows).replace_schema_metadata(metadata)
        parquet.write_table(table[:20], root / name / "data" / "validation-00000-of-00002.parquet", row_group_size=7)
        parquet.write_table(table[20:], root / name / "data" / "validation-00001-of-00002.parquet")
    (root / "wds").mkdir()
    for shard, part in enumerate((members[:40], members[40:])):
        with tarfile.open(root / "wds" / f"val-{shard:06d}.tar", "w") as opened:
            for name, content in part:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                opened.addfile(entry, io.BytesIO(content))
    return root


def evaluated(tmp_path: Path, *arguments: object) -> dict[str, object]:
    """The JSON that the command writes."""
    out = tmp_path / "result.json"
    assert main(["evaluate", *map(str, arguments), "--device", "cpu", "--json", str(out)]) == 0
    return json.loads(out.read_text())


def test_counts_are_those_of_the_protocol_written_out(images: Path, tmp_path: Path, capsys) -> None:
    result = evaluated(tmp_path, GOLDEN_MODEL, "--data", images, "--per-class")
    said = capsys.readouterr()
    model = OrthoViTForImageClassification.from_pretrained(GOLDEN_MODEL)
    transform = plain.Compose(
        [
            plain.Resize(16, plain.InterpolationMode.BICUBIC),
            plain.CenterCrop(16),
            plain.ToTensor(),
            plain.Normalize(MEAN, STD),
        ]
    )
    paths = sorted((images / "val").rglob("*.png"))
    labels = torch.tensor([int(path.parent.name[1:]) for path in paths])
    with torch.no_grad():
        logits = model(torch.stack([transform(Image.open(path)) for path in paths])).logits
    confusion = torch.zeros(5, 5, dtype=torch.int64)
    for label, guess in zip(labels, logits.argmax(1), strict=True):
        confusion[label, guess] += 1
    # A model that says one class whatever it sees would hide a wrong transform.
    assert logits.argmax(1).unique().numel() > 1
    assert (result["n"], result["k"]) == (34, 5)
    assert result["confusion"] == confusion.tolist() and result["top1"] == int(confusion.trace())
    expected = torch.nn.functional.cross_entropy(logits.double(), labels)
    # The order of sums inside batches of other sizes.
    assert result["loss"] == pytest.approx(float(expected), rel=1e-5)
    assert "n 34  top-1" in said.out and "LABEL_4" in said.out
    assert "no preprocessor_config.json: the default of imagenet at 16 pixels" in said.err


def test_folders_and_shards_agree(images: Path, tmp_path: Path) -> None:
    sources = (images, images / "val", images / "wds", images / "parquet", images / "named")
    results = [evaluated(tmp_path, GOLDEN_MODEL, "--data", source, "--per-class") for source in sources]
    losses = [result.pop("loss") for result in results]
    assert all(result == results[0] for result in results) and results[0]["n"] == 34
    # Samples come in another order.
    assert losses == pytest.approx([losses[0]] * 5, rel=1e-6)


def test_a_checkpoint_of_ours_counts_as_its_published_form(images: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "ours", from_hub(*read_folder(GOLDEN_MODEL)))
    for source in (images / "wds", images / "parquet", images / "named"):
        ours, theirs = (
            evaluated(tmp_path, model, "--data", source, "--per-class") for model in (tmp_path / "ours", GOLDEN_MODEL)
        )
        # float32 rounding of two ways to the same logits
        assert ours.pop("loss") == pytest.approx(theirs.pop("loss"), rel=1e-5)
        assert ours == theirs and ours["n"] == 34


def test_parquet_of_other_classes_is_refused_where_it_names_them(tmp_path: Path, images: Path, capsys) -> None:
    held = parquet.read_table(images / "named" / "data" / "validation-00001-of-00002.parquet")
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": [*"abcdef"]}}
    six = held.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    few = held.filter(pyarrow.compute.less(held["label"], 3)).replace_schema_metadata(None)
    for name, table, code in (("six", six, 2), ("few", few, 0)):
        parquet.write_table(table, tmp_path / f"{name}.parquet")
        assert main(["evaluate", str(GOLDEN_MODEL), "--data", str(tmp_path / f"{name}.parquet")]) == code
    said = capsys.readouterr().err
    assert "'shards' has 6 classes, and" in said and "has 5 classes; labels are matched by index" in said
    assert "few.parquet names no classes" in said and "labels reach 2; the model has 5 classes" in said


def test_the_preprocessor_of_the_folder_is_used(images: Path, tmp_path: Path, capsys) -> None:
    folder = shutil.copytree(GOLDEN_MODEL, tmp_path / "model")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    evaluated(tmp_path, folder, "--data", images)
    assert "transform: preprocessor_config.json" in capsys.readouterr().err
    opened = published.open_published(str(folder))
    splits = published.open_data("folder", str(images), 16)
    transform, _ = published.transform_of(opened, splits.description)
    image = splits.evaluation.image(3)
    expected = AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(transform(image), expected)
    assert expected.min() >= -1 and not torch.equal(
        expected, published.evaluation_transform(splits.description, "vit")(image)
    )


def test_a_preprocessor_that_does_not_fit_the_model_is_refused(images: Path, tmp_path: Path, capsys) -> None:
    folder = shutil.copytree(GOLDEN_MODEL, tmp_path / "model")
    ViTImageProcessor(size={"height": 32, "width": 16}).save_pretrained(folder)
    assert main(["evaluate", str(folder), "--data", str(images)]) == 2
    assert "makes images [3, 32, 16], and the model takes [3, 16, 16]" in capsys.readouterr().err


def test_autocast_is_used(images: Path, tmp_path: Path) -> None:
    full, half = (evaluated(tmp_path, GOLDEN_MODEL, "--data", images, "--amp", amp) for amp in ("none", "bfloat16"))
    assert full["n"] == half["n"] and full["loss"] != half["loss"]
    assert full["loss"] == pytest.approx(half["loss"], rel=0.02)


def test_a_plain_vit_of_the_library_and_grey_digits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4,
        num_channels=1, num_labels=10,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(tmp_path / "plain")
    assert evaluated(tmp_path, tmp_path / "plain", "--data", "digits")["n"] == 360


def edited(tmp_path: Path, **keys: object) -> Path:
    """The golden model with other keys in its config."""
    folder = shutil.copytree(GOLDEN_MODEL, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | keys
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "digits"), "'digits' has 10 classes, and MODEL has 5 classes"),
        ((), "give --data"),
        (("--data", "digits", "--best"), "--best and --average choose among checkpoints"),
        (("--data", "digit"), "unknown data set 'digit': did you mean digits?"),
        (("--data", "IMAGES", "--source", "x"), "as --data alone"),
        (("--data", "IMAGES/val/c0"), "0 class folders"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message, images: Path, tmp_path: Path, capsys) -> None:
    given = [word.replace("IMAGES", str(images)) for word in arguments]
    assert main(["evaluate", str(GOLDEN_MODEL), *given]) == 2
    assert message.replace("MODEL", str(GOLDEN_MODEL)) in capsys.readouterr().err


def test_folders_of_fewer_classes_are_refused_and_shards_noted(images: Path, tmp_path: Path, capsys) -> None:
    for kind in ("c0", "c1", "c2"):
        shutil.copytree(images / "val" / kind, tmp_path / "val" / kind)
    assert main(["evaluate", str(GOLDEN_MODEL), "--data", str(tmp_path / "val")]) == 2
    assert "'folder' has 3 classes, and" in capsys.readouterr().err
    for label, code in ((3, 0), (5, 2)):
        with tarfile.open(tmp_path / f"{label}.tar", "w") as opened:
            opened.add(images / "val" / "c0" / "00.png", "x.png")
            entry = tarfile.TarInfo("x.cls")
            entry.size = 1
            opened.addfile(entry, io.BytesIO(str(label).encode()))
        assert main(["evaluate", str(GOLDEN_MODEL), "--data", str(tmp_path / f"{label}.tar")]) == code
    said = capsys.readouterr().err
    assert "labels reach 3; the model has 5 classes" in said and "'shards' has labels up to 5, and" in said


def test_channels_that_do_not_fit_are_refused(tmp_path: Path, capsys) -> None:
    config = OrthoViTConfig(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4,
        num_labels=10,
    )  # fmt: skip
    OrthoViTForImageClassification(config).save_pretrained(tmp_path / "colour")
    assert main(["evaluate", str(tmp_path / "colour"), "--data", "digits"]) == 2
    assert "have 1 channels, and" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model_type": None, "architecture": "vit_small"}, "orthostream convert"),
        ({"model_type": "no_such_model"}, "no image classifier that transformers loads"),
        ({"image_size": [16, 12]}, "of another shape"),
        ({"num_hidden_layers": 3}, "missing in the file"),
    ],
)
def test_folders_that_hold_no_such_model(keys, message, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        published.open_published(str(edited(tmp_path, **keys)))


def test_a_library_model_without_its_head_is_refused(tmp_path: Path) -> None:
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    ViTModel(ViTConfig(image_size=8, patch_size=4, **sizes), add_pooling_layer=False).save_pretrained(tmp_path / "m")
    with pytest.raises(UsageError, match=r"lacks weights of ViTForImageClassification: classifier\.bias"):
        published.open_published(str(tmp_path / "m"))


def test_a_model_that_does_not_say_its_images_is_refused(tmp_path: Path) -> None:
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], num_labels=2)
    ResNetForImageClassification(config).save_pretrained(tmp_path / "m")
    with pytest.raises(UsageError, match="has no image_size"):
        published.open_published(str(tmp_path / "m"))


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN_MODEL, tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"expected config\.json and model\.safetensors"):
        published.open_published(str(folder))


def test_weights_are_judged_in_float32(tmp_path: Path) -> None:
    folder = edited(tmp_path, torch_dtype="bfloat16")
    state = {key: value.bfloat16() for key, value in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    opened = published.open_published(str(folder))
    assert {parameter.dtype for parameter in opened.model.parameters()} == {torch.float32}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch):
    """An empty cache of the hub, and a hub that takes connections and never says a word."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "SECONDS_TO_ANSWER", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield tmp_path / "cache"


def test_a_mute_hub_is_given_up_within_seconds(cache: Path, capsys) -> None:
    begun = time.monotonic()
    assert main(["evaluate", "somebody/vit", "--data", "digits"]) == 2
    assert "as a model on the hub it is not in the cache" in capsys.readouterr().err
    # The hub's client alone tries for a minute.
    assert time.monotonic() - begun < 20


def test_a_model_and_shards_of_an_earlier_download(cache: Path, images: Path, tmp_path: Path, capsys) -> None:
    for name, source in (("models--somebody--vit", GOLDEN_MODEL), ("datasets--somebody--set", images / "wds")):
        (cache / name / "refs").mkdir(parents=True)
        (cache / name / "refs" / "main").write_text("0" * 40)
        shutil.copytree(source, cache / name / "snapshots" / ("0" * 40))
    result = evaluated(tmp_path, "somebody/vit", "--data", "somebody/set", "--per-class")
    assert result == evaluated(tmp_path, GOLDEN_MODEL, "--data", images / "wds", "--per-class")
    said = capsys.readouterr().err
    assert "somebody/vit comes from the hub's cache" in said and "somebody/set comes from the hub's cache" in said


def test_real_images_by_folder_and_by_shards_give_equal_logits() -> None:
    root = data_folder("imagenet-1k-sample")
    torch.manual_seed(0)
    config = OrthoViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=224,
        patch_size=32, num_labels=1000, residual_connection="orthogonal", initializer_range=0.3,
    )  # fmt: skip
    model = OrthoViTForImageClassification(config).eval()
    folders, shards = published.open_data("folder", str(root), 224), data.load("shards", str(root / "wds"), 224)
    transform = published.evaluation_transform(shards.description, "vit")
    # One image a class: the label is the place in the folders.
    assert len(folders.evaluation) == 1000 and len(shards.evaluation) == 120
    seen = set()
    with torch.no_grad():
        for index in range(0, 120, 8):
            batch = [(split, at) for at in range(index, index + 8) for split in ("shards", "folders")]
            labels = [shards.evaluation.label(at) for _, at in batch]
            stacked = torch.stack(
                [
                    transform(shards.evaluation.image(at) if split == "shards" else folders.evaluation.image(label))
                    for (split, at), label in zip(batch, labels, strict=True)
                ]
            )
            logits = model(stacked).logits
            assert torch.equal(stacked[0::2], stacked[1::2])
            assert torch.equal(logits[0::2].argmax(1), logits[1::2].argmax(1))
            assert [folders.evaluation.label(label) for label in labels] == labels
            seen.update(labels)
    assert len(seen) == 120
