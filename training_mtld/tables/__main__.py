"""The paper's tables, trained and scored here: `python -m training_mtld.tables 3 5 --data_dir 300w=DIR`.

    python -m training_mtld.tables 3 5 --data_dir 300w=300w --output_dir tables --seeds 0 1 2
    python -m training_mtld.tables 1 2 4 --data_dir 300w=300w wflw=wflw cofw=cofw aflw=aflw --output_dir tables
    python -m training_mtld.tables 3 --data_dir 300w=300w --validation_list held_out.txt \\
        -- --image_size 128 --epochs 12 --batch_size 16 --mixed_precision bf16

Tables: 1 300W, AFLW and COFW, 2 WFLW (both with three backbones), 3 the modules, 4 size and speed, 5 the number of
neighbours in the structure loss (3 and 5: ResNet-18 on 300W). Options after -- are passed to train_accelerate.py;
without them, every training follows the paper's recipe. Trainings run one after the other under `accelerate launch`,
with the devices of `accelerate config`.

The same command continues after an interruption: finished trainings are not repeated, and a training of two tables
runs once. A finished training with other options is an error. Each table is written to the output folder as tableN.md,
beside the paper's numbers, and as tableN.json, from which results/README.md is generated.
"""

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dataset_scripts import BENCHMARKS
from modeling_mtld.auto_mtld import write_whole
from modeling_mtld.benchmark import measure_networks
from modeling_mtld.quiet import quiet_libraries

from ..checkpoints import stop_signals
from ..facts import git_commit, library_versions
from ..options import Parser
from . import paper
from .errors import common_facts, estimate, mean_layers, stack_errors
from .pages import TITLES, page
from .runs import (
    COMMAND,
    Budget,
    Result,
    Run,
    TrainingFailed,
    check_options,
    finish,
    is_done,
    parser_of_training,
    scored_splits,
    split_name_and_path,
    training_arguments,
)

BACKBONES = tuple(paper.BACKBONE_TITLES)
MODULES = {"MST": "use_multiscale_transformer", "Heat.": "use_heatmap_loss", "Struc.": "use_structure_loss"}
RUN_NAMES = {
    (): "base",
    ("MST",): "mst",
    ("MST", "Heat."): "mst-heatmap",
    ("MST", "Struc."): "mst-structure",
    ("MST", "Heat.", "Struc."): "mst-heatmap-structure",
}
DEFAULT_NEIGHBORS = 5
LANDMARKS, IMAGE_SIZE = 98, 256  # of Table 4


def module_run(modules: tuple[str, ...], held_out: bool) -> Run:
    """The network of Table 3 with these modules."""
    disabled = tuple(f"{field}=false" for name, field in MODULES.items() if name not in modules)
    return Run(RUN_NAMES[modules], config=disabled, held_out=held_out)


def neighbors_run(neighbors: int, held_out: bool) -> Run:
    """The network of Table 5: without structure loss for 0 neighbours, Table 3's full network for 5."""
    if neighbors == 0:
        return module_run(("MST", "Heat."), held_out)
    full = module_run(tuple(MODULES), held_out)
    if neighbors == DEFAULT_NEIGHBORS:
        return full
    return Run(f"{full.name}-n{neighbors}", config=(f"num_neighbors={neighbors}",), held_out=held_out)


def backbone_run(dataset: str, backbone: str, held_out: bool) -> Run:
    """The network of Tables 1 and 2, scored on test faces. With ResNet-18 on 300W it is Table 3's full network, unless
    that one is scored on held-out photos."""
    if (dataset, backbone) == ("300w", "resnet18") and not held_out:
        return module_run(tuple(MODULES), held_out=False)
    return Run(f"{dataset}-{backbone}", dataset, backbone)


def runs_of(table: int, args: argparse.Namespace) -> list[Run]:
    """The trainings of a table, in its order; in Tables 1 and 2, those for which there is data."""
    held_out = args.validation_list is not None
    if table == 3:
        return [module_run(modules, held_out) for modules in RUN_NAMES]
    if table == 5:
        return [neighbors_run(neighbors, held_out) for neighbors in args.neighbors]
    columns = {1: paper.TABLE_1_COLUMNS, 2: paper.TABLE_2_COLUMNS}.get(table, ())
    names = [name for name in dict.fromkeys(name for name, _ in columns) if name in args.data_dirs]
    return [backbone_run(name, backbone, held_out) for backbone in BACKBONES for name in names]


# Tables ----------------------------------------------------------------------------------------------------------

Results = Mapping[str, Sequence[Result]]  # by name of the run, one result a seed


def ablation_score(args: argparse.Namespace) -> tuple[str, str]:
    """The split or subset that Tables 3 and 5 are scored on, and the name of the normaliser."""
    run = module_run(tuple(MODULES), args.validation_list is not None)
    splits = scored_splits(run, args.budget)
    return "full" if len(splits) > 1 else splits[0], normalizer_of(run, args)


def normalizer_of(run: Run, args: argparse.Namespace) -> str:
    normalizer = parser_of_training().parse_args(list(args.budget.options)).normalizer
    return normalizer or BENCHMARKS[run.dataset].default_normalizer


def table_3(results: Results, args: argparse.Namespace) -> dict:
    """Each row, compared with the rows that lack one of its modules."""
    score, normalizer = ablation_score(args)
    errors = {modules: stack_errors(results[name], score, normalizer) for modules, name in RUN_NAMES.items()}
    rows = []
    for modules, name in RUN_NAMES.items():
        fewer = [other for other in RUN_NAMES if set(other) < set(modules) and len(other) == len(modules) - 1]
        rows.append(
            {
                "run": name,
                "modules": list(modules),
                "paper": paper.TABLE_3[modules],
                "nme": estimate(errors[modules], args.seeds),
                "layers": mean_layers(results[name], score),
                "against": {
                    RUN_NAMES[other]: {
                        "adds": next(iter(set(modules) - set(other))),
                        **estimate(errors[modules] - errors[other], args.seeds),
                    }
                    for other in fewer
                },
            }
        )
    return {"table": 3, "facts": _shared(results, RUN_NAMES.values(), score, normalizer), "rows": rows}


def table_5(results: Results, args: argparse.Namespace) -> dict:
    """Each row, compared with the row of the fewest neighbours."""
    score, normalizer = ablation_score(args)
    names = {neighbors: neighbors_run(neighbors, False).name for neighbors in args.neighbors}
    errors = {neighbors: stack_errors(results[name], score, normalizer) for neighbors, name in names.items()}
    first = min(errors)
    rows = [
        {
            "run": names[neighbors],
            "neighbors": neighbors,
            "paper": paper.TABLE_5[neighbors],
            "nme": estimate(values, args.seeds),
            "against": {names[first]: estimate(values - errors[first], args.seeds)} if neighbors != first else {},
        }
        for neighbors, values in sorted(errors.items())
    ]
    facts = _shared(results, names.values(), score, normalizer)
    return {"table": 5, "facts": facts, "first": first, "rows": rows}


def _shared(results: Results, names, score: str, normalizer: str) -> dict:
    """`common_facts` of the rows of one table. Raises ValueError if they are not scored on the same faces."""
    all_results = [result for name in names for result in results[name]]
    stack_errors(all_results, score, normalizer)
    return common_facts(all_results, [score], normalizer)


def backbone_table(table: int, results: Results, args: argparse.Namespace) -> dict:
    """Table 1 or 2. A column without data has no cells."""
    columns = {1: paper.TABLE_1_COLUMNS, 2: paper.TABLE_2_COLUMNS}[table]
    held_out = args.validation_list is not None
    cells: dict[str, dict] = {backbone: {} for backbone in BACKBONES}
    facts = {}
    for dataset in dict.fromkeys(name for name, _ in columns if name in args.data_dirs):
        runs = [backbone_run(dataset, backbone, held_out) for backbone in BACKBONES]
        normalizer = normalizer_of(runs[0], args)
        first_scores = results[runs[0].name][0].scores["scores"]
        scores = [score for name, score in columns if name == dataset and score in first_scores]
        for run in runs:
            for score in scores:
                errors = stack_errors(results[run.name], score, normalizer)
                cells[run.backbone][f"{dataset} {score}"] = estimate(errors, args.seeds)
        facts[dataset] = common_facts([r for run in runs for r in results[run.name]], scores, normalizer)
    return {"table": table, "facts": facts, "rows": [{"backbone": name, "cells": cells[name]} for name in BACKBONES]}


def table_4(args: argparse.Namespace, console: Console) -> dict:
    """The measurements in table4.json if they are of this commit and these libraries, otherwise new ones."""
    facts = {"commits": [str(git_commit(Path(__file__).parent))], "versions": library_versions()}
    file = args.budget.output_dir / "table4.json"
    if file.is_file() and (table := json.loads(file.read_text(encoding="utf-8")))["facts"] == facts:
        return table

    def watch(status: str):
        console.print(f"Table 4: {status}", markup=False, highlight=False)

    return {"table": 4, "facts": facts, **measure_networks(BACKBONES, LANDMARKS, IMAGE_SIZE, watch=watch)}


def build_table(table: int, results: Results, args: argparse.Namespace, console: Console) -> dict:
    """The content of tableN.json, from which `page` and results/README.md are written."""
    if table == 4:
        return table_4(args, console)
    if table in (1, 2):
        return backbone_table(table, results, args)
    return {3: table_3, 5: table_5}[table](results, args)


# Command ---------------------------------------------------------------------------------------------------------


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m training_mtld.tables",
        usage="%(prog)s TABLE [TABLE ...] --data_dir NAME=DIR [...] [options] [-- options of train_accelerate.py]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("tables", nargs="+", type=int, choices=sorted(TITLES), metavar="TABLE", help="1 to 5")
    parser.add_argument(
        "--data_dir",
        nargs="+",
        action="extend",
        type=_data_dir,
        default=[],
        metavar="NAME=DIR",
        help="folders of 300w, wflw, cofw and aflw; columns of Tables 1 and 2 without data stay empty",
    )
    parser.add_argument("--output_dir", default="tables", help="(default: %(default)s)")
    parser.add_argument("--dry_run", action="store_true", help="list the trainings and what is done of them, and stop")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="seeds of each training (default: 0)")
    parser.add_argument(
        "--validation_list",
        metavar="FILE",
        help="Tables 3 and 5: file of photos of 300W's training split, one a line, to leave out of training and to "
        "score instead of the test faces",
    )
    parser.add_argument(
        "--neighbors",
        nargs="+",
        type=int,
        choices=list(paper.TABLE_5),
        default=list(paper.TABLE_5),
        metavar="N",
        help=f"rows of Table 5 (default: {' '.join(map(str, paper.TABLE_5))})",
    )
    parser.add_argument(
        "--backbone_weights",
        nargs="+",
        action="extend",
        type=_weights,
        default=[],
        metavar="NAME=FILE",
        help="timm weights from files instead of the Hub, such as resnet18=FILE",
    )
    return parser


def _data_dir(text: str) -> tuple[str, str]:
    name, path = split_name_and_path(text, "NAME=DIR")
    if name not in ("300w", "wflw", "cofw", "aflw"):
        raise argparse.ArgumentTypeError(f"must name 300w, wflw, cofw or aflw, but got {text!r}")
    return name, path


def _weights(text: str) -> tuple[str, str]:
    name, path = split_name_and_path(text, "NAME=FILE")
    if name not in BACKBONES or not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(BACKBONES)} and a file, but got {text!r}")
    return name, path


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Raises ValueError on wrong options."""
    argv = list(argv)
    place = argv.index("--") if "--" in argv else len(argv)
    args = make_parser().parse_args(argv[:place])
    options, args.data_dirs = tuple(argv[place + 1 :]), dict(args.data_dir)
    args.tables, args.seeds = sorted(set(args.tables)), sorted(set(args.seeds))
    check_options(options)
    if {3, 5} & set(args.tables) and "300w" not in args.data_dirs:
        raise ValueError("--data_dir must give 300w=DIR for Tables 3 and 5")
    for table, names in {1: "300w, aflw or cofw", 2: "wflw"}.items():
        if table in args.tables and not any(name in args.data_dirs for name in names.replace(" or", ",").split(", ")):
            raise ValueError(f"--data_dir must give {names} for Table {table}")
    if args.validation_list and not Path(args.validation_list).is_file():
        raise ValueError(f"--validation_list must be an existing file, but got {args.validation_list}")
    if {1, 2} & set(args.tables) and any(word.partition("=")[0] == "--backbone_checkpoint" for word in options):
        raise ValueError("--backbone_checkpoint must come as --backbone_weights NAME=FILE for Tables 1 and 2")
    args.budget = Budget(
        data_dirs=args.data_dirs,
        output_dir=Path(args.output_dir),
        seeds=tuple(args.seeds),
        validation_list=args.validation_list,
        backbone_weights=dict(args.backbone_weights),
        options=options,
    )
    return args


def checked_tasks(runs: Sequence[Run], budget: Budget) -> list[tuple[Run, int, bool]]:
    """Each run with each seed, in their order, and whether it is done. Raises errors before the first training, not
    after it."""
    tasks = [(run, seed) for seed in budget.seeds for run in runs]
    for run, seed in tasks:
        parser_of_training().parse_args(training_arguments(run, seed, budget))
    return [(run, seed, is_done(run, seed, budget)) for run, seed in tasks]


def list_trainings(runs: Sequence[Run], budget: Budget, console: Console):
    """--dry_run: prints the command of each training, and whether it is done."""
    tasks = checked_tasks(runs, budget)
    for run, seed, done in tasks:
        command = shlex.join(["python", COMMAND[-1], *training_arguments(run, seed, budget)])
        text = f"{budget.folder(run, seed)}{' (done)' if done else ''}: {command}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    left = sum(not done for *_, done in tasks)
    console.print(f"{len(tasks)} trainings, {left} of them to do", highlight=False)


def finish_all(runs: Sequence[Run], budget: Budget, console: Console) -> dict[str, list[Result]]:
    """Every training with every seed, one after the other. All runs of a seed come before the next seed, so that an
    early stop leaves complete tables of fewer seeds."""
    tasks = [(run, seed) for run, seed, _ in checked_tasks(runs, budget)]
    results: dict[str, list[Result]] = {run.name: [] for run in runs}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[now]}"), console=console) as progress:
        bar = progress.add_task("trainings", total=len(tasks), now="")
        for run, seed in tasks:
            watch = _watcher(progress, bar, f"{run.name}, seed {seed}")
            was_done = is_done(run, seed, budget)
            results[run.name].append(finish(run, seed, budget, watch))
            progress.console.print(f"{budget.folder(run, seed)}: {'was done' if was_done else 'done'}", markup=False)
            progress.advance(bar)
        progress.update(bar, now="")
    return results


def _watcher(progress: Progress, bar, name: str) -> Callable[[str], None]:
    def watch(status: str):
        progress.update(bar, now=escape(f"{name} {status}"))

    watch("")
    return watch


def make_tables(args: argparse.Namespace, console: Console):
    runs = list({run.name: run for table in args.tables for run in runs_of(table, args)}.values())
    if args.dry_run:
        list_trainings(runs, args.budget, console)
        return
    results = finish_all(runs, args.budget, console) if runs else {}
    args.budget.output_dir.mkdir(parents=True, exist_ok=True)
    for number in args.tables:
        table = build_table(number, results, args, console)
        text = f"# {TITLES[number]}\n\n{page(table)}\n"
        for suffix, content in {"json": json.dumps(table, indent=2) + "\n", "md": text}.items():
            write_whole(args.budget.output_dir / f"table{number}.{suffix}", content.encode())
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        console.print(f"{args.budget.output_dir / f'table{number}.md'} and .json hold the table", markup=False)


def _terminate(signum, frame):
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status: 0, or after one line on stderr 1 (a training failed), 2 (wrong input) or
    130 (interrupted)."""
    for number in stop_signals():
        signal.signal(number, _terminate)
    quiet_libraries()
    try:
        make_tables(parse_arguments(sys.argv[1:] if argv is None else argv), Console())
    except TrainingFailed as error:
        print(f"tables: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"tables: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tables: interrupted; the same command goes on with it", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
