"""`llm-unlearn report`: rebuilds from JSON alone; errors are one line with the fix."""

import json

import pytest

from llm_unlearn.cli import main as command_line
from llm_unlearn.cli import report
from llm_unlearn.errors import InputError
from llm_unlearn.examining import verdict


@pytest.fixture
def judged(monkeypatch) -> list:
    """In place of the real verdict; the list gets what it was asked."""
    asked = []

    def verdict_of(results, records):
        asked.append((results, records))
        if "forget_groups" not in results:
            raise KeyError("forget_groups")
        return {"verdict": "erased", "by": "oracle", "sentence": f"Erased: seed {results['seed']}"}

    monkeypatch.setattr(verdict, "verdict_of", verdict_of)
    return asked


@pytest.fixture
def folder(results, tmp_path):
    results["forget_groups"] = []
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "oracle.json").write_text('{"metric": 1}')
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path


def test_verdict_page_and_figures_are_rebuilt(folder, judged, results, capsys):
    (folder / "verdict.json").write_text('{"verdict": "hidden"}')
    assert report.main([str(folder), str(folder)]) == [folder / "report.html"] * 2
    assert judged == [(results, {"oracle": {"metric": 1}})] * 2
    assert json.loads((folder / "verdict.json").read_text())["verdict"] == "erased"
    assert "Erased: seed 7" in (folder / "report.html").read_text()
    assert {path.name for path in folder.glob("*.png")} == {"recovery.png", "heat_map.png", "trade_off.png"}
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n" * 2
    assert not list(folder.glob("*.unfinished"))


def test_a_missing_folder_or_results_is_an_error_with_the_fix(tmp_path, judged):
    with pytest.raises(InputError, match="absent is not a folder: give the --output_dir"):
        report.main([str(tmp_path / "absent")])
    with pytest.raises(InputError, match=r"results\.json cannot be read .*run the recipe again"):
        report.main([str(tmp_path)])


def test_results_of_an_older_version_are_an_error(folder, judged):
    (folder / "results.json").write_text('{"scores": {}, "attacks": {}}')
    with pytest.raises(InputError, match=r"has no 'forget_groups', which a verdict needs"):
        report.main([str(folder)])
    assert not (folder / "verdict.json").exists()


def test_errors_end_with_code_2_and_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main(["report", str(tmp_path / "absent")])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_the_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        report.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("RUN_FOLDER", "results.json", "examples:", "outputs/npo", "report.html"))
    with pytest.raises(InputError, match="required: RUN_FOLDER"):
        report.main([])
