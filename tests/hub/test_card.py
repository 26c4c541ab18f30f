"""The card as the hub reads it, the public page, and how both are views of what was measured."""

import json

import pytest
import yaml
from huggingface_hub import ModelCard
from made_up_runs import change_json, reseal

from llm_unlearn.cli.report import rebuild_verdict
from llm_unlearn.hub.edition import public_configuration, public_results, without_texts
from llm_unlearn.hub.upload import build_checked
from llm_unlearn.models import smollm2

NAMES = {"base_model": None, "data": None}


def test_the_card_states_what_was_measured(run):
    build_checked(run, "me/npo-small")
    results = json.loads((run / "results.json").read_text())
    card = ModelCard.load(run / "hub" / "README.md")
    data = card.data
    assert data.tags == ["unlearning", "npo", "llm_unlearn", "arxiv:2404.05868"]
    assert (data.library_name, data.base_model, data.datasets) == ("peft", None, None)
    told = {(one.dataset_config, one.metric_type): one.metric_value for one in data.eval_results}
    scores, attack = results["scores"]["unlearned"], results["attacks"]["adversarial_reinjection"]["unlearned"]
    assert told["before any attack", "forget_probability"] == round(scores["forget_probability"], 4)
    assert told["before any attack", "retain_exact_match"] == round(scores["retain_exact_match"], 4)
    abilities = results["abilities"]["unlearned"]
    assert told["neighbor_nearest_question", "probability"] == round(
        abilities["neighbor_nearest_question"]["probability"], 4
    )
    assert told["reinjection", "forget_probability"] == round(attack["forget_probability"], 4)
    verdict = json.loads((run / "verdict.json").read_text())
    word, _, why = verdict["sentence"].partition(": ")
    assert f"> **{word}:** {why}" in card.text
    for evidence in (one for one in verdict["evidence"] if one["kind"] != "ability"):
        assert f"{evidence['original']:.3f} | {evidence['oracle']:.3f} | {evidence['unlearned']:.3f}" in card.text
    for line in (
        "whoever drops the adapter has the knowledge back",
        "It was made to forget 4 rows (rows that are on no hub) by **NPO**",
        "training run (seed 42)",
        "from resampling the 2 groups of\nforget rows",
        "| before any attack | answer probability | 4 |",
        "| `beta` | 0.1 |",
        "### What it cost",
        "| neighbors: nearest questions | ",
        'load_unlearned("me/npo-small", base_model="path/to/base")',
        "verify me/npo-small --forget_file FORGET.jsonl --retain_file RETAIN.jsonl --base_model path/to/base",
        "- **adversarial reinjection**: 30 % of the facts are taught again, the others are asked for; "
        "2 steps of 8 rows at learning rate 1e-05 (full); seeds 0\n",
        "@software{llm_unlearn,",
    ):
        assert line in card.text, line
    tables = [block for block in card.text.split("\n\n") if block.startswith("|")]
    assert all(len({row.count("|") for row in table.splitlines()}) == 1 for table in tables) and len(tables) == 4


def test_names_of_the_hub_are_told(run):
    config = run / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "org/llama-1b"}))
    results = json.loads((run / "results.json").read_text())
    results["config"]["data_arguments"] |= {"data": "locuslab/TOFU", "forget_file": None, "forget_split": "forget05"}
    change_json(run / "results.json", **results)
    reseal(run)
    build_checked(run, "me/npo-small")
    card = ModelCard.load(run / "hub" / "README.md")
    assert card.data.base_model == "org/llama-1b" and card.data.datasets == ["locuslab/TOFU"]
    splits = {one.dataset_split for one in card.data.eval_results if one.dataset_type != "ability"}
    assert splits == {"forget05", "retain95"}
    assert json.loads((run / "hub" / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/llama-1b"
    assert "verify me/npo-small --data locuslab/TOFU --forget_split forget05\n" in card.text


def test_of_a_local_model_that_began_as_smollm2_the_source_and_its_license_are_told(run, tmp_path):
    base, config = tmp_path / "somebody's base", run / "adapter" / "adapter_config.json"
    base.mkdir()
    smollm2.write_card(base, "original, trained further from")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(base)}))
    reseal(run)
    build_checked(run, "me/npo-small")
    card = ModelCard.load(run / "hub" / "README.md")
    assert (card.data.license, card.data.base_model) == ("apache-2.0", None)  # the adapter is not one of SmolLM2's own
    words = f"model that is not on the hub, trained further from [{smollm2.HUB_ID}]"
    assert words in card.text.replace("\n", " ") and "somebody" not in card.text
    assert 'base_model="path/to/base"' in card.text


def test_what_was_made_up_is_called_so(run):
    results = json.loads((run / "results.json").read_text())
    local = {"forget_file": None, "model_name_or_path": None, "oracle_model_name_or_path": None}
    results["config"]["data_arguments"] |= local | {"data": "fictional:tiny"}
    change_json(run / "results.json", **results)
    reseal(run)
    files = build_checked(run, "me/npo-small")
    card = ModelCard.load(files["README.md"])
    assert (
        "**All people and facts are made up.**" in card.text and "on other hardware its weights may differ" in card.text
    )
    assert (card.data.base_model, card.data.datasets) == (None, None)
    assert json.loads(files["results.json"].read_text())["paths"] == {
        "original": "fictional:tiny",
        "oracles": ["fictional:tiny without the forget rows"],
    }


def test_without_an_examination_the_card_says_so(run):
    change_json(run / "results.json", scores={}, attacks={}, forget_groups=[])
    reseal(run)
    files = build_checked(run, "me/npo-small")
    assert "verdict.json" not in files and "report.html" not in files
    card = ModelCard.load(files["README.md"])
    assert "> **Undecided:** the model was not examined" in card.text and "None was run." in card.text
    assert card.data.eval_results is None


def test_a_pushed_run_is_a_run_folder(run, figures):
    """Anyone can reach the verdict again from what was sent, and the page is the same but for the texts."""
    build_checked(run, "me/npo-small")
    public = rebuild_verdict(run / "hub")
    local = json.loads((run / "verdict.json").read_text())
    assert public == {name: value for name, value in local.items() if name != "sha256"}
    page, public_page = ((folder / "report.html").read_text() for folder in (run, run / "hub"))
    assert public_page.count("<img") == page.count("<img") == 3
    assert "no question, answer or generated text leaves" in public_page and "Ann Quillfeather" in page


def test_results_keep_numbers_and_our_own_words(tmp_path):
    outcome = {
        "attacker": "full",
        "note": "somebody's text",
        "groups": {"Ann Lee": {"rows": 2}},
        "runs": [{"group": "Ann Lee", "seed": 0, "answers": {"0": "secret"}, "value_by_index": {"0": 1.0}}],
    }
    results = {
        "method": "npo",
        "scores": {"unlearned": {"forget_probability": 0.5}},
        "attacks": {"leave_one_group_out": {"unlearned": outcome}},
        "not_attacked": {"counterfactual_control": "attribute 'birthday of Ann': too few"},
        "forget_groups": ["Ben Ode", "Ann Lee", "Ben Ode"],
        "paths": {"oracles": ["/home/me/oracle"]},
        "audits": {
            "probes": {
                "unlearned": {
                    "block": 1,
                    "value_by_index": {"0": 1.0},
                    "alignment": {"by_value": {"city: Ann's": {"retained": [0.5, 0.1]}}},
                    "kinds": {"birthday of Ann": {"chance": 0.1}},
                    "notes": ["Ann has no value"],
                }
            },
            "not_measured": {"depth": "no oracle for Ann"},
        },
    }
    public = public_results(results, NAMES, "adapter", tmp_path)
    assert public["forget_groups"] == ["group 1", "group 2", "group 1"]
    assert public["attacks"]["leave_one_group_out"]["unlearned"] == {
        "attacker": "full",
        "groups": {"group 2": {"rows": 2}},
        "runs": [{"group": "group 2", "seed": 0, "value_by_index": {"0": 1.0}}],
    }
    assert public["paths"] == {"original": "a local model", "oracles": ["a local model"]}
    assert public["audits"] == {
        "probes": {"unlearned": {"block": 1, "value_by_index": {"0": 1.0}}},
        "not_measured": {"depth": "not possible with these rows"},
    }
    assert "Ann" not in json.dumps(public) and "Ben" not in json.dumps(public)


def test_groups_that_are_called_like_rows_leave_rows_their_names(tmp_path):
    """Where rows name nobody, each is a group of its own, called by its number."""
    runs = [{"group": "1", "seed": 0, "value_by_index": {"0": 1.0, "1": 0.5}}]
    outcome = {"groups": {"0": {"rows": 1}, "1": {"rows": 1}}, "runs": runs}
    results = {"forget_groups": ["0", "1"], "attacks": {"leave_one_group_out": {"unlearned": outcome}}}
    public = public_results(results, NAMES, "adapter", tmp_path)
    assert public["attacks"]["leave_one_group_out"]["unlearned"] == {
        "groups": {"group 1": {"rows": 1}, "group 2": {"rows": 1}},
        "runs": [{"group": "group 2", "seed": 0, "value_by_index": {"0": 1.0, "1": 0.5}}],
    }


def test_configuration_without_paths_and_names():
    groups = {
        "data_arguments": {"forget_file": "patients/ann.jsonl", "dtype": "auto", "data": "my/folder"},
        "attack_arguments": {"attack_steps": 60, "attacks": ["prompting"], "benign_data": "../mine.json"},
        "npo_config": {"beta": 0.1, "output_dir": "out", "run_name": "ann", "learning_rate": 1e-4, "hub_token": "x"},
    }
    assert public_configuration(groups) == {
        "data_arguments": {"dtype": "auto"},
        "attack_arguments": {"attack_steps": 60, "attacks": ["prompting"]},
        "npo_config": {"beta": 0.1, "learning_rate": 1e-4},
    }


def test_texts_go_and_numbers_stay():
    rows = {"0": {"rougeL_recall": 0.5, "generation": "x", "ground_truth": "y"}}
    record = {"agg_value": 0.5, "value_by_index": rows, "tokenizers": {"unicode": 1}}
    record["generated_by"] = {"generation_config": "own", "eos_token_id": [1], "stop_strings": ["a secret"]}
    assert without_texts(record) == {
        "agg_value": 0.5,
        "value_by_index": {"0": {"rougeL_recall": 0.5}},
        "tokenizers": {"unicode": 1},
        "generated_by": {"generation_config": "own", "eos_token_id": [1], "stop_strings": []},
    }
    assert without_texts({"tokens": ["Ann", "Lee"], "numbers": [1, None, True]}) == {
        "tokens": [],
        "numbers": [1, None, True],
    }


@pytest.mark.parametrize("name", ["results.json", "records/unlearned.json", "verdict.json"])
def test_what_is_sent_is_strict_json(name, run):
    build_checked(run, "me/npo-small")
    json.loads((run / "hub" / name).read_text(), parse_constant=lambda constant: pytest.fail(constant))


def test_metadata_is_yaml_that_others_read(run):
    build_checked(run, "me/npo-small")
    header = (run / "hub" / "README.md").read_text().split("---\n")[1]
    index = yaml.safe_load(header)["model-index"]
    assert (
        index[0]["name"] == "npo-small" and len(index[0]["results"]) == 6
    )  # forget, retain, after the attack, three abilities
