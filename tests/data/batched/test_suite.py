"""The benchmark of augmentation, on a few images; nothing here looks at how long anything takes."""

import pytest
import torch

pytest.importorskip("benchmarks", reason="benchmarks stand in the repository, not in the package")

from benchmarks.cases import Setting
from benchmarks.suites import augment


@pytest.mark.parametrize("case", augment.AUGMENTATIONS, ids=lambda case: f"{case.family} {case.pipeline}")
def test_both_sides_load_whole_epochs(case, monkeypatch):
    epochs = []
    for kind in (augment.TrainLoader, augment.BatchedTrainLoader):
        load = kind.epoch
        monkeypatch.setattr(
            kind, "epoch", lambda self, epoch, load=load, kind=kind: epochs.append((kind, epoch)) or load(self, epoch)
        )
    small = augment.Augmentation(case.family, case.side, case.pipeline, count=8, batch=4, options=case.options)
    (row,) = augment.measure(small, Setting(torch.device("cpu"), rounds=2, compiles=False))
    assert row.suite == "augment" and row.rounds == 2 and row.ratio > 0 and "8 images" in row.case
    # No epoch twice: what is loaded is augmented anew.
    assert len(epochs) == len(set(epochs)) >= 4
