"""OrthoViT: the saved models of the authors, and what users expect of a model of transformers."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import Trainer, TrainingArguments, ViTForImageClassification, ViTImageProcessor, pipeline

import golden
from locations import GOLDEN
from orthostream import analysis, connections
from orthostream.errors import UsageError
from orthostream.hub import OrthoViTConfig, OrthoViTForImageClassification, OrthoViTModel

FOLDER = GOLDEN / "ortho" / "hf_vit"
CASES = ("linear", "feature", "global", "global_dim1", "feature_affine_gelu")
# Files of the plain ViT and of ours hold the same weights; sums run in another order.
ROUNDING = {"atol": 1e-6, "rtol": 0.0}


def make(**changes: Any) -> OrthoViTForImageClassification:
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    options = {"image_size": 16, "patch_size": 4, "num_labels": 5, "residual_connection": "orthogonal"}
    # A wide initialisation, so that the blocks do more than nothing.
    return OrthoViTForImageClassification(OrthoViTConfig(**{"initializer_range": 0.2} | sizes | options | changes))


def moved(model: OrthoViTForImageClassification) -> OrthoViTForImageClassification:
    """The model with all parameters off their first values, at which some connections do nothing."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def images(count: int = 3, side: int = 16) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def saved(case: str, **options: Any) -> OrthoViTForImageClassification:
    return OrthoViTForImageClassification.from_pretrained(FOLDER / case, **options)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, attention: str) -> None:
    tensors, _ = golden.load("ortho/hf_vit/io")
    model = saved(case, attn_implementation=attention)
    with torch.no_grad():
        outputs = model(tensors["pixel_values"], labels=tensors["labels"], output_hidden_states=True)
    got = {
        "logits": outputs.logits,
        "loss": outputs.loss.reshape(1),
        "hidden_0": outputs.hidden_states[0],
        "hidden_last": outputs.hidden_states[-1],
    }
    assert len(outputs.hidden_states) == model.config.num_hidden_layers + 1
    for name, tensor in got.items():
        golden.compare(tensor, tensors[f"{case}.{name}"], atol=3e-5, rtol=0.0, what=f"{case}.{name}")


def test_cases_differ() -> None:
    tensors, _ = golden.load("ortho/hf_vit/io")
    assert (tensors["feature.logits"] - tensors["global_dim1.logits"]).abs().max() > 0.01
    assert (tensors["feature.logits"] - tensors["linear.logits"]).abs().max() > 0.01


def test_linear_is_the_librarys_own_vit() -> None:
    # The library fills the norms that our file does not hold with ones and zeros, which is what they are here.
    theirs = ViTForImageClassification.from_pretrained(FOLDER / "linear")
    ours = saved("linear")
    for side in (16, 24):
        x = images(side=side)
        with torch.no_grad():
            got = ours(x, interpolate_pos_encoding=True).logits
            torch.testing.assert_close(got, theirs(x, interpolate_pos_encoding=True).logits, **ROUNDING)


def test_images_of_another_size_need_to_be_asked_for() -> None:
    model = saved("feature")
    with pytest.raises(ValueError, match="24"):
        model(images(side=24))
    at_home = model(images()).logits
    torch.testing.assert_close(model(images(), interpolate_pos_encoding=True).logits, at_home, **ROUNDING)


def test_attention_weights() -> None:
    model = saved("feature", attn_implementation="eager")
    weights = model(images(), output_attentions=True).attentions
    assert [tuple(each.shape) for each in weights] == [(3, 3, 17, 17)] * 2
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(3, 3, 17))
    model.set_attn_implementation("sdpa")
    with pytest.raises(UsageError, match="set_attn_implementation"):
        model(images(), output_attentions=True)


def test_outputs_as_a_tuple() -> None:
    model = saved("feature")
    (logits,) = model(images(), return_dict=False)
    assert torch.equal(logits, model(images()).logits)


@pytest.mark.parametrize("name", connections.names())
def test_gradient_checkpointing_keeps_the_gradients(name: str) -> None:
    model = moved(make(residual_connection=name, hidden_dropout_prob=0.1)).train()
    checkpointed = copy.deepcopy(model)
    checkpointed.gradient_checkpointing_enable()
    labels = torch.tensor([0, 1, 2])
    for each in (model, checkpointed):
        torch.manual_seed(2)
        each(images(), labels=labels).loss.backward()
    for (key, first), second in zip(model.named_parameters(), checkpointed.parameters(), strict=True):
        assert (first.grad is None) == (second.grad is None), key
        assert first.grad is None or torch.equal(first.grad, second.grad), key
    assert checkpointed.vit.embeddings.patch_embeddings.projection.weight.grad.abs().sum() > 0


def test_loss_of_the_three_problems() -> None:
    x = images()
    classes = torch.tensor([0, 1, 2])
    several = torch.tensor([[1.0, 0, 0, 1, 0]] * 3)
    for problem, labels, expected in (
        ("single_label_classification", classes, functional.cross_entropy),
        ("multi_label_classification", several, functional.binary_cross_entropy_with_logits),
        ("regression", several * 3, functional.mse_loss),
    ):
        outputs = make(problem_type=problem)(x, labels=labels)
        torch.testing.assert_close(outputs.loss, expected(outputs.logits, labels))


def test_model_without_a_head() -> None:
    model = OrthoViTModel(make().config).eval()
    outputs = model(images())
    assert outputs.last_hidden_state.shape == (3, 17, 24) and outputs.pooler_output.shape == (3, 24)
    assert make(num_labels=0)(images()).logits.shape == (3, 24)


def test_eps_of_the_final_norm() -> None:
    assert make(layer_norm_eps=1e-6).vit.layernorm.eps == 1e-6
    model = make(layer_norm_eps=1e-6, final_layer_norm_eps=1e-5)
    assert model.vit.layernorm.eps == 1e-5 and model.vit.encoder.layer[0].layernorm_before.eps == 1e-6


@pytest.mark.parametrize("name", connections.names())
def test_every_connection_is_kept_by_a_round_trip(name: str, tmp_path: Path) -> None:
    model = moved(make(residual_connection=name)).eval()
    model.save_pretrained(tmp_path)
    again = OrthoViTForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(again(images()).logits, model(images()).logits)


def test_streams_begin_and_end_inside_the_trunk() -> None:
    options = {"streams": 3, "dynamic": False}
    plain = make(residual_connection="linear").eval()
    model = make(residual_connection="hyper_connections", residual_options=options).eval()
    model.load_state_dict(plain.state_dict() | {k: v for k, v in model.state_dict().items() if "connection" in k})
    outputs = model(images(), output_hidden_states=True)
    assert [each.ndim for each in outputs.hidden_states] == [3, 4, 3]
    # At their start the three streams are equal and end as their sum, a factor that the final norm removes.
    torch.testing.assert_close(outputs.logits, plain(images()).logits, atol=1e-5, rtol=0.0)


def test_options_reach_the_connection() -> None:
    dial = make(residual_options={"strength": 0.0}).eval()
    plain = make(residual_connection="linear").eval()
    torch.testing.assert_close(dial(images()).logits, plain(images()).logits, **ROUNDING)
    assert not torch.allclose(make().eval()(images()).logits, plain(images()).logits, atol=1e-3)


def test_recordings_listen() -> None:
    model = saved("feature")
    with analysis.record(model) as recording, torch.no_grad():
        model(images())
    assert len(recording.table()) == 2 * model.config.num_hidden_layers


def test_a_compiled_model_agrees() -> None:
    model = saved("feature")
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images()).logits, model(images()).logits, atol=1e-5, rtol=0.0)


def test_autocast_agrees_to_half_precision() -> None:
    model = make().eval()
    with torch.no_grad():
        wide = model(images()).logits
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(images(), output_hidden_states=True)
    assert {each.dtype for each in outputs.hidden_states} == {torch.float32}
    torch.testing.assert_close(outputs.logits.float(), wide, atol=0.04 * wide.abs().max().item(), rtol=0.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"residual_perturbation": 0.1}, "residual_perturbation=0.1"),
        ({"residual_connection": "orthogonl"}, "did you mean orthogonal"),
        ({"orthogonal_method": "globl"}, "did you mean global"),
        ({"residual_conection": "orthogonal"}, "residual_connection"),
        ({"residual_connection_dim": 0}, "batch"),
        ({"residual_connection_dim": 3}, "no axis"),
        ({"residual_options": {"eps": 1e-3}}, "residual_eps"),
        ({"residual_options": {"strenght": 1.0}}, "strength"),
        ({"residual_connection": "rezero", "residual_eps": 1e-3}, "residual_options"),
        ({"num_attention_heads": 5}, "num_attention_heads=5"),
    ],
)
def test_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make(**changes)


def test_old_spellings() -> None:
    config = OrthoViTConfig(residual_connection="identity", orthogonal_method="channel", auto_map={"AutoModel": "x.Y"})
    assert (config.residual_connection, config.orthogonal_method) == ("linear", "feature")
    assert "auto_map" not in config.to_dict()


class Pictures(torch.utils.data.Dataset):
    """Noise whose mean says the class."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> dict[str, Any]:
        noise = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(index))
        return {"pixel_values": noise + 2 * (index % 2) - 1, "labels": index % 2}


def test_trainer_learns(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="the Trainer of transformers needs accelerate")
    model = make(num_labels=2)
    arguments = TrainingArguments(
        output_dir=tmp_path,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        max_steps=12,
        learning_rate=1e-3,
        logging_steps=1,
        save_steps=12,
        report_to=[],
        use_cpu=True,
        gradient_checkpointing=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Pictures(), eval_dataset=Pictures())
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    assert after < before / 2
    again = OrthoViTForImageClassification.from_pretrained(tmp_path / "checkpoint-12")
    x = torch.stack([Pictures()[index]["pixel_values"] for index in range(4)])
    assert torch.equal(again(x).logits, model.eval()(x).logits)


def test_pipeline_classifies(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    names = {index: f"class {index}" for index in range(5)}
    model = make(id2label=names, label2id={name: index for index, name in names.items()}).eval()
    model.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    picture = image.new("RGB", (40, 30), (200, 40, 90))
    found = pipeline("image-classification", model=str(tmp_path), device="cpu")(picture, top_k=5)
    pixels = ViTImageProcessor(size={"height": 16, "width": 16})(picture, return_tensors="pt").pixel_values
    expected = model(pixels).logits.softmax(-1)[0]
    assert {row["label"]: row["score"] for row in found} == pytest.approx(
        {names[index]: expected[index].item() for index in range(5)}, abs=1e-6
    )
