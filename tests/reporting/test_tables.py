"""The results table: numbers, footnotes for what is missing, and 80 columns."""

import copy
import io

import pytest
from rich.console import Console

from llm_unlearn.reporting.tables import print_results


def rendered(results: dict, width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    print_results(results, console)
    text = console.export_text()
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    return text


def row(text: str, model: str) -> list[str]:
    return next(line.split()[1:] for line in text.splitlines() if line.startswith(f"{model} "))


def test_every_number_stands_in_the_row_of_its_model(results):
    text = rendered(results)
    assert row(text, "original") == ["0.993", "0.981", "0.971", "0.952", "0.500", "1.000", "0.500", "1.000"]
    assert row(text, "oracle") == ["0.021", "0.012", "0.971", "0.952", "0.027", "0.054", "0.015", "0.030"]
    assert row(text, "unlearned") == ["0.034", "0.043", "0.971", "0.952", "0.358", "0.716", "0.159", "0.318"]
    assert "ssiuu, seed 7: erased, or only hidden?" in text
    assert "reinjection" in text and "after benign" in text
    assert "no oracle" not in text and "not run" not in text and "not measured" not in text


def test_optional_scores_add_columns_only_when_present(results):
    assert "ROUGE-L" not in rendered(results)
    for entry in results["scores"].values():
        entry.update(forget_rouge_l=0.456, forget_truth_ratio=0.789)
    text = rendered(results)
    assert "ROUGE-L" in text and "truth" in text
    assert row(text, "unlearned")[2:4] == ["0.456", "0.789"]


def test_several_oracles_show_mean_and_spread(results):
    for entry in results["scores"].values():
        entry.update(forget_rouge_l=0.4, forget_truth_ratio=0.7)
    first = results["scores"]["oracle"]
    results["scores"]["oracle_1"] = {**first, "forget_exact_match": 0.041}
    for by_model in results["attacks"].values():
        by_model["oracle_1"] = copy.deepcopy(by_model["oracle"])
    text = rendered(results)
    assert row(text, "oracle")[0] == "0.031"
    assert "±.014" in text  # the sample standard deviation of 0.021 and 0.041
    assert "standard deviation of 2 oracles" in text


def test_missing_oracle_and_attacks_are_dashes_with_reasons(results):
    del results["scores"]["oracle"]
    results["attacks"] = {"adversarial_reinjection": {}}
    text = rendered(results, width=120)
    assert row(text, "oracle") == ["-"] * 4
    assert row(text, "unlearned") == ["0.034", "0.043", "0.971", "0.952"]
    words = " ".join(text.split())
    assert "no oracle: train one or give its path" in words
    assert "not run: reinjection, benign tuning; until then low scores may only be hidden knowledge" in words


def test_one_missing_attack_is_named_alone(results):
    del results["attacks"]["benign_relearning"]
    assert "not run: benign tuning;" in " ".join(rendered(results).split())


def test_any_attack_that_was_run_has_a_column(results):
    results["attacks"] = {"retain_relearning": results["attacks"]["benign_relearning"]}
    text = rendered(results)
    assert "after retain" in text and "after benign" not in text
    assert row(text, "unlearned") == ["0.034", "0.043", "0.971", "0.952", "0.159", "0.318"]
    assert "not run: reinjection, benign tuning;" in " ".join(text.split())


def test_more_than_two_attacks_stand_in_a_table_of_their_own(results):
    attacks = results["attacks"]
    attacks["leave_one_group_out"] = attacks["adversarial_reinjection"]
    attacks["retain_relearning"] = attacks["benign_relearning"]
    for entry in results["scores"].values():
        entry.update(forget_rouge_l=0.456, forget_truth_ratio=0.789)
    text = rendered(results)
    judged, attacked = [line.split()[1:] for line in text.splitlines() if line.startswith("unlearned ")]
    assert judged == ["0.034", "0.043", "0.456", "0.789", "0.971", "0.952"]
    assert attacked == ["0.358", "0.716", "0.159", "0.318", "0.358", "0.716", "0.159", "0.318"]
    assert text.count("erased, or only hidden?") == text.count("match: exact match") == 1


def test_steps_to_half_and_reasons_are_told_below(results):
    results["attacks"]["adversarial_reinjection"]["unlearned"]["steps_to_half"] = 4
    results["attacks"]["benign_relearning"]["unlearned"]["steps_to_half"] = None
    words = " ".join(rendered(results).split())
    assert "back to half of the original's prob.: reinjection after 4 steps, benign tuning never." in words
    results["attacks"]["adversarial_reinjection"] = {}
    results["not_attacked"] = {"adversarial_reinjection": "too few facts"}
    assert "no reinjection: too few facts." in " ".join(rendered(results).split())


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_single_missing_score_is_a_dash(results, value):
    results["scores"]["unlearned"]["retain_probability"] = value
    text = rendered(results)
    assert row(text, "unlearned")[3] == "-"
    assert "-: not measured." in text


def test_a_narrow_terminal_does_not_truncate(results, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    print_results(results)
    text = capsys.readouterr().out
    assert "0.716" in text and "…" not in text


def test_redirected_output_has_the_numbers_and_no_escape_codes(results, capsys):
    print_results(results)
    text = capsys.readouterr().out
    assert "0.716" in text and "\x1b" not in text


def test_names_and_reasons_are_no_markup(results):
    console = Console(width=100, record=True)
    results |= {"method": "x[/x]", "not_attacked": {"benign_relearning": "no such [/column]"}}
    print_results(results, console)
    printed = console.export_text()
    assert "x[/x], seed 7" in printed and "no such [/column]." in printed
