import json

import pytest

from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.model_card_mtld import Stage, TrainingSet, read_stages, write_model_card
from training_mtld import readme
from training_mtld.evaluation.report import read_report
from training_mtld.facts import file_fingerprint
from training_mtld.readme import (
    CHECKPOINTS,
    PAGES,
    RESULTS,
    Results,
    card_of,
    figure,
    find_outdated,
    find_outdated_api,
    loose_figures,
    renew,
)


def interval(value):
    return {"value": value, "low": value - 0.001, "high": value + 0.001}


def scores(nme, **extra):
    statistics = {"nme": interval(nme), "failure_rate@8%": interval(0.0018), "auc@8%": interval(0.5727)}
    kinds = {"inter-ocular": statistics, "inter-pupil": {"nme": interval(1.4 * nme)}}
    return {
        "dataset": "300w",
        "title": "300W",
        "normalizer": "inter-ocular",
        "threshold": 0.08,
        "scores": {"common": {"faces": 1554, "normalizers": kinds, **extra}},
    }


@pytest.fixture
def results(tmp_path):
    """Made-up results: of a network, its base, a table and speeds."""
    table = {"rows": [{"run": "base", "nme": interval(0.049)}, {"run": "mst", "nme": interval(0.046)}]}
    files = {
        "net": scores(0.03424, confidence_ratio=1.86, likelihood_gain=0.029),
        "base": scores(0.0378),
        "table": table,
        "speed": {"networks": {"resnet18": {"parameters": 11_900_000, "cpu": {"ratio": 1.281}}}},
        "loading": {"workers": {"0": {"ours": 252.4, "plain": 208.0, "ratio": 1.2512}}},
    }
    folder = tmp_path / "results"
    folder.mkdir()
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return Results(folder)


@pytest.mark.parametrize(
    "expression, text",
    [
        ("net common nme", "3.42"),
        ("net common nme | .3%", "3.424"),
        ("net common nme low", "3.32"),
        ("net common failure_rate@8%", "0.18"),
        ("net common normalizers inter-pupil nme", "4.79"),
        ("net common faces", "1,554"),
        ("net common confidence_ratio | .2f", "1.86"),
        ("net common nme below base common nme", "9.4"),
        ("table rows mst nme", "4.60"),
        ("speed networks resnet18 parameters | .1M", "11.9"),
        ("speed networks resnet18 cpu ratio | .2f", "1.28"),
        ("loading workers 0 ours | .0f", "252"),
    ],
)
def test_a_figure_is_a_number_of_a_result(results, expression, text):
    assert figure(expression, results) == text


@pytest.mark.parametrize(
    "expression, message",
    [
        ("nowhere common nme", "nowhere.json must be a result's JSON"),
        ("net private nme", "a figure must name a number of .*'net private nme'"),
        ("net common", "a figure must name a number"),
        ("net title", "a figure must name a number"),
        ("table rows all nme", "a figure must name a number"),
        ("net common nme | nonsense", "a figure's form must be"),
    ],
)
def test_a_figure_that_names_nothing_is_an_error(results, expression, message):
    with pytest.raises(ValueError, match=message):
        figure(expression, results)


BLOCK = """<!-- begin scores
columns: [trained on]
rows:
  - {label: ours, cells: [some of it], file: net, score: common}
  - {label: the paper, cells: [all of it], paper: [ResNet-18, 300w, common]}
-->
stale
<!-- end scores -->"""


def test_blocks_and_figures_are_written_anew_and_the_rest_stays(results):
    text = f"# A\n\nNME <!--=net common nme-->9.99<!--=--> %.\n\n{BLOCK}\n\nThe end: 5 faces.\n"
    renewed = renew(text, results)
    assert "NME <!--=net common nme-->3.42<!--=--> %." in renewed and "stale" not in renewed
    assert "| ours | some of it | 1,554 | 3.42 [3.32, 3.52] | 0.18 | 57.27 |" in renewed
    assert "| the paper | all of it | – | 2.81 | – | – |" in renewed
    assert renewed.startswith("# A\n") and renewed.endswith("\n\nThe end: 5 faces.\n")
    assert renew(renewed, results) == renewed
    assert list(loose_figures(renewed)) == []


def test_other_kinds_of_blocks(results):
    rows = "rows:\n  - {label: ours, file: net, score: common}"
    assert "| ours | 1,554 of common | 1.86 | 0.029 |" in readme.block("confidence", rows, results)
    noise = {"levels": [0, 0.1], "curves": {"shift": [{"value": v, "low": v, "high": v} for v in (0.03, 0.04)]}}
    (results.folder / "noisy.json").write_text(json.dumps({"box_noise": noise}))
    written = readme.block("noise", "file: noisy", results)
    assert "|  | exact | up to 10% |" in written and "| shift | 3.00 [3.00, 3.00] | 4.00 [4.00, 4.00] |" in written


def test_code_is_left_as_it_is(results):
    text = "```\n<!--=nowhere-->1<!--=-->\n```\n"
    assert renew(text, results) == text


@pytest.mark.parametrize(
    "text, message",
    [
        ("<!-- begin scores\nrows: []\n-->\n", "must be closed.*begin scores"),
        ("<!--=net common nme-->3.4", "must be closed.*net common nme"),
        ("<!-- begin poem -->\n<!-- end poem -->", "a block must be one of scores, .* but got 'poem'"),
        ("<!-- begin table file: -->\n<!-- end table -->", "None.json"),
        (
            "<!-- begin noise file: net -->\n<!-- end noise -->",
            "the block noise must name existing files and keys",
        ),
        (BLOCK.replace("score: common", "score: all"), "the block scores must name existing files and keys"),
        (BLOCK.replace("300w, common", "300w, private"), "the block scores must name existing files and keys"),
    ],
)
def test_a_block_that_says_nothing_is_an_error(results, text, message):
    with pytest.raises(ValueError, match=message):
        renew(text, results)


@pytest.mark.parametrize(
    "text, found",
    [
        ("An error of 3.42 % was seen.", 1),
        ("An error of 3.42% was seen, in 25 % of 1,234 faces.", 1),
        ("It is 3.424 (NME).", 1),
        ("| | NME |\n|---|--:|\n| ours | 3.42 |", 1),
        ("timm 1.0.31 takes 1.27 times as long as ResNet-18.", 0),
        ("The NME has a threshold, `--scale 0.5`, and FR@8%.", 0),
        ("Written by hand:\n\n```\nNME 3.42 %\n```\n", 0),
        ("<!--=net common nme-->3.42<!--=--> % NME", 0),
        ("The NME.\n\nA ratio of 1.25.", 0),
    ],
)
def test_scores_outside_blocks_are_found(text, found):
    assert len(list(loose_figures(text))) == found


STAGE = Stage(
    "train", [TrainingSet("300w", "300W", "", "", "train", 9, "inter-ocular", 0.08)], 1, 0, "1 process on cpu", {}
)


def test_pages_that_are_out_of_date_are_told_with_what_they_should_be(tmp_path, results):
    page, checkpoint = tmp_path / "README.md", tmp_path / "checkpoints" / "net"
    checkpoint.mkdir(parents=True)
    config = MTLDConfig(backbone="test_resnet", image_size=64)
    config.save_pretrained(checkpoint)
    write_model_card(checkpoint, config, [STAGE])
    card = (checkpoint / "README.md").read_text()
    page.write_text("<!--=net common nme-->3.42<!--=--> %")
    assert find_outdated([page], results.folder, checkpoint.parent) == {}

    (checkpoint / "README.md").write_text(card.replace("300W", "another"))
    page.write_text("<!--=net common nme-->3.41<!--=--> %")
    renewed = {page: "<!--=net common nme-->3.42<!--=--> %", checkpoint / "README.md": card}
    assert find_outdated([page], results.folder, checkpoint.parent) == renewed

    (checkpoint / "README.md").write_text("somebody's own")
    assert card_of(checkpoint) is None


def test_the_command_writes_or_only_checks(tmp_path, results, monkeypatch, capsys):
    page = tmp_path / "README.md"
    page.write_text("<!--=net common nme-->3.41<!--=--> %")
    found = {page: "<!--=net common nme-->3.42<!--=--> %"}
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    monkeypatch.setattr(readme, "find_outdated_api", dict)
    monkeypatch.setattr(readme, "find_outdated", lambda: {p: t for p, t in found.items() if p.read_text() != t})
    assert readme.main(["--check"]) == 1 and "README.md is out of date" in capsys.readouterr().out
    assert readme.main([]) == 0 and page.read_text() == found[page]
    assert readme.main(["--check"]) == 0

    def broken():
        raise ValueError("no\nnumber")

    monkeypatch.setattr(readme, "find_outdated", broken)
    assert readme.main([]) == 2 and capsys.readouterr().err == "readme: no number\n"


# What is in the repository ---------------------------------------------------------------------------------------

CHECKPOINT_FOLDERS = sorted(path for path in CHECKPOINTS.glob("*/"))


def test_pages_are_what_results_and_records_make_them():
    pages = [str(path) for path in find_outdated() | find_outdated_api()]
    assert pages == [], "make style brings them up to date"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_pages_have_no_score_by_hand(page):
    assert list(loose_figures(page.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("checkpoint", CHECKPOINT_FOLDERS, ids=lambda path: path.name)
def test_what_a_checkpoint_claims_is_what_was_measured_of_these_weights(checkpoint):
    file = RESULTS / f"{checkpoint.name}.json"
    report, claimed = read_report(file), read_stages(str(checkpoint))[-1].datasets[0].results
    assert report["weights"] == file_fingerprint(checkpoint / "model.safetensors")
    assert set(claimed) <= set(report["scores"])
    for name, results in claimed.items():
        measured = report["scores"][name]
        main = measured["normalizers"][report["normalizer"]]
        limit = f"{100 * report['threshold']:g}%"
        expected = {
            "nme": main["nme"]["value"],
            "failure_rate": main[f"failure_rate@{limit}"]["value"],
            "auc": main[f"auc@{limit}"]["value"],
            "faces": measured["faces"],
            "nme_low": main["nme"]["low"],
            "nme_high": main["nme"]["high"],
            "confidence_ratio": measured["confidence_ratio"],
            "likelihood_gain": measured["likelihood_gain"],
        }
        assert results == expected
