"""The training and its evaluations, behind `train_accelerate.py`."""

import contextlib
import dataclasses
import itertools
import logging
import math
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, TorchDynamoPlugin, set_seed
from tqdm.auto import tqdm

from modeling_mtld.loss_mtld import ItemCounts, count_items
from modeling_mtld.model_card_mtld import Stage, read_stages

from . import checkpoints, data, models, optimization, publishing, tracking
from .checkpoints import Progress, StopSignal, TrainingStopped
from .evaluation import report, scoring
from .evaluation.scoring import EvaluationSet
from .processor import choose_precision, warn_of_slow_bfloat16


@dataclasses.dataclass
class Training:
    """The objects of a training, prepared for this process."""

    args: object
    accelerator: Accelerator
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    schedule: optimization.Schedule
    average: object  # ModelEmaV3 of the weights, or None
    faces: data.Mixture
    loader: torch.utils.data.DataLoader
    progress: Progress
    stop: StopSignal
    stage: Stage  # the record of the training for the model card

    @property
    def result(self) -> torch.nn.Module:
        """The network that is scored and saved."""
        return self.average.module if self.average else self.network

    @property
    def network(self) -> torch.nn.Module:
        """`model` as it was before it was wrapped and compiled."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)


COMPILER = "inductor"  # torch's own


def build_accelerator(args) -> Accelerator:
    return Accelerator(
        mixed_precision=choose_precision(args.mixed_precision),
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=None if args.eval_only else args.report_to or None,
        project_dir=args.output_dir,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=args.seed),
        dynamo_plugin=TorchDynamoPlugin(backend=COMPILER) if args.compile else None,
    )


def build_training(
    accelerator: Accelerator, args, model, faces: data.Mixture, stop: StopSignal, stage: Stage
) -> Training:
    """Optimizer, schedule and loader for `model` and `faces`, prepared for this process and device."""
    model = model.to(accelerator.device)
    if args.train_only is not None:
        optimization.train_only(model, args.train_only)
    model = optimization.prepare_batch_norm(model, args, accelerator.device)
    if accelerator.num_processes > 1:
        optimization.freeze_unused(model)
    average = optimization.build_average(model, args)
    optimizer = optimization.build_optimizer(model, args)
    loader = data.training_loader(accelerator, args, faces)
    updates = data.updates_per_epoch(accelerator, args, loader)
    schedule = optimization.Schedule(optimizer, args, updates and updates * args.epochs)
    model, optimizer = accelerator.prepare(model, optimizer)
    progress = Progress()
    states = [progress, schedule, *([average] if average else [])]
    accelerator.register_for_checkpointing(*states)  # not prepared, as they step once an update
    return Training(args, accelerator, model, optimizer, schedule, average, faces, loader, progress, stop, stage)


def train_epoch(training: Training, folder: Path) -> dict[str, float]:
    """One pass over the faces, or its rest. Returns means of the loss and its terms, speed and memory."""
    args, accelerator, progress = training.args, training.accelerator, training.progress
    optimization.set_training(training.network, args)
    start, first = time.perf_counter(), progress.update
    facts = tracking.facts_of_step(accelerator.device, training.optimizer, 0)
    with tracking.progress_bar(
        updates_of_epoch(training),
        desc=f"epoch {progress.epoch + 1}/{args.epochs}",
        initial=first,
        total=data.updates_per_epoch(accelerator, args, training.loader),
        disable=not accelerator.is_main_process,
    ) as bar:
        for batches in bar:
            # The random state depends on the update alone, so that an interruption changes nothing.
            key = np.random.SeedSequence((args.seed, progress.epoch, progress.update)).generate_state(1)
            set_seed(int(key[0]), device_specific=True)
            progress.add(train_update(training, batches))
            speed = effective_batch(training) * (progress.update - first) / (time.perf_counter() - start)
            facts = tracking.facts_of_step(accelerator.device, training.optimizer, speed)
            bar.set_postfix(tracking.progress_fields(progress.means, facts))
            save_and_stop(training, folder)
    return progress.means | facts


def updates_of_epoch(training: Training):
    """The batches of each remaining update of the epoch: --gradient_accumulation_steps of them, or fewer at the end of
    a stream."""
    accelerator, progress, loader = training.accelerator, training.progress, training.loader
    steps = accelerator.gradient_accumulation_steps
    training.faces.set_epoch(progress.epoch)
    loader.set_epoch(progress.epoch)
    updates = data.updates_per_epoch(accelerator, training.args, loader)
    left = None if updates is None else updates - progress.update
    if progress.update:
        loader = accelerator.skip_first_batches(loader, progress.update * steps)
        loader.set_epoch(progress.epoch)
    batches = iter(loader)
    yield from itertools.islice(iter(lambda: list(itertools.islice(batches, steps)), []), left)
    for _ in batches:  # to the end, where accelerate releases the loader
        pass


def effective_batch(training: Training) -> int:
    accelerator = training.accelerator
    return training.args.batch_size * accelerator.num_processes * accelerator.gradient_accumulation_steps


def train_update(training: Training, batches: list[dict]) -> dict[str, float]:
    """One step of the optimizer for the faces of `batches` on all processes. Returns the losses, means over them all.

    Raises:
        ValueError: if the loss is not finite.
    """
    args, accelerator, progress = training.args, training.accelerator, training.progress
    terms, predictions = add_gradients(training, batches)
    losses = accelerator.reduce(torch.stack(list(terms.values()))).tolist()
    if not np.isfinite(losses).all():
        raise not_finite("loss", losses[0], progress)
    norm = accelerator.clip_grad_norm_(training.model.parameters(), args.max_grad_norm or math.inf)
    if not torch.isfinite(norm) and accelerator.mixed_precision != "fp16":  # whose gradient scaler skips such steps
        raise not_finite("gradient", norm.item(), progress)
    training.optimizer.step()
    training.optimizer.zero_grad()
    if not accelerator.optimizer_step_was_skipped:  # as the first steps of fp16 are
        training.schedule.after("update")
    update_averages(training, batches, predictions)
    return dict(zip(terms, losses))


def not_finite(what: str, value: float, progress: Progress) -> ValueError:
    return ValueError(
        f"the {what} must be finite, but got {value} in epoch {progress.epoch + 1}, update {progress.update + 1}; the "
        "checkpoints before it are whole"
    )


def add_gradients(training: Training, batches: list[dict]) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """Forward and backward of each batch. Returns this process's shares of the losses, and the predicted landmarks.

    The losses are divided by the numbers of annotated landmarks and pairs of the whole effective batch, so that it
    does not matter how its faces are spread over processes and steps.
    """
    accelerator, model = training.accelerator, training.model
    neighbors = training.network.config.num_neighbors
    items = [torch.stack(count_items(batch["labels"], neighbors, batch.get("visibility"))) for batch in batches]
    counts = ItemCounts(*accelerator.reduce(torch.stack(items).sum(dim=0)))
    # Cancels the division in `backward` and the average of DDP, as the counts are of the whole effective batch.
    num_shares = accelerator.num_processes * accelerator.gradient_accumulation_steps
    terms, predictions = {}, []
    for number, batch in enumerate(batches, 1):
        with contextlib.nullcontext() if number == len(batches) else accelerator.no_sync(model):
            output = model(**batch, num_items_in_batch=counts)
            accelerator.backward(output.loss * num_shares)
        predictions.append(output.landmarks.detach())
        for name, value in {"loss": output.loss.detach(), **output.loss_dict}.items():
            terms[name] = terms.get(name, 0) + value
    return terms, predictions


def update_averages(training: Training, batches: list[dict], predictions: list[torch.Tensor]):
    """Updates the running mean errors of the scale head and the moving average of the weights.

    Args:
        predictions: the landmarks of each batch.
    """
    accelerator, model = training.accelerator, training.network
    if model.config.use_scale_head:
        labels = torch.cat([batch["labels"] for batch in batches])
        model.scale_head.update_running_error(accelerator.gather(torch.cat(predictions)), accelerator.gather(labels))
    if training.average:
        training.average.update(model)


def save_and_stop(training: Training, folder: Path):
    """Saves a checkpoint by --save_steps or after a signal to any process. Raises TrainingStopped after a signal."""
    args, accelerator, progress = training.args, training.accelerator, training.progress
    if training.stop.number is not None:
        accelerator.set_trigger()
    has_signal = accelerator.check_trigger()
    if has_signal or (args.save_steps and progress.update % args.save_steps == 0):
        checkpoints.save_checkpoint(accelerator, folder, progress, args, training.stage)
    if has_signal:
        raise TrainingStopped(training.stop.number or signal.SIGTERM)  # SIGTERM if another process has the signal


def train(training: Training, eval_sets: list[EvaluationSet]):
    """The remaining epochs, with checkpoints, scores and pictures at their intervals."""
    args, accelerator, progress = training.args, training.accelerator, training.progress
    folder = Path(args.output_dir) / "checkpoints"
    must_save = checkpoints.CheckpointTimer(args)
    while progress.epoch < args.epochs:
        log = train_epoch(training, folder)
        training.schedule.after("epoch")
        progress.next_epoch()
        accelerator.log(log, step=progress.epoch)
        if must_save(accelerator, progress.epoch):
            checkpoints.save_checkpoint(accelerator, folder, progress, args, training.stage)
        if progress.epoch == args.epochs:
            break
        if args.eval_every and progress.epoch % args.eval_every == 0:
            scoring.share_buffers(accelerator, training.result)
            for eval_set in eval_sets:
                scores = eval_set.evaluate(eval_set.predict(accelerator, training.result))
                tracking.log_scores(accelerator, scores, eval_set.args, progress.epoch)
        if args.picture_every and progress.epoch % args.picture_every == 0:
            for eval_set in eval_sets:
                tracking.log_picture(accelerator, training.result, eval_set, progress.epoch)


def finish(training: Training, processor, eval_sets: list[EvaluationSet], former: list[Stage]):
    """Saves the model, scores it, saves it again with the scores on its card, and publishes it."""
    args, accelerator, model = training.args, training.accelerator, training.result
    scoring.share_buffers(accelerator, model)
    publishing.round_weights(model)
    # Before scoring, which can fail, as on a broken stream.
    publishing.save_model(accelerator, model, processor, args, [*former, training.stage])
    evaluations = []
    for eval_set in eval_sets:
        predictions = eval_set.predict(accelerator, model)
        scores = eval_set.evaluate(predictions)
        tracking.log_scores(accelerator, scores, eval_set.args, args.epochs)
        if args.picture_every:
            tracking.log_picture(accelerator, model, eval_set, args.epochs)
        evaluations.append((eval_set, predictions, scores))
    results = {one.args.benchmark.name: scoring.card_results(scores, one.args) for one, _, scores in evaluations}
    stage = training.stage.with_results(results)
    publishing.save_model(accelerator, model, processor, args, [*former, stage])
    if accelerator.is_main_process:
        for eval_set, predictions, scores in evaluations:
            contents = scoring.build_report(accelerator, eval_set, scores, args.output_dir)
            folder = eval_set.folder(Path(args.output_dir) / "evaluation")
            scoring.write_evaluation(folder, contents, predictions, eval_set)
            report.show_report(contents)
        publishing.push(args)
        tqdm.write(f"{args.output_dir} holds the model of the last epoch, {args.output_dir}/evaluation its scores")
    accelerator.end_training()


def score_checkpoint(accelerator: Accelerator, args, model, processor, eval_sets: list[EvaluationSet]):
    """--eval_only: prints the scores, and writes them to --output_dir if there is one."""
    model = accelerator.prepare(model)
    for eval_set in eval_sets:
        predictions = eval_set.predict(accelerator, model)
        noise = scoring.measure_box_noise(accelerator, model, eval_set, processor) if args.box_noise else None
        scores = eval_set.evaluate(predictions)
        if not accelerator.is_main_process:
            continue
        contents = scoring.build_report(accelerator, eval_set, scores, args.model_name_or_path)
        if noise:
            contents["box_noise"] = noise
        report.show_report(contents)
        if args.output_dir:
            scoring.write_evaluation(eval_set.folder(Path(args.output_dir)), contents, predictions, eval_set)
    accelerator.end_training()
    if args.output_dir and accelerator.is_main_process:
        print(f"{args.output_dir} holds the scores")


def main(args):
    """Trains or scores as the options of `parse_args` say."""
    logging.basicConfig(
        level=logging.ERROR if int(os.environ.get("RANK", 0)) else logging.WARNING, format="%(message)s"
    )
    accelerator = build_accelerator(args)
    warn_of_slow_bfloat16(accelerator.device.type, accelerator.mixed_precision)
    set_seed(args.seed)
    with accelerator.main_process_first():  # it converts the faces in the cache for the others
        data.check_places(args)  # before the weights, which may need the Hub
        model, new_landmarks = models.build_model(args)
        processor = models.build_processor(args, model.config)
        loaded_sets = [(options, data.load_evaluation(options, processor)) for options in data.sets_to_score(args)]
        faces = None if args.eval_only else data.load_training(args, processor, model.config)
    eval_sets = [
        EvaluationSet(options, splits, data.scoring_loaders(accelerator, args, splits))
        for options, splits in loaded_sets
    ]
    if args.eval_only:
        score_checkpoint(accelerator, args, model, processor, eval_sets)
        return
    publishing.check_repository(args)
    data.set_margins(processor, args, faces, model.config)
    if new_landmarks:
        model.set_mean_face(data.joint_mean_face(args, faces, model.config.landmark_names))
    former, stage = read_stages(args.model_name_or_path), publishing.describe_training(accelerator, args, faces)
    with StopSignal() as stop:
        training = build_training(accelerator, args, model, faces, stop, stage)
        updates = data.updates_per_epoch(accelerator, args, training.loader)
        tracking.start(accelerator, args, effective_batch(training), updates)
        training.stage = checkpoints.resume(accelerator, args, Path(args.output_dir) / "checkpoints", stage)
        if accelerator.is_main_process and training.progress != Progress():
            tracking.tell_resumed(training.progress)
        train(training, eval_sets)
    finish(training, processor, eval_sets, former)
