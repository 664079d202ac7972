"""The experiments of "Orthogonalising gradients to speed up neural network optimisation".

Source of all numbers: Tuddenham, Pruegel-Bennett and Hare, arXiv:2202.07052, tables 1 to 7 and section 4: test accuracy
in percent and test loss at the last epoch, each with its standard error. ``nan`` stands where the runs diverged.
"""

from collections.abc import Iterator

from orthostream.experiments.published import Experiment, Published, Setting
from orthostream.registry import Entry

BASE = "ortho_grad_cifar10"
TUNED = "ortho_grad_resnet20_tuned"
IMAGENET = "ortho_grad_imagenet1k"
TWINS = "barlow_twins_imagenet1k"

# Every tensor with two axes or more, by a full SVD, as the official code does it.
OFFICIAL = ("optimizer.orthogonalize=paper", "optimizer.polar_method=svd", "optimizer.polar_completion=svd")
# What each column changes in the recipe; Adam's betas follow the momentum of the row.
RULES: dict[str, tuple[str, ...]] = {
    "sgdm": (),
    "orthogonal": OFFICIAL,
    "conv-only": ("optimizer.orthogonalize=conv", *OFFICIAL[1:]),
    "n-sgdm": ("optimizer.normalize=whole",),
    "cn-sgdm": ("optimizer.normalize=component",),
    "adam": ("optimizer.name=adam",),
    "orthogonal-adam": ("optimizer.name=adam", *OFFICIAL),
}
OURS = ("basic_cnn", "resnet20", "resnet44")
BATCHES = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
SMALL_BATCH_EPOCHS = 50

# Network, optimizer, accuracy with its error, loss with its error.
TABLE_1 = """
basic_cnn       sgdm             73.60  0.19      0.7603     0.0061
basic_cnn       orthogonal       76.67  0.10      0.6808     0.0038
resnet20        sgdm             79.14  0.62      0.6728     0.0301
resnet20        orthogonal       87.12  0.12      0.6766     0.0155
resnet44        sgdm             79.81  0.37      0.7000     0.0166
resnet44        orthogonal       88.12  0.20      0.7600     0.0299
resnet18        sgdm             77.01  0.21      0.9656     0.0104
resnet18        orthogonal       84.68  0.12      0.8427     0.0121
resnet34        sgdm             75.86  0.26      1.0468     0.0134
resnet34        orthogonal       85.42  0.33      0.7087     0.0165
resnet50        sgdm             67.99  0.73      1.2304     0.0462
resnet50        orthogonal       86.51  0.12      0.6797     0.0235
densenet121     sgdm             75.26  0.30      1.0027     0.0132
densenet121     orthogonal       84.34  0.15      0.8669     0.0132
densenet161     sgdm             75.81  0.20      1.1399     0.0096
densenet161     orthogonal       85.51  0.19      1.1688     0.1960
resnext50_32x4d sgdm             68.73  0.30      1.2470     0.0254
resnext50_32x4d orthogonal       86.37  0.24      0.6669     0.0223
wide_resnet50_2 sgdm             69.42  0.33      1.4141     0.0337
wide_resnet50_2 orthogonal       87.30  0.12      0.7018     0.0091
"""

# Learning rate, momentum (of Adam: beta 1), optimizer, and the same numbers; all of resnet20, beta 2 = 0.99.
TABLE_3_AND_6 = """
0.1   0.95 sgdm             83.59  2.09      0.5487     0.0913
0.1   0.95 orthogonal       85.58  0.98      0.4916     0.0420
0.1   0.95 adam             38.95  8.95      2.4148     0.7090
0.1   0.95 orthogonal-adam  76.84  1.53      0.7938     0.0663
0.01  0.95 sgdm             82.66  1.02      0.5762     0.0431
0.01  0.95 orthogonal       87.72  0.44      0.4772     0.0277
0.01  0.95 adam             74.23  2.38      0.8395     0.1079
0.01  0.95 orthogonal-adam  86.48  0.17      0.5415     0.0153
0.001 0.95 sgdm             66.59  0.44      0.9323     0.0149
0.001 0.95 orthogonal       85.88  0.33      0.4988     0.0114
0.001 0.95 adam             83.08  0.76      0.6013     0.0305
0.001 0.95 orthogonal-adam  85.12  0.06      0.5998     0.0131
0.1   0.9  sgdm             82.52  1.16      0.6089     0.0535
0.1   0.9  orthogonal       85.06  0.47      0.5370     0.0230
0.1   0.9  adam             28.26  7.16      9.0193     5.9607
0.1   0.9  orthogonal-adam  73.62  2.96      0.9803     0.1607
0.01  0.9  sgdm             79.96  0.48      0.6217     0.0194
0.01  0.9  orthogonal       87.44  0.25      0.4841     0.0087
0.01  0.9  adam             73.46  1.19      0.8898     0.0447
0.01  0.9  orthogonal-adam  85.26  0.38      0.5903     0.0201
0.001 0.9  sgdm             60.69  0.18      1.0977     0.0036
0.001 0.9  orthogonal       84.67  0.21      0.5042     0.0055
0.001 0.9  adam             83.16  0.66      0.6045     0.0312
0.001 0.9  orthogonal-adam  85.25  0.31      0.5829     0.0102
0.1   0.8  sgdm             84.16  0.43      0.5395     0.0091
0.1   0.8  orthogonal       86.01  0.74      0.5414     0.0459
0.1   0.8  adam             27.50  6.76      4.5143     1.6628
0.1   0.8  orthogonal-adam  71.88  4.25      1.0984     0.2710
0.01  0.8  sgdm             77.42  0.98      0.6669     0.0290
0.01  0.8  orthogonal       87.18  0.12      0.4940     0.0163
0.01  0.8  adam             72.60  1.76      0.8741     0.0627
0.01  0.8  orthogonal-adam  86.75  0.26      0.5114     0.0204
0.001 0.8  sgdm             53.21  0.43      1.2805     0.0106
0.001 0.8  orthogonal       82.95  0.40      0.5238     0.0034
0.001 0.8  adam             80.89  1.93      0.6950     0.0656
0.001 0.8  orthogonal-adam  85.52  0.29      0.5671     0.0088
0.1   0.5  sgdm             80.08  0.36      0.6796     0.0158
0.1   0.5  orthogonal       87.37  0.18      0.5003     0.0148
0.1   0.5  adam             18.39  4.84  15683.8300 15681.5300
0.1   0.5  orthogonal-adam  72.10  2.83      0.9481     0.1072
0.01  0.5  sgdm             68.64  1.05      0.8927     0.0304
0.01  0.5  orthogonal       86.05  0.10      0.4950     0.0121
0.01  0.5  adam             71.62  1.95      0.9594     0.0846
0.01  0.5  orthogonal-adam  84.22  0.69      0.6610     0.0285
0.001 0.5  sgdm             43.51  1.02      1.5309     0.0189
0.001 0.5  orthogonal       78.68  0.77      0.6284     0.0186
0.001 0.5  adam             81.67  1.05      0.6482     0.0511
0.001 0.5  orthogonal-adam  84.21  0.43      0.6228     0.0213
"""

# As table 1.
TABLE_4_AND_7 = """
basic_cnn       sgdm             73.68  0.27      0.7559     0.0065
basic_cnn       n-sgdm           73.72  0.45      0.7637     0.0098
basic_cnn       cn-sgdm          74.53  0.32      0.7443     0.0094
basic_cnn       orthogonal       76.75  0.23      0.6824     0.0081
resnet18        sgdm             76.83  0.22      0.9252     0.0098
resnet18        n-sgdm           78.94  0.19      0.9726     0.0214
resnet18        cn-sgdm           0.00   nan         nan        nan
resnet18        orthogonal       84.94  0.10      0.7938     0.0083
resnet50        sgdm             69.35  0.30      1.0950     0.0181
resnet50        n-sgdm           79.35  0.21      0.9454     0.0126
resnet50        cn-sgdm           0.00   nan         nan        nan
resnet50        orthogonal       86.59  0.10      0.6785     0.0076
resnet44        sgdm             79.73  1.27      0.7093     0.0678
resnet44        n-sgdm           83.60  0.77      0.7641     0.0441
resnet44        cn-sgdm          84.44  0.55      0.7902     0.0477
resnet44        orthogonal       87.49  0.39      0.7694     0.0426
densenet121     sgdm             75.45  0.20      0.9357     0.0071
densenet121     n-sgdm           79.06  0.04      1.0096     0.0167
densenet121     cn-sgdm           0.00   nan         nan        nan
densenet121     orthogonal       84.86  0.07      0.8142     0.0084
"""
TABLE_5 = """
basic_cnn       sgdm             73.60  0.19      0.7603     0.0061
basic_cnn       orthogonal       76.67  0.10      0.6808     0.0038
basic_cnn       conv-only        76.80  0.18      0.6732     0.0041
resnet34        sgdm             75.86  0.26      1.0468     0.0134
resnet34        orthogonal       85.42  0.33      0.7087     0.0165
resnet34        conv-only        85.68  0.21      0.6268     0.0105
resnet20        sgdm             79.14  0.62      0.6728     0.0301
resnet20        orthogonal       87.12  0.12      0.6766     0.0155
resnet20        conv-only        87.70  0.40      0.4824     0.0225
"""

TABLE_2 = """
resnet20        sgdm             91.17  0.28      0.4053     0.0054
resnet20        orthogonal       90.18  0.30      0.4231     0.0043
"""


def network(model: str) -> tuple[str, ...]:
    """The overrides that choose a network; torchvision's keep the 1000 logits of ImageNet, as in the paper."""
    return (f"model={model}",) if model in OURS else (f"model={model}", "model.head_classes=1000")


def by_network(text: str) -> Iterator[Setting]:
    """Cells of a table whose rows are networks in the base setting."""
    for model, rule, *numbers in map(str.split, text.strip().splitlines()):
        accuracy, loss = _published(numbers)
        overrides = (*network(model), *RULES[rule])
        yield Setting(
            row=model,
            column=rule,
            key=f"{model}-{rule}",
            recipe=BASE,
            overrides=overrides,
            accuracy=accuracy,
            loss=loss,
        )


def by_rate(text: str) -> Iterator[Setting]:
    """Cells of the grid over learning rate and momentum."""
    for lr, momentum, rule, *numbers in map(str.split, text.strip().splitlines()):
        accuracy, loss = _published(numbers)
        moves = f"optimizer.betas=[{momentum},0.99]" if "adam" in rule else f"optimizer.momentum={momentum}"
        is_base = (lr, momentum) == ("0.01", "0.9")
        yield Setting(
            row=f"lr={lr},momentum={momentum}",
            column=rule,
            key=f"resnet20-{rule}" + ("" if is_base else f"-lr{lr}-m{momentum}"),
            recipe=BASE,
            overrides=(*network("resnet20"), *RULES[rule], f"optimizer.lr={lr}", moves),
            accuracy=accuracy,
            loss=loss,
        )


def tuned(text: str) -> Iterator[Setting]:
    """Cells of the setting that was tuned for SGDM."""
    for model, rule, *numbers in map(str.split, text.strip().splitlines()):
        accuracy, loss = _published(numbers)
        yield Setting(
            row=model,
            column=rule,
            key=f"tuned-{rule}",
            recipe=TUNED,
            overrides=RULES[rule],
            accuracy=accuracy,
            loss=loss,
        )


def by_batch() -> Iterator[Setting]:
    """Cells of the sweep over batch sizes, of which the paper shows a figure only."""
    for batch in BATCHES:
        for rule in ("sgdm", "orthogonal"):
            length = (f"train.batch_size={batch}", f"train.epochs={SMALL_BATCH_EPOCHS}")
            yield Setting(
                row=f"batch={batch}",
                column=rule,
                key=f"resnet18-{rule}-{SMALL_BATCH_EPOCHS}epochs-batch{batch}",
                recipe=BASE,
                overrides=(*network("resnet18"), *RULES[rule], *length),
            )


def imagenet() -> Iterator[Setting]:
    """The two runs on ImageNet, without standard errors."""
    for rule, accuracy, loss in (("sgdm", 61.9, 1.565), ("orthogonal", 67.5, 1.383)):
        yield Setting(
            row="resnet34",
            column=rule,
            key=f"imagenet-resnet34-{rule}",
            recipe=IMAGENET,
            overrides=RULES[rule],
            accuracy=Published(accuracy),
            loss=Published(loss),
        )


def twins() -> Iterator[Setting]:
    """The two runs of Barlow Twins, of which the paper shows a figure only."""
    for rule, overrides in (("lars", ()), ("orthogonal-lars", RULES["conv-only"])):
        yield Setting(row="barlow_twins", column=rule, key=f"barlow-twins-{rule}", recipe=TWINS, overrides=overrides)


def _published(numbers: list[str]) -> tuple[Published, Published]:
    accuracy, accuracy_error, loss, loss_error = map(float, numbers)
    return Published(accuracy, accuracy_error), Published(loss, loss_error)


def _entry(title: str, settings: Iterator[Setting], note: str = "") -> Entry[Experiment]:
    made = Experiment(title=f"arXiv:2202.07052, {title}", settings=tuple(settings), note=note)
    return Entry(lambda: made, title)


HEADS = "torchvision's networks have 1000 logits for 10 classes, as in the paper."
DIVERGED = "The paper's three diverged groups of CN-SGDM are printed there as 0.00 with a loss of nan."

EXPERIMENTS: dict[str, Entry[Experiment]] = {
    "table1": _entry("table 1: SGDM and Orthogonal-SGDM on CIFAR-10", by_network(TABLE_1), HEADS),
    "table2": _entry(
        "table 2: resnet20 on CIFAR-10 with the setting tuned for SGDM",
        tuned(TABLE_2),
        "He et al., arXiv:1512.03385, table 6, report 91.25 % for SGDM.",
    ),
    "table3": _entry("table 3 (accuracy; losses are table 6): resnet20 over rates and momenta", by_rate(TABLE_3_AND_6)),
    "table4": _entry(
        "table 4 (accuracy; losses are table 7): normalised gradients", by_network(TABLE_4_AND_7), f"{HEADS} {DIVERGED}"
    ),
    "table5": _entry("table 5: convolutions only", by_network(TABLE_5), HEADS),
    "table6": _entry("table 6 (losses; accuracy is table 3): resnet20 over rates and momenta", by_rate(TABLE_3_AND_6)),
    "table7": _entry(
        "table 7 (losses; accuracy is table 4): normalised gradients", by_network(TABLE_4_AND_7), f"{HEADS} {DIVERGED}"
    ),
    "figure11": _entry(
        "figure 11: resnet18 on CIFAR-10 with batches of 4 to 2048, 50 epochs",
        by_batch(),
        f"No numbers are printed; the claim: Orthogonal-SGDM leads from batch 16 on and collapses at 4. {HEADS}",
    ),
    "figure7": _entry(
        "figure 7: Barlow Twins on ImageNet with LARS and, on convolutions, Orthogonal-LARS",
        twins(),
        "No numbers are printed; the claim: a lower loss throughout (train/epoch_loss; orthostream report draws "
        "it). Accuracy and loss here are those of a linear probe that learns along.",
    ),
    "imagenet": _entry("section 4: resnet34 on ImageNet, 100 epochs", imagenet()),
}
