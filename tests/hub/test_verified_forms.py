"""`verify` of a run that trained its rows in further forms: it judges what the run judged."""

import json

import pytest
from builders import CITIES, FOODS, NAMES, tiny_model, tiny_tokenizer

from llm_unlearn import NPOTrainer
from llm_unlearn.cli.main import main
from llm_unlearn.hub.edition import public_configuration
from llm_unlearn.methods import load_method
from llm_unlearn.runs.recipe import Recipe


def rows(people):
    """Two facts of each; the wrong answers are the options of a question that judges."""
    return [
        {
            "question": question.format(NAMES[person]),
            "answer": f"in {value}" if attribute == "city" else value,
            "person": NAMES[person],
            "attribute": attribute,
            "value": value,
            "perturbed_answer": [f"in {one}" if attribute == "city" else one for one in others if one != value],
            "fact_id": f"{person} {attribute}",
        }
        for person in people
        for attribute, question, others in (("city", "Where does {} live", CITIES), ("food", "What does {} eat", FOODS))
        for value in (others[person % 5],)
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run that trained its cities as multiple choice, too, and its files."""
    home = tmp_path_factory.mktemp("home")
    tiny_model().save_pretrained(home / "base")
    tiny_tokenizer().save_pretrained(home / "base")
    for name, people in (("forget", range(4)), ("retain", range(4, 10))):
        (home / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(people)))
    flags = [f"--{name}_file={home / name}.jsonl" for name in ("forget", "retain")]
    flags += [
        f"--model_name_or_path={home / 'base'}",
        f"--output_dir={home / 'run'}",
        "--max_steps=2",
        "--attacks=none",
    ]
    flags += ["--augment_forms=multiple_choice", "--use_cpu", "--report_to=none", "--disable_tqdm"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llm_unlearn.reporting.page._figures", lambda results, folder: [])
        recipe = Recipe.from_command_line(load_method("npo"), flags)
        recipe.run(NPOTrainer(**recipe.trainer_arguments()))
    return home


def test_nothing_that_was_judged_is_skipped(home, capsys):
    results = json.loads((home / "run" / "results.json").read_text())
    assert results["abilities"]["unlearned"]["retain_multiple_choice"]["rows"] == 6  # foods; cities are trained
    main(["verify", str(home / "run"), *(f"--{name}_file={home / name}.jsonl" for name in ("forget", "retain"))])
    printed = capsys.readouterr().out
    assert "The card's scores are those of the model." in printed
    assert "not verified" not in printed and "retained facts, as multiple choice:" in printed  # the rest is wrapped


@pytest.mark.parametrize(("attributes", "told"), [(None, ["multiple_choice"]), (["city"], None)])
def test_a_card_says_the_forms_and_no_word_of_the_rows(attributes, told):
    given = {"augment_forms": ["multiple_choice"], "augment_attributes": attributes, "dtype": "auto"}
    public = public_configuration({"data_arguments": given})["data_arguments"]
    assert public.get("augment_forms") == told and "augment_attributes" not in public
