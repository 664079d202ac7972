"""Run folders as the trainer writes them, with invented numbers that look like training."""

import json
import math
import random
from pathlib import Path

METRICS = ("x_norm2", "f_par_norm2", "f_ortho_norm2", "rho_par", "rho_ortho", "cos_x_out")
# How the stream ends in the paper's figures: linear streams shrink late, orthogonal ones level off high.
LATE_NORM = {"linear": 180.0, "orthogonal": 650.0}
ACCURACY = {"linear": 0.885, "orthogonal": 0.893}

RECIPE = """\
# resolved recipe; each line says where its value came from
description: a small ViT on digits  # recipes/demo.yaml:1
seed: {seed}  # command line
model:
  name: vit_s  # recipes/demo.yaml:4
  depth: {depth}  # recipes/demo.yaml:5
connection:
  name: {connection}  # command line
data:
  name: digits  # default
train:
  epochs: {epochs}  # recipes/demo.yaml:9
log:
  interval: 50  # default
"""

VERSIONS = {
    "orthostream": "0.1.0", "python": "3.11.9", "torch": "2.15.0", "cuda": None, "device": "cpu",
    "device_name": "AMD EPYC 7R13 Processor", "threads": 2, "platform": "Linux-6.1-x86_64",
}  # fmt: skip


def write_run(
    folder: Path,
    connection: str = "linear",
    seed: int = 0,
    *,
    epochs: int = 12,
    depth: int = 4,
    kinds: tuple[str, ...] = ("attn", "mlp"),
    finished: bool = True,
    statistics: bool = True,
    steps_per_epoch: int = 20,
) -> Path:
    """Write one run; two calls with the same arguments write the same files, but for nothing."""
    folder.mkdir(parents=True)
    draw = random.Random(f"{connection}{seed}")
    recipe = RECIPE.format(seed=seed, connection=connection, epochs=epochs, depth=depth)
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    (folder / "versions.json").write_text(json.dumps(VERSIONS), encoding="utf-8")
    luck = draw.gauss(0, 0.003)
    rows: list[dict[str, object]] = []
    final: dict[str, float] = {}
    for epoch in range(epochs if finished else epochs // 2):
        step = (epoch + 1) * steps_per_epoch
        progress = (epoch + 1) / 12
        loss = 0.3 + 2 * math.exp(-3 * progress) + draw.gauss(0, 0.02)
        norm = 1.3 + 2 * math.exp(-4 * progress) + draw.gauss(0, 0.1)
        rows.append({"kind": "train", "step": step, "epoch": epoch, "train/loss": loss, "train/lr": 1e-3,
                     "train/grad/global_norm": norm, "train/samples_per_sec": 800.0})  # fmt: skip
        if statistics:
            rows.append(
                {"kind": "statistics", "step": step, "epoch": epoch} | stream(connection, progress, depth, kinds, draw)
            )
        top1 = ACCURACY.get(connection, 0.88) * (1 - math.exp(-4 * progress)) + luck + draw.gauss(0, 0.004)
        final = {"train/epoch_loss": loss, "val/loss": loss * 0.9 + 0.1, "val/acc@1": top1,
                 "val/acc@5": min(1.0, top1 + 0.1), "val/n": 360}  # fmt: skip
        rows.append({"kind": "epoch", "step": step, "epoch": epoch, **final})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    if finished:
        best = max((row for row in rows if row["kind"] == "epoch"), key=lambda row: row["val/acc@1"])
        result = {
            "finished": True, "steps": epochs * steps_per_epoch, "epochs": epochs, "final": final,
            "best": {"val/acc@1": best["val/acc@1"], "epoch": best["epoch"]},
            "seconds": 21.0 + 2 * (connection != "linear") + draw.gauss(0, 0.5), "parameters": 812_042,
        }  # fmt: skip
        (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return folder


def stream(
    connection: str, progress: float, depth: int, kinds: tuple[str, ...], draw: random.Random
) -> dict[str, float]:
    values: dict[str, float] = {}
    late = LATE_NORM.get(connection, 300.0)
    for block in range(depth):
        for place, kind in enumerate(kinds):
            rise = (block + 0.5 * place + 0.3) / depth
            norm = 30 + rise * (late + 500 * math.exp(-6 * (progress - 0.35) ** 2)) * (1 - math.exp(-9 * progress))
            norm *= math.exp(draw.gauss(0, 0.06))
            parallel = 0.02 * norm * (0.2 if connection == "linear" else 1) * math.exp(draw.gauss(0, 0.2))
            orthogonal = 0.3 * norm * math.exp(draw.gauss(0, 0.1))
            numbers = (norm, parallel, orthogonal, parallel / norm, orthogonal / norm,
                       -math.sqrt(parallel / (parallel + orthogonal)))  # fmt: skip
            for name, number in zip(METRICS, numbers, strict=True):
                values[f"activation/{kind}/block{block:02d}/{name}"] = number
    for metric in METRICS:
        per_site = [value for key, value in values.items() if key.endswith(f"/{metric}") and "/block" in key]
        values[f"activation/all/mean/{metric}"] = sum(per_site) / len(per_site)
    return values
