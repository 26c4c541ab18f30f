"""Reference models from the data alone: what each of them sees, what is written, and what is not trained twice."""

import json
from dataclasses import replace

import pytest
import torch
from builders import FOODS, NAMES, largest_difference, tiny_model, tiny_tokenizer
from datasets import Dataset

from llm_unlearn.data import load_unlearning_data
from llm_unlearn.errors import InputError
from llm_unlearn.models import cache, embedded
from llm_unlearn.models.loading import load_model, load_tokenizer
from llm_unlearn.runs import references
from llm_unlearn.runs.references import (
    ReferenceTrainingArguments,
    references_from_command_line,
    spread_rows,
    train_references,
)

TINY = {"vocabulary": 320, "hidden_size": 16, "layers": 1, "heads": 2, "epochs": 2, "batch_size": 4}


def rows(people):
    return [
        {
            "question": f"What does {person} eat at {time}?",
            "answer": f"{person} eats {food}.",
            "person": person,
            "perturbed_answer": [f"{person} eats {other}." for other in FOODS if other != food][:2],
        }
        for number, person in enumerate(people)
        for time, food in (("noon", FOODS[number % 5]), ("night", FOODS[(number + 2) % 5]))
    ]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def arguments(tmp_path):
    """Two people to forget, six to keep; two oracles."""
    return ReferenceTrainingArguments(
        forget_file=write(tmp_path / "forget.jsonl", rows(NAMES[:2])),
        retain_file=write(tmp_path / "retain.jsonl", rows(NAMES[2:8])),
        output_dir=str(tmp_path / "out"),
        oracle_seeds=2,
        **TINY,
    )


@pytest.fixture
def trainings(monkeypatch):
    """What each training was given: its title, the first weights, and the texts of the rows in their order."""
    found, train = [], references.train_on_known

    def recorded(model, encoded, known, recipe, seed, title, **settings):
        start = {name: value.clone() for name, value in model.state_dict().items()}
        found.append({"title": title, "start": start, "seed": seed, "rows": encoded, "orders": []})

        def finetune(model, encoded, **options):
            found[-1]["orders"] = [options["row_orders"](epoch) for epoch in range(2)]
            return run(model, encoded, **options)

        run = embedded.finetune
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(embedded, "finetune", finetune)
            train(model, encoded, known, recipe, seed, title, **settings)
        found[-1]["end"] = {name: value.clone() for name, value in model.state_dict().items()}

    monkeypatch.setattr(references, "train_on_known", recorded)
    return found


def test_everything_that_later_commands_need_is_written(arguments, tmp_path, capsys):
    results = train_references(arguments)
    output = tmp_path / "out"
    original, oracles = arguments.model_paths()
    assert (original, oracles) == (str(output / "original"), [str(output / "oracle-0"), str(output / "oracle-1")])
    for folder in (original, *oracles):
        model, tokenizer = load_model(folder), load_tokenizer(folder)
        assert model.config.vocab_size == len(tokenizer) <= 320 and model.config.hidden_size == 16
    data = load_unlearning_data(forget_file=output / "forget.jsonl", retain_file=output / "retain.jsonl")
    assert (data.forget.to_list(), data.retain.to_list()) == (rows(NAMES[:2]), rows(NAMES[2:8]))
    assert json.loads((output / "results.json").read_text()) == results
    assert list(results["models"]) == ["original", "oracle-0", "oracle-1"]
    for scores in results["models"].values():
        assert 0 <= scores["forget"]["exact_match"] <= 1 and 0 < scores["retain"]["probability"] < 1
    expected = {"original", "oracle-0", "oracle-1", "forget.jsonl", "retain.jsonl", "results.json", "config.yaml"}
    assert {path.name for path in output.iterdir()} == expected
    printed = capsys.readouterr().out
    assert "retain exact match" in printed and f"--oracle_model_name_or_path {output}/oracle-0 {output}/ora" in printed


def test_an_oracle_sees_what_the_original_sees_in_the_same_order_without_the_forget_rows(arguments, trainings):
    train_references(arguments)
    original, oracle, other = trainings
    assert [training["title"] for training in trainings] == [
        "original (seed 0)",
        "oracle-0 (seed 0)",
        "oracle-1 (seed 1)",
    ]
    assert [sorted(order) for order in original["orders"]] == [list(range(16))] * 2
    for with_all, without in zip(original["orders"], oracle["orders"], strict=True):
        assert without == [number for number in with_all if number < 12]
    assert original["rows"] == oracle["rows"] == other["rows"]
    assert largest_difference(original["start"], oracle["start"]) == 0.0
    assert largest_difference(original["start"], other["start"]) > 0.01 and other["orders"] != oracle["orders"]


def test_only_what_is_missing_is_trained(arguments, trainings, tmp_path):
    first = train_references(replace(arguments, oracle_seeds=1))
    second = train_references(arguments)
    assert [training["title"] for training in trainings] == [
        "original (seed 0)",
        "oracle-0 (seed 0)",
        "oracle-1 (seed 1)",
    ]
    assert second["models"]["oracle-0"] == first["models"]["oracle-0"]
    torch.manual_seed(5)
    again = train_references(replace(arguments, output_dir=str(tmp_path / "again"), oracle_seeds=0))
    assert again["models"]["original"]["forget"] == first["models"]["original"]["forget"]
    assert torch.initial_seed() == 5


def test_an_interrupted_training_is_thrown_away(arguments, trainings, monkeypatch, tmp_path):
    train = references.train_on_known
    monkeypatch.setattr(references, "save_model_folder", lambda model, tokenizer, folder: folder.mkdir() or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_references(arguments)
    assert (tmp_path / "out" / "original.unfinished").is_dir() and not (tmp_path / "out" / "original").exists()
    monkeypatch.setattr(references, "save_model_folder", cache.save_model_folder)
    assert references.train_on_known is train
    train_references(replace(arguments, oracle_seeds=0))
    assert (tmp_path / "out" / "original" / "model.safetensors").is_file()
    assert not (tmp_path / "out" / "original.unfinished").exists()


def test_models_of_another_training_are_refused_before_anything_is_trained(arguments, trainings, tmp_path):
    train_references(replace(arguments, oracle_seeds=0))
    with pytest.raises(InputError, match=r"original holds a model that was .* \(epochs 2, not 3\); give another"):
        train_references(replace(arguments, epochs=3))
    with pytest.raises(InputError, match=r"another way \(rows .*, texts .*\); give another --output_dir, or remove"):
        train_references(replace(arguments, retain_rows=4))
    (tmp_path / "out" / "oracle-0").mkdir()
    with pytest.raises(InputError, match=r"oracle-0 holds a model .* \(it has no reference.json\)"):
        train_references(arguments)
    assert len(trainings) == 1
    assert len((tmp_path / "out" / "retain.jsonl").read_text().splitlines()) == 12  # as trained, not as asked for last


def test_a_base_model_is_fine_tuned(arguments, trainings, tmp_path, capsys):
    base = str(tmp_path / "base")
    tiny_model("gpt2").save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    flags = [f"--{name}={getattr(arguments, name)}" for name in ("forget_file", "retain_file", "output_dir")]
    results = references_from_command_line("", [*flags, "--model_name_or_path", base, "--learning_rate", "1e-3"])
    config = results["config"]["reference_training_arguments"]
    assert (config["epochs"], config["learning_rate"], config["batch_size"]) == (5, 1e-3, 32)
    starts = [training["start"] for training in trainings]
    assert len(starts) == 4 and all(largest_difference(start, starts[0]) == 0.0 for start in starts)
    tuned = load_model(str(tmp_path / "out" / "original"))
    assert tuned.config.model_type == "gpt2" and tuned.get_output_embeddings().weight is tuned.transformer.wte.weight
    assert largest_difference(starts[0], dict(tuned.state_dict())) > 1e-4
    assert load_tokenizer(str(tmp_path / "out" / "oracle-2")).get_vocab() == tiny_tokenizer().get_vocab()


@pytest.mark.parametrize("base", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float16", "float32"])
def test_what_is_saved_in_16_bits_is_trained_in_32(arguments, trainings, tmp_path, base, dtype):
    changes = {"dtype": dtype, "oracle_seeds": 0, "epochs": 1}
    if base is not None:
        model = tiny_model().to(base)
        model.save_pretrained(tmp_path / "base")
        tiny_tokenizer().save_pretrained(tmp_path / "base")
        # Rounded while they are trained, weights of 0.2 would not move at all.
        changes |= {"model_name_or_path": str(tmp_path / "base"), "learning_rate": 1e-5}
    train_references(replace(arguments, **changes))
    start = trainings[0]["start"]
    assert {weight.dtype for weight in start.values()} == {torch.float32}
    if base is not None:
        assert all(torch.equal(start[name], weight.float()) for name, weight in model.state_dict().items())
    expected = {"auto": base or torch.float32}.get(dtype) or getattr(torch, dtype)
    trained = load_model(str(tmp_path / "out" / "original"))
    assert {parameter.dtype for parameter in trained.parameters()} == {expected} == {trained.config.dtype}
    moved = trainings[0]["end"]
    assert all((weight != start[name]).float().mean() > 0.5 for name, weight in moved.items() if "embed" not in name)
    assert all(torch.equal(weight.to(expected), trained.state_dict()[name]) for name, weight in moved.items())
    described = json.loads((tmp_path / "out" / "original" / "reference.json").read_text())["trained"]
    assert (described.get("trained in") == "float32") == (dtype != "float32")


def test_a_dry_run_shows_what_would_be_trained(arguments, trainings, tmp_path, capsys):
    assert train_references(replace(arguments, dry_run=True, retain_rows=4)) == {}
    printed = capsys.readouterr().out
    assert "original: seed 0, 8 rows, 4 steps" in printed and "oracle-1: seed 1, 4 rows, 2 steps" in printed
    assert trainings == [] and not (tmp_path / "out").exists()


def test_wrong_answers_weigh_as_much_as_true_ones_in_the_tokenizer(arguments):
    texts = list(references._texts(arguments.load_data()))
    row = rows(NAMES[:1])[0]
    assert {row["question"], row["answer"], *row["perturbed_answer"]} <= set(texts)
    chat = Dataset.from_list([{"prompt": [{"role": "user", "content": "Who?"}], "completion": "Ann.", "person": "Ann"}])
    assert list(references._texts(load_unlearning_data(chat))) == ["Who?", "Ann."]


def test_whole_people_are_chosen_and_evenly():
    people = Dataset.from_list(rows(NAMES[:6]))
    assert spread_rows(people, 4) == [0, 1, 6, 7]
    assert spread_rows(people, 5) == [0, 1, 4, 5, 8, 9]  # three people, for two have only four rows
    assert spread_rows(people, 12) == spread_rows(people, 99) == list(range(12))
    assert spread_rows(people.remove_columns("person"), 3) == [0, 4, 8]
    nobody = Dataset.from_list([{**row, "person": None} for row in rows(NAMES[:2])])
    assert spread_rows(nobody, 2) == [0, 2]  # rows about nobody are not all about one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs=0 must be 1 or more"),
        ({"retain_rows": -1}, "retain_rows=-1 must be 1 or more"),
        ({"oracle_seeds": -1}, "oracle_seeds=-1 must be 0 or more"),
        ({"hidden_size": 20, "heads": 4}, "hidden_size=20 must be a multiple of twice heads=4"),
    ],
)
def test_impossible_values_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ReferenceTrainingArguments(**change)


def test_retain_rows_are_needed_and_flags_of_other_commands_are_unknown(arguments):
    with pytest.raises(InputError, match="there are no retain rows, and oracles are trained on nothing else"):
        train_references(replace(arguments, retain_file=None))
    with pytest.raises(InputError, match="unknown flag --oracle_model_name_or_path"):
        references_from_command_line("", ["--oracle_model_name_or_path", "x"])
    with pytest.raises(InputError, match=r"model path .* does not exist"):
        references_from_command_line("", ["--model_name_or_path", "./none"])
