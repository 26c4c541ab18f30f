"""The leaderboard: what an entry takes over from a benchmark, the order of methods, and that our page is current."""

import json
from pathlib import Path

import pytest

from llm_unlearn.cli.main import main
from llm_unlearn.errors import InputError
from llm_unlearn.reporting.leaderboard import add_benchmark, build_page, page_of, read_entries, short_names
from llm_unlearn.reporting.leaderboard_figure import leaderboard_figure

OURS = Path(__file__).parents[2] / "docs" / "leaderboard"


def score(value, name="output", variant=None, score="forget_knowledge"):
    label = {None: name, "reversed": "asked: reversed"}[variant]
    return {"name": name, "variant": variant, "label": label, "score": score, "value": value, "interval": [0.25, 1.0]}


def method(known, reversed_, reinjected, verdict="hidden", lost=(), steps=10.0):
    return {
        "learning_rate": 3e-4,
        "seeds": [50, 51],
        "steps": steps,
        "reached": 2,
        "verdicts": {verdict: 2},
        "seconds": 4.0,
        "lowest": {"ability": "general", "label": "general facts", "score": "exact_match", "share": 0.75},
        "lost": list(lost),
        "control": None,
        "scores": [
            score(0.9, score="forget_probability"),
            score(known),
            score(reversed_, "prompting", "reversed"),
            score(reinjected, "adversarial_reinjection"),
        ],
    }


@pytest.fixture
def benchmark(tmp_path):
    """A finished benchmark of four methods, all of whose scores are made up."""
    folder = tmp_path / "benchmark"
    folder.mkdir()
    config = {
        "reference_arguments": {"data": None, "forget_split": None, "forget_file": None, "model_name_or_path": None},
        "adapter_arguments": {"full_finetuning": False, "lora_r": 8},
        "attack_arguments": {"attacks": ["adversarial_reinjection"], "attackers": ["full"], "attack_steps": 9},
        "robustness_config": {"retain_weight": 60.0, "general_weight": 100.0},
        "command": "not a group",
    }
    methods = {
        "npo": method(0.8, 1.0, 0.9),
        "sam": method(0.6, 1.0, 0.7),
        "broken:rho=0.5": method(0.5, 0.5, 0.5, "over-unlearned", ["general"]),
        "best:rho=0.5,name=x": method(0.5, 0.5625, 0.5, "erased", steps=99.6),
    }
    references = {"oracle": {"models": 2, "scores": [score(0.5)]}, "original": {"models": 1, "scores": [score(1.0)]}}
    (folder / "robustness.json").write_text(json.dumps({"config": config}))
    (folder / "summary.json").write_text(json.dumps({"methods": methods, "references": references}))
    return folder


def test_an_entry_for_each_method_and_a_page_in_their_order(benchmark, tmp_path):
    board = tmp_path / "board"
    files = add_benchmark(benchmark, board, "Ann")
    assert len(files) == 4 and files[0].name.startswith("fictional-forget10-lora-of-rank-8-npo-")
    entry = json.loads(files[3].read_text())
    assert entry["settings"] == {
        "retain_weight": 60.0,
        "general_weight": 100.0,
        "rho": 0.5,
        "name": "x",
        "learning_rate": 3e-4,
    }
    assert entry["knowledge"]["most"] == {"value": 0.5625, "interval": [0.25, 1.0], "label": "asked: reversed"}
    page = build_page(board).read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ") and "[" in line]
    assert [row[0] for row in rows] == [
        "| best (Ann)",
        "| sam (Ann)",  # as npo, but for what reinjection brings back
        "| npo (Ann)",
        "| broken (Ann)",  # loses an ability
        "| *oracle*",
        "| *original*",
    ]
    assert rows[0][1:] == [
        "`rho 0.5`, `name x`",
        "2 erased",
        "0.50 [0.25, 1.00]",
        "0.56 [0.25, 1.00]",
        "0.50 [0.25, 1.00]",
        "0.56 [0.25, 1.00] asked: reversed",
        "0.75 general facts",
        "100 |",
    ]
    assert rows[3][7] == "0.75 general facts, lost: 1" and rows[4][1] == "2 models"
    assert "All with `retain_weight 60`, `general_weight 100`, `learning_rate 0.0003`." in page


def test_runs_that_did_not_stop_and_weights_that_a_form_fixes_are_said(benchmark, tmp_path):
    summary = json.loads((benchmark / "summary.json").read_text())
    summary["methods"]["sam"] |= {"reached": 1, "fixed": {"retain_loss": "none", "general_weight": 0.0, "other": 3}}
    (benchmark / "summary.json").write_text(json.dumps(summary))
    board = tmp_path / "board"
    add_benchmark(benchmark, board)
    entry = next(entry for entry in read_entries(board) if entry["method"] == "sam")
    assert entry["settings"] == {"general_weight": 0.0, "retain_loss": "none", "learning_rate": 3e-4}
    (row,) = [line for line in build_page(board).read_text().splitlines() if line.startswith("| sam")]
    assert row.endswith("| 10 (1 of 2 did not stop) |")


def test_the_figure_has_a_line_for_each_method_with_what_it_knows_and_what_it_lost(benchmark, tmp_path):
    board = tmp_path / "board"
    add_benchmark(benchmark, board)
    build_page(board)
    assert (board / "fictional-forget10-lora-of-rank-8.png").is_file()
    entries = read_entries(board)
    npo = next(entry for entry in entries if entry["method"] == "npo")
    again = npo | {"settings": npo["settings"] | {"learning_rate": 1e-3}}
    names = short_names([npo, again, entries[0]])
    assert names == ["npo\nlearning_rate 0.0003", "npo\nlearning_rate 0.001", entries[0]["method"]]
    known, kept = leaderboard_figure([npo, again, entries[0]], names, tmp_path / "figure.png").axes
    points = {scatter.get_label(): scatter.get_offsets().tolist() for scatter in known.collections}
    assert points["as asked"][:2] == [[0.8, 0.0], [0.8, 1.0]] and points["after reinjection"][0] == [0.9, 0.0]
    assert [label.get_text() for label in known.get_yticklabels()] == names
    assert [bar.get_width() for bar in kept.patches] == [0.75] * 3
    assert kept.texts[0].get_text() == "0.75 general facts"


def test_the_same_measurement_replaces_itself_and_another_setting_does_not(benchmark, tmp_path):
    board = tmp_path / "board"
    add_benchmark(benchmark, board)
    add_benchmark(benchmark, board)
    assert len(read_entries(board)) == 4
    found = json.loads((benchmark / "robustness.json").read_text())
    found["config"]["robustness_config"]["retain_weight"] = 1.0
    (benchmark / "robustness.json").write_text(json.dumps(found))
    add_benchmark(benchmark, board)
    assert len(read_entries(board)) == 8


def test_what_cannot_be_added(benchmark, tmp_path):
    with pytest.raises(InputError, match=r"has no entries: add a benchmark with `llm-unlearn leaderboard add FOLDER`"):
        read_entries(tmp_path)
    with pytest.raises(InputError, match=r"robustness.json cannot be read .* must be one of `llm-unlearn run robust"):
        add_benchmark(tmp_path, tmp_path / "board")
    found = json.loads((benchmark / "summary.json").read_text())
    found["methods"]["npo"]["scores"] = found["methods"]["npo"]["scores"][:1]
    (benchmark / "summary.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match="of npo no knowledge was measured: rows need a column `attribute` or `kind`"):
        add_benchmark(benchmark, tmp_path / "board")
    (tmp_path / "board").mkdir()
    (tmp_path / "board" / "old.json").write_text('{"format": 0}')
    with pytest.raises(InputError, match=r"old.json: format=0 is not 1; add its benchmark again"):
        read_entries(tmp_path / "board")


def test_the_command_adds_builds_and_checks(benchmark, tmp_path, capsys):
    board = ["--leaderboard", str(tmp_path / "board")]

    def leaderboard(*arguments):
        with pytest.raises(SystemExit) as done:
            main(["leaderboard", *arguments, *board])
            raise SystemExit(0)
        return done.value.code

    assert leaderboard("add", str(benchmark)) == 0 and "board/README.md" in capsys.readouterr().out
    assert leaderboard("check") == 0
    (tmp_path / "board" / "README.md").write_text("by hand")
    assert leaderboard("check") == 1 and "is stale" in capsys.readouterr().out
    assert leaderboard("build") == 0 and leaderboard("check") == 0
    assert leaderboard("add") == 2 and "benchmark folders go with add" in capsys.readouterr().err
    assert leaderboard("build", str(benchmark)) == 2


def test_our_page_is_what_its_entries_give():
    assert (OURS / "README.md").read_text(encoding="utf-8") == page_of(read_entries(OURS))
