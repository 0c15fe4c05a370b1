"""Optimizer, learning rate, moving average of the weights, and the choice of trained weights."""

import torch
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.lr_scheduler import LinearLR, MultiStepLR
from transformers import get_scheduler

DECAYS = (70 / 150, 120 / 150)  # of the training, each dividing the learning rate by 10: the paper's epochs 70 and 120
BATCH_NORMS = nn.modules.batchnorm._BatchNorm  # of any dimension, synchronised or not


def build_optimizer(model: nn.Module, args) -> torch.optim.Adam:
    """Adam (Section 4.1), with a learning rate of its own for the backbone."""
    backbone = [weights for weights in model.backbone.parameters() if weights.requires_grad]
    ids = {id(weights) for weights in backbone}
    rest = [weights for weights in model.parameters() if weights.requires_grad and id(weights) not in ids]
    rates = {"rest": args.learning_rate, "backbone": args.learning_rate * args.backbone_lr_factor}
    groups = [{"params": rest, "lr": rates["rest"]}, {"params": backbone, "lr": rates["backbone"]}]
    return torch.optim.Adam([group for group in groups if group["params"]])


class Schedule:
    """The learning rate: after each update, and after each epoch for the paper's steps.

    Args:
        optimizer: its rates are the highest.
        updates: in the whole training; None where that is not known, for `steps` and `constant` alone.
    """

    def __init__(self, optimizer, args, updates: int | None):
        self.schedulers = {}
        if args.lr_scheduler == "steps":
            milestones = decay_epochs(args)
            self.schedulers["epoch"] = MultiStepLR(optimizer, milestones, gamma=0.1)
            if args.warmup_steps:
                start = 1 / (args.warmup_steps + 1)
                self.schedulers["update"] = LinearLR(optimizer, start_factor=start, total_iters=args.warmup_steps)
        else:
            name = "constant_with_warmup" if args.lr_scheduler == "constant" else args.lr_scheduler
            self.schedulers["update"] = get_scheduler(name, optimizer, args.warmup_steps, updates)

    def after(self, what: str):
        """what: "update" or "epoch"."""
        if what in self.schedulers:
            self.schedulers[what].step()

    def state_dict(self) -> dict:
        return {name: scheduler.state_dict() for name, scheduler in self.schedulers.items()}

    def load_state_dict(self, state: dict):
        for name, scheduler in self.schedulers.items():
            scheduler.load_state_dict(state[name])


def decay_epochs(args) -> list[int]:
    """The epochs after which the learning rate is divided by 10. By default never before the first epoch has ended,
    nor after the last."""
    if args.decay_epochs is not None:
        return args.decay_epochs
    return sorted({round(share * args.epochs) for share in DECAYS} & set(range(1, args.epochs)))


def build_average(model: nn.Module, args) -> ModelEmaV3 | None:
    return None if args.ema_decay is None else ModelEmaV3(model, decay=args.ema_decay)


def prepare_batch_norm(model: nn.Module, args, device: torch.device) -> nn.Module:
    """Raises ValueError where batch norm cannot be synchronised."""
    if args.batch_norm == "sync":
        if device.type != "cuda":
            raise ValueError(f"--batch_norm sync needs GPUs, but got {device.type}; frozen works everywhere")
        return convert_sync_batchnorm(model)
    if args.batch_norm == "frozen":
        for module in model.modules():
            if isinstance(module, BATCH_NORMS):
                module.requires_grad_(False)
    return model


def set_training(model: nn.Module, args):
    """Sets training mode, except for the modules that --train_only and --batch_norm frozen keep in evaluation mode."""
    model.train(args.train_only is None)
    if args.train_only is not None:
        getattr(model, args.train_only).train()
    if args.batch_norm == "frozen":
        for module in model.modules():
            if isinstance(module, BATCH_NORMS):
                module.eval()


def train_only(model: nn.Module, part: str):
    """Freezes all but one part. Raises ValueError if there is none of this name."""
    parts = {name: child for name, child in model.named_children() if name != "heatmap_branch"}  # it is not saved
    if part not in parts:
        raise ValueError(
            f"--train_only must be one of {', '.join(parts)}, but got {part!r}; what a checkpoint was made without "
            "comes with --config, such as use_scale_head=true"
        )
    model.requires_grad_(False)
    parts[part].requires_grad_(True)


def freeze_unused(model: nn.Module):
    """Freezes weights that no landmark depends on, such as a backbone's last layers, which would make DDP wait."""
    size = model.fixed_size or (model.config.image_size,) * 2
    model.eval()
    labels = torch.full((1, model.config.num_landmarks, 2), 0.5, device=model.device)
    known = {"visibility": torch.ones_like(labels[..., 0])}
    if model.config.datasets:
        known["dataset_ids"] = labels.new_zeros(1, dtype=torch.long)
    model(torch.zeros(1, 3, *size, device=model.device), labels=labels, **known).loss.backward()
    for weights in model.parameters():
        weights.requires_grad_(weights.requires_grad and weights.grad is not None)
        weights.grad = None
