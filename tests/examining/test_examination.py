"""Examining all models: the same attacks for each, the pool of forgotten rows, and nothing run twice."""

import json
from dataclasses import replace

import pytest
import torch
from builders import encoded_rows, qa_rows, tiny_model, tiny_tokenizer
from datasets import Dataset
from filelock import FileLock
from transformers import GenerationConfig

from llm_unlearn.arguments.attacking import AttackArguments
from llm_unlearn.arguments.groups import DataArguments
from llm_unlearn.data import UnlearningData, encoding
from llm_unlearn.data.chat_templates import set_template_arguments
from llm_unlearn.errors import InputError
from llm_unlearn.examining import examination
from llm_unlearn.examining.examination import Examination
from llm_unlearn.examining.results import merge_results
from llm_unlearn.models.finetuning import finetune


def examining(folder=None, forget=None, retain=True, **changes) -> Examination:
    rates = {"reinjection_learning_rates": [5e-3], "benign_learning_rates": [5e-3]}
    small = {"attack_steps": 2, "attack_score_every": 1, "attack_seeds": [0], "attacks": ["adversarial_reinjection"]}
    small |= {"counterfactual": False}
    data = UnlearningData(forget or qa_rows(8), qa_rows(6, 20) if retain else None, None, {}, "made up")
    arguments = AttackArguments(**rates | small | changes)
    return Examination(DataArguments(), arguments, data, tiny_tokenizer(), "cpu", output_dir=folder).checked()


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    """An original that knows all eight facts and an oracle that knows none, in folders."""
    folder = tmp_path_factory.mktemp("models")
    original = tiny_model().requires_grad_(True)
    finetune(original, encoded_rows(8), learning_rate=5e-3, steps=60, batch_size=8, seed=0)
    built = {"original": original, "oracle": tiny_model(seed=1)}
    for name, model in built.items():
        model.save_pretrained(folder / name)
    return {name: str(folder / name) for name in built}


def unlearned(known: int):
    """A model that answers only the first facts."""
    model = tiny_model().requires_grad_(True)
    if known:
        finetune(model, encoded_rows(known), learning_rate=5e-3, steps=60, batch_size=8, seed=0)
    return model


@pytest.fixture
def ran(monkeypatch):
    """The attacks that were run, not remembered: (attack, pool)."""
    found, real = [], examination.load_attack

    def load_attack(name):
        record = real(name)

        def run(target):
            found.append((name, target.pool))
            return record.run(target)

        return replace(record, run=run)

    monkeypatch.setattr(examination, "load_attack", load_attack)
    return found


def test_every_model_meets_the_same_attack_and_steps_to_half_are_those_of_the_original(models):
    given = {"attacks": ["adversarial_reinjection", "benign_relearning"], "benign_data": "embedded"}
    results, records = examining(**given).examine(models["original"], [models["oracle"]], unlearned(0))
    assert list(records) == list(results["scores"]) == ["original", "oracle", "unlearned"]
    assert results["not_attacked"] == {}
    for by_model in results["attacks"].values():
        assert list(by_model) == ["original", "oracle", "unlearned"]
        half = by_model["original"]["curve"][0]["forget_probability"] / 2
        assert half > 0.45 and by_model["original"]["steps_to_half"] == 0
        for entry in by_model.values():
            reached = [point["step"] for point in entry["curve"] if point["forget_probability"] >= half]
            assert entry["steps_to_half"] == (reached[0] if reached else None)
    assert results["attacks"]["adversarial_reinjection"]["oracle"]["steps_to_half"] is None  # two steps teach nothing


def test_an_embedded_models_scores_are_remembered_beside_it_as_long_as_the_questions_stay(
    models, tmp_path, monkeypatch
):
    judged, real = [], Examination.judge

    def judge(self, model):
        judged.append(model)
        return real(self, model)

    monkeypatch.setattr(Examination, "judge", judge)
    monkeypatch.setattr(examination, "outcomes_folder", lambda path: tmp_path if path == models["original"] else None)
    results = [examining(attacks=["prompting"]).examine(models["original"], [], unlearned(2)) for _ in range(2)]
    assert results[0] == results[1] and len(judged) == 3  # the unlearned model, whose weights no folder fixes, twice
    examining(forget=qa_rows(7), attacks=["prompting"]).examine(models["original"], [], None)
    assert len(judged) == 4


def test_scores_of_other_folders_are_remembered_where_the_run_writes(models, tmp_path, monkeypatch):
    """A benchmark that was interrupted does not score its references again."""
    judged, real = [], Examination.judge
    monkeypatch.setattr(Examination, "judge", lambda self, model: judged.append(model) or real(self, model))
    references = (models["original"], [models["oracle"]])
    results = [examining(tmp_path, attacks=["prompting"]).examine(*references, unlearned(2)) for _ in range(2)]
    assert results[0] == results[1] and len(judged) == 4  # the unlearned model, which is in no folder, twice
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {"original.json", "oracle.json"}
    swapped = (models["oracle"], [models["original"]])
    other, _ = examining(tmp_path, attacks=["prompting"]).examine(*swapped, None)
    assert len(judged) == 6 and other["scores"]["original"] == results[0][0]["scores"]["oracle"]


def test_what_is_remembered_of_an_embedded_model_is_not_of_another_dtype(models, ran, tmp_path, monkeypatch):
    monkeypatch.setattr(examination, "outcomes_folder", lambda path: tmp_path)
    found = {}
    for dtype in ("float32", "bfloat16", "float32"):
        one = examining()
        one.data_args.dtype = dtype
        found.setdefault(dtype, []).append(one.examine(models["original"], [], None))
    assert len(ran) == 2 and found["float32"][0] == found["float32"][1]
    scores = [found[dtype][0][0]["scores"]["original"] for dtype in ("float32", "bfloat16")]
    assert scores[0] != scores[1]


def test_a_repeated_examination_runs_no_attack_again(models, ran, tmp_path):
    first, _ = examining(tmp_path).examine(models["original"], [models["oracle"]], unlearned(2))
    assert len(ran) == 3
    names = [f"adversarial_reinjection-{model}.json" for model in ("oracle", "original", "unlearned")]
    assert sorted(path.name for path in (tmp_path / "attacks").iterdir()) == names
    assert json.loads((tmp_path / "attacks" / names[2]).read_text())["outcome"]["runs"]
    again, _ = examining(tmp_path).examine(models["original"], [models["oracle"]], unlearned(2))
    assert len(ran) == 3 and again["attacks"] == first["attacks"]
    less_memory = {"attack_micro_batch_size": 1, "attack_activation_checkpointing": True}
    again, _ = examining(tmp_path, **less_memory).examine(models["original"], [models["oracle"]], unlearned(2))
    assert len(ran) == 3 and again["attacks"] == first["attacks"]
    examining(tmp_path).examine(models["original"], [models["oracle"]], unlearned(0))
    assert len(ran) == 4  # other weights
    examining(tmp_path, attack_steps=1).examine(models["original"], [], None)
    examining(tmp_path, forget=qa_rows(7), attack_steps=1).examine(models["original"], [], None)
    assert len(ran) == 6  # another budget, other rows
    another_day = examining(tmp_path, forget=qa_rows(7), attack_steps=1)
    set_template_arguments(another_day.processing_class, template_date="2025-01-02")
    for count in (7, 7):
        another_day.examine(models["original"], [], None)
        assert len(ran) == count


def penalized(model):
    """As its folder would have it, it says no word twice, and at least six."""
    model.generation_config = GenerationConfig(repetition_penalty=20.0, min_new_tokens=6)
    return model


def test_a_folders_generation_configuration_changes_nothing_unless_it_is_asked_for(models, ran, tmp_path):
    plain, odd = (
        examining(tmp_path / str(number)).examine(models["original"], [], model)
        for number, model in enumerate((unlearned(2), penalized(unlearned(2))))
    )
    assert odd == plain
    ours = {"generation_config": "own", "do_sample": False, "num_beams": 1, "use_cache": True}
    ours |= {"max_new_tokens": 24, "eos_token_id": [1], "pad_token_id": 1}  # 2 x 4 tokens + 16
    assert odd[0]["generation"] == {"original": ours, "unlearned": ours}
    assert odd[0]["rouge_tokenizers"] == {"forget": {"english": 8}}


def test_refusals_of_forget_and_retained_questions_are_in_the_results(models):
    one = replace(examining(attacks=[]), own_refusals=("In Paris.",))  # what the first row says, and none of the others
    results, records = one.examine(models["original"], [], None)
    said = [row["generation"] for row in records["original"]["retain_answers"]["value_by_index"].values()]
    assert len(said) == 6
    shares = {"forget": 1 / 8, "retain": sum(text == "in Paris" for text in said) / 6}
    assert results["refusals"] == {"original": shares}
    assert records["original"]["forget_refusals"]["value_by_index"]["0"] == {"score": 1.0}


def test_what_is_remembered_is_not_of_another_way_to_generate(models, ran, tmp_path, monkeypatch):
    known = {models["original"]: tmp_path / "shared"}
    monkeypatch.setattr(examination, "outcomes_folder", known.get)

    def examined(choice, model):
        return examining(tmp_path, generation_config=choice).examine(models["original"], [], model)

    own, own_records = examined("own", penalized(unlearned(2)))
    assert len(ran) == 2
    shipped, records = examined("model", penalized(unlearned(2)))
    assert len(ran) == 4
    found = shipped["generation"]["unlearned"]
    assert found.items() >= {"generation_config": "model", "repetition_penalty": 20.0, "min_new_tokens": 6}.items()
    assert (found["do_sample"], found["max_new_tokens"], found["eos_token_id"]) == (False, 24, [1])

    def said(by_model, model):
        return [row["generation"] for row in by_model[model]["forget_Q_A_ROUGE"]["value_by_index"].values()]

    assert said(records, "original") == said(own_records, "original")  # whose configuration says nothing of its own
    assert said(records, "unlearned") != said(own_records, "unlearned")
    assert shipped["scores"]["unlearned"]["forget_probability"] == own["scores"]["unlearned"]["forget_probability"]
    again, _ = examined("model", penalized(unlearned(2)))
    assert len(ran) == 4 and again["attacks"] == shipped["attacks"]
    examined("model", unlearned(2))  # the same weights, and another configuration
    assert len(ran) == 5


def test_an_interrupted_examination_keeps_what_was_done(models, ran, tmp_path, monkeypatch):
    real = Examination.load_model
    with monkeypatch.context() as broken:
        broken.setattr(Examination, "load_model", lambda self, path: 1 / 0 if "original" in path else real(self, path))
        with pytest.raises(ZeroDivisionError):
            examining(tmp_path).examine(models["original"], [models["oracle"]], None)
    assert len(ran) == 1
    examining(tmp_path).examine(models["original"], [models["oracle"]], None)
    assert len(ran) == 2


def test_the_pool_of_forgotten_rows_is_that_of_the_unlearned_model_for_all(models, ran):
    forgotten = {"reinjection_pool": "forgotten", "attacks": ["adversarial_reinjection", "leave_one_group_out"]}
    results, _ = examining(**forgotten).examine(models["original"], [models["oracle"]], unlearned(5))
    assert ran == 3 * [("adversarial_reinjection", [5, 6, 7]), ("leave_one_group_out", None)]
    for entry in results["attacks"]["adversarial_reinjection"].values():
        run = entry["runs"][0]
        assert sorted([*run["injected_rows"], *map(int, run["value_by_index"])]) == [5, 6, 7]


def test_too_small_a_pool_costs_only_its_attack(models):
    forgotten = {"reinjection_pool": "forgotten", "attacks": ["adversarial_reinjection", "retain_relearning"]}
    results, _ = examining(**forgotten).examine(models["original"], [], unlearned(7))
    assert results["attacks"]["adversarial_reinjection"] == {}
    assert list(results["attacks"]["retain_relearning"]) == ["original", "unlearned"]
    assert "answers 1 facts wrongly" in results["not_attacked"]["adversarial_reinjection"]
    with pytest.raises(InputError, match="reinjection_pool='forgotten' needs an unlearned model"):
        examining(**forgotten).examine(models["original"], [], None)


def test_the_control_meets_every_model_and_takes_the_plain_attack_as_its_true_side(models, ran):
    given = {"counterfactual": True, "derangement_seeds": [0, 1]}
    results, _ = examining(**given).examine(models["original"], [models["oracle"]], unlearned(0))
    assert list(results["counterfactual"]) == ["original", "oracle", "unlearned"]
    for name, outcome in results["counterfactual"].items():
        runs = [run["value_by_index"] for run in outcome["true"]["runs"]]
        attacked = results["attacks"]["adversarial_reinjection"][name]["runs"]
        assert runs == [run["value_by_index"] for run in attacked]
        assert list(outcome["counterfactual"]) == ["0", "1"]
    alone, _ = examining(**given, attacks=[]).examine(models["original"], [models["oracle"]], None)
    assert alone["attacks"] == {}
    for name in ("original", "oracle"):  # without the attack the control runs its true side itself, to the same end
        assert alone["counterfactual"][name]["probability"] == results["counterfactual"][name]["probability"]


def test_rows_that_cannot_have_made_up_answers_cost_only_the_control(models):
    same = [{"question": f"Question {number}?", "answer": "yes"} for number in range(4)]
    results, _ = examining(forget=Dataset.from_list(same), counterfactual=True).examine(models["original"], [], None)
    assert "cannot be given answers" in results["not_attacked"]["counterfactual_control"]
    assert results["counterfactual"] == {} and results["attacks"]["adversarial_reinjection"]
    with pytest.raises(InputError, match="counterfactual_group_by='kind' is no column of the forget rows; choose"):
        examining(counterfactual=True, counterfactual_group_by="kind")


def test_models_that_were_measured_apart_come_together(models):
    together, _ = examining().examine(models["original"], [models["oracle"]], unlearned(0))
    references, _ = examining().measure({name: models[name] for name in models})
    own, _ = examining().measure({"unlearned": unlearned(0)})
    assert own["attacks"]["adversarial_reinjection"]["unlearned"]["steps_to_half"] is None
    assert merge_results(references, own) == together


def test_processes_share_the_models_and_the_main_one_has_all(models, ran, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert examining(tmp_path).examine(models["original"], [models["oracle"]], unlearned(0)) == ({}, {})
    assert len(ran) == 3
    monkeypatch.setenv("RANK", "0")
    results, records = examining(tmp_path).examine(models["original"], [models["oracle"]], unlearned(0))
    assert len(ran) == 3 and list(results["scores"]) == list(records) == ["original", "oracle", "unlearned"]


@pytest.mark.parametrize(
    ("attack", "changes", "message"),
    [
        ("retain_relearning", {"retain": False}, "retain_relearning needs retain rows; give --retain_file"),
        ("template_relearning", {}, "template_relearning needs rows about people that no model was trained on"),
        ("leave_one_group_out", {"forget": qa_rows(1)}, "at least two groups of forget rows .+ got 1"),
        ("leave_one_group_out", {"leave_out_column": "city"}, "leave_out_column='city' is no column"),
        ("adversarial_reinjection", {"forget": qa_rows(1)}, "at least two forget facts"),
    ],
)
def test_what_cannot_run_is_said_before_anything_is_trained(attack, changes, message):
    with pytest.raises(InputError, match=message):
        examining(**{"attacks": [attack]} | changes)


def test_questions_that_do_not_fit_are_left_out_with_their_reason_unless_they_were_asked_for():
    arguments = {"counterfactual": False, "attacks": ["adversarial_reinjection"]}
    whole = examining(**arguments)
    few_shot = {"forget_few_shot", "retain_few_shot"}
    assert few_shot <= whole.judged.sets.keys() and whole.not_measured == {}
    cut = Examination(
        DataArguments(), whole.attack_args, whole.data, whole.processing_class, "cpu", max_length=14
    ).checked()
    assert set(cut.not_measured) == few_shot and whole.judged.sets.keys() - cut.judged.sets.keys() == few_shot
    assert all("max_length=14" in reason for reason in cut.not_measured.values())
    asked = AttackArguments(**arguments | {"attacks": ["prompting"]})
    with pytest.raises(InputError, match="forget_few_shot row 0: max_length=14"):
        Examination(DataArguments(), asked, whole.data, whole.processing_class, "cpu", max_length=14).checked()


def test_people_are_no_kind_of_answers():
    forget = qa_rows(4).add_column("person", ["Ann", "Ann", "Ben", "Ben"]).add_column("kind", ["a", "b", "a", "b"])
    assert examining(forget=forget, counterfactual_group_by="person").kinds == "kind"
    assert examining(forget=forget.remove_columns("kind"), counterfactual_group_by="person").kinds is None
    assert examining(forget=forget, counterfactual_group_by="answer").kinds == "answer"


def test_weights_are_read_once_and_forget_rows_tokenized_three_times_at_most(models, monkeypatch):
    """By all attacks, the control, the scores and fluency together; the third is the control's, of its own rows."""
    read, tokenized, real, tokenize = [], [], Examination.load_model, encoding._encode_pairs

    def load_model(self, path, bits=None):
        read.append(path)
        return real(self, path, bits)

    def encode_pairs(processing_class, pairs, name=None):
        asked = [(prompt[0]["content"], answer) for prompt, answer in pairs]
        if asked == [(row["question"], row["answer"]) for row in qa_rows(8)]:
            tokenized.append(name)
        return tokenize(processing_class, pairs, name)

    monkeypatch.setattr(Examination, "load_model", load_model)
    monkeypatch.setattr(encoding, "_encode_pairs", encode_pairs)
    attacks = ["adversarial_reinjection", "benign_relearning", "retain_relearning", "decoding", "prompting"]
    one = examining(attacks=attacks, counterfactual=True, derangement_seeds=[0], benign_data="embedded")
    one.examine(models["original"], [models["oracle"]], unlearned(2))
    assert sorted(read) == sorted([models["original"], models["oracle"]])
    assert 1 <= len(tokenized) <= 3, tokenized


def test_what_is_remembered_needs_no_weights(models, tmp_path, monkeypatch):
    monkeypatch.setattr(examination, "outcomes_folder", lambda path: tmp_path)
    first = examining().examine(models["original"], [models["oracle"]], None)
    read, real = [], Examination.load_model

    def load_model(self, path, bits=None):
        read.append(path)
        return real(self, path, bits)

    monkeypatch.setattr(Examination, "load_model", load_model)
    again = examining().examine(models["original"], [models["oracle"]], None)
    assert read == [models["original"]]  # which reads the answers for their fluency
    assert again == first


def test_an_attack_that_began_at_another_model_ends_the_run_before_the_next_one(models, ran, monkeypatch):
    real = examination.check_starts

    def check(name, own, attacks, load):
        start = next(iter(attacks.values()))["runs"][0]["curve"][0]["forget_probability"]
        assert start == pytest.approx(sum(row["prob"] for row in own.values()) / len(own), rel=0.5)
        real(name, {row: {"prob": 0.01} for row in own}, attacks, load)

    given = examining(attacks=["benign_relearning", "retain_relearning"], benign_data="embedded")
    monkeypatch.setattr(examination, "check_starts", check)
    with pytest.raises(InputError, match=r"original: benign_relearning begins at a forget probability of 0\.9"):
        given.examine(models["original"], [], None)
    assert [attack for attack, _ in ran] == ["benign_relearning"]


def test_scores_that_another_process_is_at_are_left_to_it(models, tmp_path, monkeypatch):
    """It goes on with the next model, and takes (or makes) the first one's when there is nothing else to do."""
    (tmp_path / "scores").mkdir()
    other = FileLock(tmp_path / "scores" / "oracle.json.lock")
    other.acquire()
    order, real = [], Examination.judge

    def judge(self, model):
        order.append("oracle" if torch.equal(model.lm_head.weight, tiny_model(seed=1).lm_head.weight) else "original")
        other.release()
        return real(self, model)

    monkeypatch.setattr(Examination, "judge", judge)
    results, records = examining(tmp_path).examine(models["original"], [models["oracle"]], None)
    assert order == ["original", "oracle"] and records.keys() == results["scores"].keys() == {"original", "oracle"}
