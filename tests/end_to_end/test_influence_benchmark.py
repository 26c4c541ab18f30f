"""The influence audit through its command line, in this process, on the tiny fictional world."""

import json

import pytest
from builders import with_trained_adapter

from llm_unlearn.errors import InputError
from llm_unlearn.models.embedded import embedded_model
from llm_unlearn.models.loading import load_model
from llm_unlearn.runs.audits import influence_benchmark


@pytest.mark.slow
def test_original_oracle_and_unlearned_models_are_compared(cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLM_UNLEARN_CACHE", str(cache))
    unlearned = [tmp_path / name / "adapter" for name in ("first", "second")]
    for seed, folder in enumerate(unlearned):
        with_trained_adapter(load_model(str(embedded_model("tiny"))), seed).save_pretrained(folder)
    flags = ["--data=fictional:tiny", "--oracle_seeds=1", "--attack_steps=3", "--attack_seeds", "0", "1"]
    flags += ["--unlearned_model_name_or_path", *map(str, unlearned), f"--output_dir={tmp_path / 'out'}"]
    found = influence_benchmark("", [*flags, "--counterfactual_group_by=perturbed_answer"])
    assert list(found["models"]) == ["original", "oracle", "unlearned", "unlearned_1"]
    assert found["labels"]["unlearned_1"] == "second"
    assert json.loads((tmp_path / "out" / "influence.json").read_text()) == found
    printed = capsys.readouterr().out
    assert "hiding share" in printed and "…" not in printed and "second" in printed
    for name in ("influence.png", "logit_lens.png", "table.md"):
        assert (tmp_path / "out" / name).stat().st_size > 500
    assert found["models"]["original"]["probability"]["agg_value"] > 0.8
    assert len(found["models"]["oracle"]["positive"]["value_by_index"]) == 21  # one person, 7 facts, 3 questions
    for name, one in found["comparisons"].items():
        assert 0 < one["hiding_share"] < 1, name
        assert len(one["modules"]) == 14
        assert one["top"][-1]["hidden"] == pytest.approx(one["hidden"])
    runs = found["attribution"]["unlearned"]
    assert [run["seed"] for run in runs] == [0, 1] and -1 <= runs[0]["original_and_after"]["pearson"] <= 1
    assert found["attribution"]["original"][0]["original_and_before"]["pearson"] == pytest.approx(1)
    assert found["logit_lens"]["original"]["by_layer"][-1] > 0.5
    assert len(found["logit_lens"]["oracle"]["intervals"]) == 2

    # One person has one fact of each kind: no other answer of that kind among the forget rows.
    found = influence_benchmark("", [*flags, "--attack_steps=0"])
    assert found["logit_lens"] == found["attribution"] == {}
    assert "cannot be given answers" in found["not_measured"]["logit_lens"]


def test_a_dry_run_and_what_cannot_be_audited(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLM_UNLEARN_CACHE", str(tmp_path / "cache"))
    assert influence_benchmark("", ["--data=fictional:tiny", "--dry_run"]) == {}
    printed = capsys.readouterr().out
    assert "influence_score: log_odds" in printed and "attack_learning_rate: 0.0005" in printed
    assert not (tmp_path / "cache").exists()
    for flags, message in (
        (["--influence_score=logit"], "influence_score: 'logit' .* give one of probability, log_probability, log_odds"),
        (["--top_shares", "2"], "top_shares"),
        (["--reinjection_fraction=1"], "must lie between 0 and 1"),
        (["--unlearned_model_name_or_path", str(tmp_path)], "has none of config.json"),
        (["--oracle_seeds=0"], "give --unlearned_model_name_or_path"),
    ):
        if "--oracle_seeds=0" in flags:
            found = "llm_unlearn.arguments.groups.embedded_models"
            monkeypatch.setattr(found, lambda _, wanted: [tmp_path] * len(wanted))
        with pytest.raises(InputError, match=message):
            influence_benchmark("", ["--data=fictional:tiny", *flags])
