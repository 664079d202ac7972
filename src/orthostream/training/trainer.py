"""The training loop. It sees modules, an optimizer and loaders, and no model or connection by name."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from orthostream.errors import UsageError
from orthostream.training import checkpoint as checkpoints
from orthostream.training.checkpoint import Checkpoint, CheckpointError
from orthostream.training.distributed import World
from orthostream.training.ema import WeightAverage
from orthostream.training.evaluate import EvaluationBatches, evaluate
from orthostream.training.progress import Progress, Silent
from orthostream.training.randomness import generator_states, set_generator_states
from orthostream.training.records import Records
from orthostream.training.settings import Mix, Outcome, Position, Settings, Statistics, StepHook, TrainBatches
from orthostream.training.signals import StopRequest
from orthostream.training.step import Meters, Stepper, mean_of_meters
from orthostream.training.weights import load_weights

# float16: so many skipped steps in a row mean that no scale helps.
MOST_SKIPPED_IN_A_ROW = 20
NON_FINITE = 1000


class NonFiniteError(UsageError):
    """A loss or gradient became infinite or NaN; the weights are those of the step before."""


class Trainer:
    """Trains a model from wherever its run stands until its end, or until it is asked to stop.

    Args:
        model: the plain module, whose ``state_dict`` is saved.
        called: what is called for the training forward: the module itself, or the same wrapped for DDP and
            compiled.
        optimizer: over the parameters of ``model``.
        schedule: learning rate of each step.
        criterion: ``(logits, targets) -> loss``.
        train_batches, evaluation_batches: the data of this process.
        settings: lengths and intervals.
        world: the processes.
        folder: of the checkpoints; None saves nothing.
        records: where values go.
        progress: what the terminal shows.
        mix: mixes samples on the device.
        average: averaged weights, or None.
        statistics: of the stream, or None.
        hooks: change the model between steps.
        details: for the manifests of checkpoints: versions, recipe.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        called: nn.Module | None = None,
        optimizer: Optimizer,
        schedule: Callable[[int], float],
        criterion: nn.Module,
        train_batches: TrainBatches,
        evaluation_batches: EvaluationBatches,
        settings: Settings,
        world: World,
        folder: Path | None,
        records: Records,
        progress: Progress | None = None,
        mix: Mix | None = None,
        average: WeightAverage | None = None,
        statistics: Statistics | None = None,
        hooks: Sequence[StepHook] = (),
        details: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.train_batches, self.evaluation_batches = train_batches, evaluation_batches
        self.settings, self.world, self.folder, self.records = settings, world, folder, records
        self.progress: Progress = progress or Silent()
        self.average, self.statistics, self.hooks = average, statistics, hooks
        self.details = dict(details or {})
        self.position = Position()
        self.meters = Meters.empty(world.device)
        self.final: dict[str, float] = {}
        self._newest: tuple[dict[str, float], Tensor] = ({}, torch.zeros(()))
        self.stepper = Stepper(
            model if called is None else called,
            optimizer,
            criterion,
            mix=mix,
            device=world.device,
            accumulate=settings.accumulate,
            clip_norm=settings.clip_norm,
            autocast_dtype=settings.autocast_dtype,
        )

    def fit(self, stop: StopRequest | None = None) -> Outcome:
        """Train to the end of the run, or until a stop was requested, saving as the settings say.

        Raises:
            NonFiniteError: before the update that a non-finite loss or gradient would have spoilt.
            CheckpointError: where a checkpoint cannot be written.
        """
        stop = stop or StopRequest()
        total = self.settings.total_steps
        self.progress.begin(self.position.step, total)
        try:
            while self.position.step < total or self._epoch_awaits_evaluation():
                number = self._epoch(stop)
                if number:
                    self._save()
                    return Outcome(False, number, self.position, self.final)
                self._end_epoch()
            self._save()
        finally:
            self.progress.end()
        return Outcome(True, 0, self.position, self.final)

    def resume(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint: weights, optimizer, generators, place in the data, and the log.

        Raises:
            CheckpointError: where its tensors are not those of this model.
        """
        load_weights(self.model, saved.weights, str(saved.path))
        state = saved.state
        self.optimizer.load_state_dict(state["optimizer"])
        self.stepper.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            if saved.average is None:
                raise CheckpointError(f"{saved.path} holds no averaged weights; resume with the recipe it was made by")
            self.average.load(saved.average)
        self.position = Position(**state["position"])
        self.final = dict(state["final"])
        self.records.rewind(state["records"])
        meters, generators = state["meters"], state["generators"]
        if len(generators) == self.world.size:
            self.meters.load(meters[self.world.rank])
            set_generator_states(generators[self.world.rank], self.world.device)
        else:
            self.meters.load(mean_of_meters(meters))
            self.progress.say(
                f"note: this run was saved by {len(generators)} processes and goes on with {self.world.size}: the "
                "batches and augmentations stay the same, dropout draws anew, and sums round differently"
            )

    def _epoch_awaits_evaluation(self) -> bool:
        return self.position.step_in_epoch > 0

    def _epoch(self, stop: StopRequest) -> int:
        """Train the rest of the present epoch; the signal that stopped it, or 0."""
        self.model.train()
        place, total = self.position, self.settings.total_steps
        timer = Timer(place.step)
        for micros in self.train_batches.epoch(place.epoch, place.step_in_epoch):
            if place.step >= total:
                break
            number = self._step(micros, stop)
            self._log(timer)
            self.progress.step(place.step, place.epoch)
            if number:
                place.seconds += timer.total()
                return number
            every = self.settings.save_every_steps
            # At the end of an epoch the checkpoint follows its evaluation.
            if every and place.step % every == 0 and place.step_in_epoch < self.settings.steps_per_epoch:
                self._save()
        place.seconds += timer.total()
        return 0

    def _step(self, micros: tuple[tuple[Tensor, Tensor], ...], stop: StopRequest) -> int:
        place, interval = self.position, self.settings.statistics_interval
        samples = self.statistics is not None and interval is not None and (place.step + 1) % interval == 0
        for hook in self.hooks:
            hook.step(place.step)
        listener = self.statistics if samples else None
        try:
            gradient = self.stepper.gradient(
                micros, place.epoch, place.step_in_epoch, listener.start if listener else lambda: None
            )
        finally:
            if listener is not None:
                listener.stop()
        number = max(stop.signal, NON_FINITE if self.stepper.is_bad() else 0)
        number = self.world.largest(number)
        if number == NON_FINITE:
            self._refuse_non_finite()
        lr = self.schedule(place.step - place.skipped)
        applied = self.stepper.update(lr)
        self._count_skipped(applied)
        if self.average is not None and applied:
            self.average.update()
        self.meters.add(gradient.loss, gradient.correct, gradient.seen)
        place.step += 1
        place.step_in_epoch += 1
        self._newest = {"train/lr": lr}, gradient.norm
        if listener is not None:
            values = listener.collect(self.world.mean)
            self.records.write("statistics", place.step, place.epoch, values)
        return number

    def _log(self, timer: "Timer") -> None:
        """Write a row where the interval ends; the only place of a step that waits for the device."""
        place = self.position
        if place.step % self.settings.log_interval:
            return
        self._look()
        values, norm = self._newest
        sums = self.world.total(torch.stack([self.meters.loss, self.meters.correct]))
        row = {"train/loss": float(sums[0]) / self.world.size / max(1, self.meters.steps), **values}
        if self.meters.seen:
            row["train/acc@1"] = float(sums[1]) / (self.meters.seen * self.world.size)
        row["train/grad/global_norm"] = float(norm)
        if self.stepper.scaler.is_enabled():
            row["train/skipped_steps"] = place.skipped
        row["train/samples_per_sec"] = timer.rate(place.step) * self.settings.batch_size
        self.meters.clear_interval()
        self.records.write("train", place.step, place.epoch, row)
        self.progress.values(place.step, place.epoch, row)

    def _end_epoch(self) -> None:
        """Evaluate, and save where a rule says so."""
        place, settings = self.position, self.settings
        self._look()
        done = place.epoch + 1
        is_last = place.step >= settings.total_steps
        is_best = (is_last or done % settings.eval_every == 0) and self._evaluate()
        place.epoch, place.step_in_epoch = done, 0
        self.meters.clear_epoch()
        every_epochs, every_steps = settings.save_every_epochs, settings.save_every_steps
        is_due = (every_epochs and done % every_epochs == 0) or (every_steps and place.step % every_steps == 0)
        if is_last or is_due or (is_best and settings.keep_best):
            self._save()

    def _evaluate(self) -> bool:
        """Record an evaluation; whether it is the best so far."""
        place = self.position
        for hook in self.hooks:
            hook.evaluation()
        # DDP aligns buffers at the next forward only; until then each rank has batch statistics of its own.
        self.world.copy_from_main(self.model.buffers())
        score = self.settings.score
        values = score.as_log(evaluate(self.model, self.evaluation_batches, self.world))
        if self.average is not None:
            with self.average.in_place_of_weights():
                values |= score.as_log(evaluate(self.model, self.evaluation_batches, self.world), "val_average")
        mean_loss = self.world.mean(self.meters.epoch_loss) / max(1, self.meters.epoch_steps)
        values = {"train/epoch_loss": float(mean_loss), **values}
        self.records.write("epoch", place.step, place.epoch, values)
        self.progress.values(place.step, place.epoch, values)
        self.final = values
        judged = f"{'val' if self.average is None else 'val_average'}/{score.key}"
        if place.best and not score.is_better(values[judged], than=place.best[judged]):
            return False
        name = checkpoints.name_of(place.step, place.epoch + 1)
        place.best = {judged: values[judged], "epoch": place.epoch, "step": place.step, "checkpoint": name}
        return True

    def _save(self) -> None:
        """Write a checkpoint, point to it, and delete those that no rule keeps."""
        if self.folder is None:
            return
        self._look()
        # Dropout and running sums differ from rank to rank; all else is the same everywhere.
        own = self.world.gather((generator_states(self.world.device), self.meters.state()))
        failure = ""
        if self.world.is_main:
            try:
                self._write(self.folder, own)
            except CheckpointError as error:
                failure = str(error)
        # All processes must learn of a full disk, or the others would wait for rank 0 until the timeout.
        failure = self.world.share(failure)
        if failure:
            raise CheckpointError(failure)

    def _write(self, folder: Path, own: list[Any]) -> None:
        place, settings = self.position, self.settings
        name = self._checkpoint_name()
        every = settings.keep_every_epochs
        if every and place.step_in_epoch == 0 and place.epoch % every == 0:
            place.milestones = sorted({*place.milestones, name})
        path = checkpoints.save(
            folder,
            name,
            weights=self.model.state_dict(),
            average=self.average.state() if self.average is not None else None,
            state={
                "position": place.as_builtins(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.stepper.scaler.state_dict(),
                "meters": [meters for _, meters in own],
                "final": self.final,
                "records": self.records.position(),
                "generators": [generators for generators, _ in own],
            },
            details={"step": place.step, "epoch": place.epoch, "world_size": self.world.size, **self.details},
        )
        checkpoints.point(folder, "latest.json", path, {"step": place.step})
        spared = [*place.milestones]
        best = folder / str(place.best.get("checkpoint"))
        if settings.keep_best and best.is_dir():
            checkpoints.point(folder, "best.json", best, place.best)
            spared.append(best.name)
        checkpoints.prune(folder, settings.keep, spared)

    def _checkpoint_name(self) -> str:
        place = self.position
        return checkpoints.name_of(place.step, place.epoch if place.step_in_epoch == 0 else None)

    def _look(self) -> None:
        """Wait for the device and stop where a non-finite number has come up since the last look."""
        if self.world.largest(NON_FINITE if self.stepper.is_bad(must_look=True) else 0):
            self._refuse_non_finite()

    def _count_skipped(self, applied: bool) -> None:
        place = self.position
        place.skipped += not applied
        place.skipped_in_a_row = 0 if applied else place.skipped_in_a_row + 1
        if place.skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW:
            raise NonFiniteError(
                f"float16 gradients overflowed in {MOST_SKIPPED_IN_A_ROW} steps in a row, up to step {place.step + 1}; "
                "use train.amp=bfloat16, or a smaller learning rate"
            )

    def _refuse_non_finite(self) -> None:
        place = self.position
        raise NonFiniteError(
            f"loss or gradient is not finite at or before step {place.step + 1} (epoch {place.epoch}); no update "
            "was made from it. Resume from the last checkpoint with a smaller learning rate, gradient clipping "
            "(train.clip_norm=1.0) or without float16"
        )


class Timer:
    """Steps a second since the last row, by a clock that never jumps."""

    def __init__(self, step: int) -> None:
        self._begun = self._last = time.monotonic()
        self._step = step

    def rate(self, step: int) -> float:
        now = time.monotonic()
        rate = (step - self._step) / max(now - self._last, 1e-9)
        self._last, self._step = now, step
        return rate

    def total(self) -> float:
        return time.monotonic() - self._begun
