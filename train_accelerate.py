"""Trains and evaluates MTLD on faces with landmarks.

    python train_accelerate.py --dataset 300w --data_dir 300w --output_dir outputs/mtld-r18
    python train_accelerate.py --dataset 300w --data_dir 300w --eval_only \\
        --model_name_or_path outputs/mtld-r18 --output_dir outputs/scores
    python train_accelerate.py --dataset dolls/landmarks.yaml --output_dir outputs/dolls   # your own points
    python train_accelerate.py --dataset 300w wflw --data_dir 300w wflw --output_dir outputs/both

The defaults are the paper's recipe (Section 4.1). Every row of its Tables 3 and 5 is this command with `--config`,
such as `--config use_structure_loss=false` or `--config num_neighbors=10`; all modules off (its "Base") is
`--config use_multiscale_transformer=false use_heatmap_loss=false use_structure_loss=false`. `python -m
training_mtld.tables` runs whole tables.

Checkpoints are written at ends of epochs, every five minutes by default (--save_minutes, --save_epochs, --save_steps);
a training that was interrupted goes on with the same command and `--resume_from_checkpoint latest`. SIGTERM, Ctrl-C
and a closed terminal (SIGHUP) write one more and end the training. The model of the last epoch is written to
--output_dir with its card, and its scores to evaluation/ there.

One process needs no launcher. `accelerate launch` in place of `python` brings several processes, GPUs and machines;
`accelerate config` asks what there is. On wrong input this script prints one line and exits with status 2, after
SIGTERM with 143, after SIGHUP with 129; `accelerate launch --quiet` prints nothing more, and makes 1 of each.
"""

import multiprocessing
import sys

from training_mtld.options import parse_args


def run(argv=None) -> int:
    """The command. Returns the exit status: 0, or after one line on stderr 2 (wrong input), 129 (SIGHUP), 130 (Ctrl-C)
    or 143 (SIGTERM)."""
    try:
        args = parse_args(argv, description=__doc__)
    except ValueError as error:
        return _wrong(error)
    # The libraries take seconds, which --help and a wrong option need not wait for.
    from modeling_mtld.quiet import quiet_libraries
    from training_mtld import data, training
    from training_mtld.checkpoints import TrainingStopped

    quiet_libraries()
    others = multiprocessing.active_children()
    try:
        training.main(args)
    except (ValueError, OSError) as error:
        return _wrong(error)
    except TrainingStopped as error:
        print(f"train_accelerate.py: {error}", file=sys.stderr)
        return 128 + error.signal
    except KeyboardInterrupt:
        print("train_accelerate.py: interrupted; --resume_from_checkpoint latest goes on with it", file=sys.stderr)
        return 130
    finally:
        data.end_workers(others)
    return 0


def _wrong(error: Exception) -> int:
    print(f"train_accelerate.py: {one_line(error)}", file=sys.stderr)
    return 2


def one_line(error: Exception) -> str:
    message = str(error)
    if "in DataLoader worker process" in message:  # a traceback that ends with the error
        message = message.rpartition(f"{type(error).__name__}: ")[2]
    return " ".join(message.split())


if __name__ == "__main__":
    sys.exit(run())
