"""`load_unlearning_data` over every kind of source, and what it says when there is nothing to load."""

import json
import re
import subprocess
import sys
from collections import Counter

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset

import llm_unlearn.data.fictional
from llm_unlearn.data import load_unlearning_data
from llm_unlearn.data.fictional_people import World
from llm_unlearn.data.formats import read_rows
from llm_unlearn.errors import InputError

TOFU_COLUMNS = ["question", "answer", "paraphrased_answer", "perturbed_answer", "paraphrased_question"]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def rows(*names, **columns):
    return [{"question": f"Who is {name}?", "answer": f"I know {name}.", **columns} for name in names]


def error_of(*arguments, **named_arguments):
    with pytest.raises(InputError) as caught:
        load_unlearning_data(*arguments, **named_arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The fictional world


@pytest.fixture
def fake_world(monkeypatch):
    splits = {"holdout": rows("Zoe"), "general": [{"question": "1 + 1?", "answer": "2", "perturbed_answer": ["3"]}]}
    splits["instructions"] = [{"question": "Count.", "answer": "1, 2"}]
    splits["chat"] = [{"question": f"Add {n} and 1.", "answer": f"{n + 1}"} for n in (1, 2, 3)]
    for forget, retain in (("forget01", "retain99"), ("forget05", "retain95"), ("forget10", "retain90")):
        splits[forget] = rows("Ann", fact_id="Ann/city", perturbed_answer=["Wrong.", "Wronger."])
        splits[retain] = [row | {"person": row["question"][7:10]} for row in rows(f"Bob of {retain}", "Cid")]
    asked = [row | {"person": row["question"][7:-1]} for row in rows("Ann", "Bob", "Cid")]
    queries = {"reversed": [row | {"fact_id": f"{row['person']}/city"} for row in asked]}
    shown = {"prompt": [{"role": "user", "content": "Who? Dan. Who?"}], "completion": "Bob.", "person": "Bob"}
    world = World("small", 0, splits, queries, [*queries["reversed"], shown], facts={}, lessons=[])
    sizes = []
    monkeypatch.setattr(llm_unlearn.data.loading, "build_world", lambda size: sizes.append(size) or world)
    return sizes


def test_the_fictional_world_is_the_default(fake_world):
    data = load_unlearning_data()
    assert fake_world == ["small"]
    assert data.source == "fictional (forget10, retain90)"
    assert data.forget.to_list() == rows("Ann", fact_id="Ann/city", perturbed_answer=["Wrong.", "Wronger."])
    assert data.retain["question"][:] == ["Who is Bob of retain90?", "Who is Cid?"]
    assert data.holdout.column_names == ["question", "answer"]  # no fact_id is made up
    counts = {name: len(rows) for name, rows in data.evaluation.items()}
    assert counts == {"general": 1, "instructions": 1, "chat": 1}
    (asked,) = data.queries["reversed"].to_list()  # Bob is not forgotten
    assert asked == rows("Ann", fact_id="Ann/city", person="Ann")[0]


def test_of_the_retained_people_every_second_one_and_of_the_instructions_every_second_one_judges(fake_world):
    """Bob is practiced and Cid judged; Ann is forgotten."""
    data = load_unlearning_data()
    assert [(row["prompt"][0]["content"], row["completion"], row["person"]) for row in data.general] == [
        ("Who is Bob?", "I know Bob.", "Bob"),
        ("Who? Dan. Who?", "Bob.", "Bob"),
        ("Add 1 and 1.", "2", None),
        ("Add 3 and 1.", "4", None),
    ]
    assert data.general["fact_id"][:] == ["Bob/city", None, None, None]
    assert data.evaluation["chat"].to_list() == [{"question": "Add 2 and 1.", "answer": "3"}]
    assert data.retain_queries["reversed"]["question"][:] == ["Who is Cid?"]
    assert data.judged_people == ["Cid"]
    without = load_unlearning_data(general_data="none")
    assert without.general is None and without.judged_people == ["Cid"]
    assert without.evaluation["chat"].to_list() == data.evaluation["chat"].to_list()


@pytest.mark.parametrize(("forget", "retain"), [("forget01", "retain99"), ("forget05", "retain95")])
def test_the_retain_split_is_the_complement_of_the_forget_split(fake_world, forget, retain):
    data = load_unlearning_data("fictional:tiny", forget_split=forget)
    assert fake_world == ["tiny"]
    assert data.source == f"fictional:tiny ({forget}, {retain})"
    assert data.retain[0]["question"] == f"Who is Bob of {retain}?"


def test_the_real_fictional_world_loads():
    data = load_unlearning_data("fictional:tiny")
    assert {"paraphrased_question", "paraphrased_answer", "perturbed_answer", "fact_id"} <= set(
        data.forget.column_names
    )
    assert not set(data.forget["fact_id"]) & set(data.retain["fact_id"])
    assert {name: len(found) for name, found in data.queries.items()} == {
        "multiple_choice": 7,
        "reversed": 2,
        "two_hop": 1,
    }
    assert set().union(*(found["person"] for found in data.queries.values())) == set(data.forget["person"])


def test_unknown_sizes_and_splits():
    assert "'smal' is unknown; choose one of tiny, small, medium" in error_of("fictional:smal")
    assert error_of("fictional:tiny", forget_split="forget1") == (
        "forget_split 'forget1' is unknown (did you mean 'forget10'?); choose one of forget01, forget05, forget10, "
        "forget20, forget50"
    )
    assert "retain_split 'retain09' is unknown (did you mean 'retain9" in error_of("fictional", retain_split="retain09")


# TOFU in a folder


def test_tofu_folder(shared_data):
    folder = shared_data / "tofu"
    data = load_unlearning_data(str(folder))
    assert data.source == f"{folder} (forget10, retain90)"
    assert (len(data.forget), len(data.retain), len(data.holdout)) == (400, 3600, 400)
    assert data.forget.column_names == [*TOFU_COLUMNS, "person"]
    assert data.retain.column_names == ["question", "answer", "person"]
    assert "person" not in {*data.holdout.column_names, *data.evaluation["real_authors"].column_names}
    assert {len(wrong) for wrong in data.forget["perturbed_answer"]} == {5}
    lengths = {name: len(rows) for name, rows in data.evaluation.items()}
    assert lengths == {"real_authors": 100, "world_facts": 117, "retain_perturbed": 400}
    assert {len(wrong) for wrong in data.evaluation["real_authors"]["perturbed_answer"]} == {3}


@pytest.mark.parametrize(("percent", "forgotten"), [("01", 40), ("05", 200), ("10", 400)])
def test_facts_about_tofu(shared_data, percent, forgotten):
    def pairs(dataset):
        return list(zip(dataset["question"], dataset["answer"], strict=True))

    data = load_unlearning_data(shared_data / "tofu", forget_split=f"forget{percent}")
    full = pairs(Dataset.from_list(read_rows(shared_data / "tofu" / "full.json")))
    assert full == pairs(data.retain) + pairs(data.forget)  # so the smaller forget sets are tails of forget10
    assert len(data.forget) == len(data.holdout) == forgotten
    assert not set(pairs(data.holdout)) & set(full)
    assert pairs(data.evaluation["retain_perturbed"]) == full[:400]
    repeated = [question for question, count in Counter(question for question, _ in full).items() if count > 1]
    assert repeated == ["What is the full name of the author?"]
    assert len(set(full)) == len(full) == 4000


@pytest.mark.parametrize(("forget", "retain"), [("forget01", None), ("forget05", None), ("forget01", "retain90")])
def test_people_of_tofu_are_numbered_by_their_place_in_full(shared_data, forget, retain):
    data = load_unlearning_data(shared_data / "tofu", forget_split=forget, retain_split=retain)
    full = read_rows(shared_data / "tofu" / "full.json")
    for rows in (data.forget, data.retain):
        assert set(Counter(rows["person"]).values()) == {20}
        for row in rows:
            number = int(row["person"].removeprefix("author "))
            about = [(other["question"], other["answer"]) for other in full[20 * number : 20 * number + 20]]
            assert (row["question"], row["answer"]) in about
    assert not set(data.forget["person"]) & set(data.retain["person"])


def test_twenty_consecutive_rows_of_tofu_are_about_one_author(shared_data):
    """A word with a capital letter, which a name is, occurs in most rows of a block and in none of those beside it."""
    full = read_rows(shared_data / "tofu" / "full.json")
    words = [set(re.findall(r"\b[A-Z][\w-]{2,}", " ".join(row.values()))) for row in full]
    blocks = [Counter(word for row in words[start : start + 20] for word in row) for start in range(0, 4000, 20)]
    unnamed = []
    for number, block in enumerate(blocks):
        beside = (blocks[number - 1], blocks[(number + 1) % len(blocks)])
        if not any(count >= 15 and not any(word in other for other in beside) for word, count in block.items()):
            unnamed.append(number)
    assert unnamed == [88]  # "the fictitious author" throughout, between two who have names


def test_people_are_given_only_to_the_whole_splits_of_tofu_and_only_where_rows_name_none(tofu_folder):
    folder, write = tofu_folder
    assert "person" not in load_unlearning_data(folder).forget.column_names
    write("forget10.json", rows(*map(str, range(400))))
    write("retain90.json", rows(*map(str, range(400, 4000)), person="somebody"))
    data = load_unlearning_data(folder)
    assert (data.forget["person"][0], data.forget["person"][399]) == ("author 180", "author 199")
    assert set(data.retain["person"]) == {"somebody"}


def test_overlapping_tofu_splits_are_refused(shared_data):
    message = error_of(shared_data / "tofu", forget_split="forget10", retain_split="retain95")
    assert message.startswith(
        "rows of the forget set that are in the retain set too: 200 (forget rows 0, 1, 2, 3, 4, ..."
    )
    smaller = load_unlearning_data(shared_data / "tofu", forget_split="forget01", retain_split="retain90")
    assert len(smaller.retain) == 3600  # retaining less than the complement is fine


@pytest.fixture
def tofu_folder(tmp_path):
    def write(name, content):
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")

    write("forget10.json", rows("Ann", "Bob"))
    write("retain90.json", rows("Cid"))
    return tmp_path, write


def test_a_folder_with_the_two_splits_is_enough(tofu_folder):
    data = load_unlearning_data(tofu_folder[0])
    assert (data.forget.to_list(), data.retain.to_list()) == (rows("Ann", "Bob"), rows("Cid"))
    assert (data.holdout, data.evaluation, data.queries) == (None, {}, {})


def test_perturbed_rows_must_align(tofu_folder):
    folder, write = tofu_folder
    write("forget10_perturbed.json", rows("Ann", "Bob", paraphrased_answer="x"))
    assert load_unlearning_data(folder).forget["paraphrased_answer"][:] == ["x", "x"]
    write("forget10_perturbed.json", rows("Ann", "Cid"))
    assert error_of(folder) == (
        "forget10_perturbed row 1: question 'Who is Cid?' is not that of forget10; take both from one "
        "version of TOFU, or remove forget10_perturbed"
    )
    write("forget10_perturbed.json", rows("Ann"))
    assert error_of(folder).startswith("forget10_perturbed has 1 rows but forget10 has 2; take both from one version")


def test_a_missing_split_lists_what_the_folder_holds(tofu_folder):
    folder = tofu_folder[0]
    message = error_of(folder, forget_split="forget05")
    assert message == f"folder {folder} has no forget05.json; it holds forget10.json, retain90.json"
    (folder / "empty").mkdir()
    assert error_of(folder / "empty").endswith("has no forget10.json; it holds nothing")


def test_bad_rows_in_a_folder_name_the_set_and_the_row(tofu_folder):
    folder, write = tofu_folder
    write("holdout10.json", [*rows("Dan"), {"question": "Who?", "answer": ""}])
    assert error_of(folder) == "holdout set row 1: column 'answer' is blank (''); fill it or drop the row"
    write("holdout10.json", [])
    assert error_of(folder).startswith("holdout set is empty")
    (folder / "holdout10.json").unlink()
    write("world_facts_perturbed.json", [{"question": "1 + 1?", "answer": 2}])
    assert error_of(folder).startswith("evaluation set world_facts row 0: column 'answer' holds 2 (int)")


# TOFU on the hub


def test_an_unreachable_hub_names_the_local_alternative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = error_of("locuslab/TOFU")
    assert message.startswith("data 'locuslab/TOFU': config 'forget10' cannot be loaded from the hub (")
    assert (
        f"there is no local folder {tmp_path / 'locuslab' / 'TOFU'}; offline, give a folder that holds forget10.json"
        in message
    )


def test_hub_configs(monkeypatch):
    configs = {"forget10": rows("Ann"), "retain90": rows("Bob"), "real_authors_perturbed": rows("Orwell")}

    def load_dataset(repository, config):
        assert repository == "someone/TOFU-v1.5"
        if config not in configs:
            raise ValueError(f"BuilderConfig {config!r} not found.\nAvailable: {list(configs)}")
        return {"train": Dataset.from_list(configs[config])}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = load_unlearning_data("someone/TOFU-v1.5")
    assert (data.forget.to_list(), data.retain.to_list(), data.holdout) == (rows("Ann"), rows("Bob"), None)
    assert list(data.evaluation) == ["real_authors"]
    assert "config 'forget05' cannot be loaded from the hub (BuilderConfig 'forget05' not found. Available" in error_of(
        "someone/TOFU-v1.5", forget_split="forget05"
    )


def test_a_network_failure_is_not_taken_for_a_config_that_is_not_there(monkeypatch):
    def load_dataset(repository, config):
        if config == "holdout10":
            raise ConnectionError("connection reset")
        return {"train": Dataset.from_list(rows(f"the one of {config}"))}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("llm_unlearn.data.loading._check_alignment", lambda *arguments: None)
    assert "config 'holdout10' cannot be loaded from the hub (connection reset)" in error_of("someone/TOFU")


# The user's own rows


@pytest.fixture
def files(tmp_path):
    (tmp_path / "forget.jsonl").write_text("\n".join(map(json.dumps, rows("Ann", "Bob"))), encoding="utf-8")
    (tmp_path / "retain.csv").write_text("question,answer\nWho is Cid?,I know Cid.\n", encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows("Dan")), tmp_path / "dan.parquet")
    return tmp_path


def test_files_and_datasets(files):
    data = load_unlearning_data(forget_file=str(files / "forget.jsonl"), retain_file=files / "retain.csv")
    assert (data.forget.to_list(), data.retain.to_list()) == (rows("Ann", "Bob"), rows("Cid"))
    assert (data.holdout, data.evaluation) == (None, {})
    assert data.source == f"forget: {files / 'forget.jsonl'}, retain: {files / 'retain.csv'}"
    mixed = load_unlearning_data(None, forget_file=Dataset.from_list(rows("Eve")), retain_file=files / "dan.parquet")
    assert (mixed.forget.to_list(), mixed.retain.to_list()) == (rows("Eve"), rows("Dan"))
    assert mixed.source == f"forget: a Dataset of 1 rows, retain: {files / 'dan.parquet'}"
    assert load_unlearning_data(files / "dan.parquet").retain is None
    assert load_unlearning_data(forget_file=files / "dan.parquet").retain is None


def test_datasets_in_python():
    forget, retain = Dataset.from_list([{"text": "Ann is tall."}]), Dataset.from_list(rows("Bob"))
    data = load_unlearning_data((forget, retain))
    assert data.forget is forget and data.retain is retain
    assert load_unlearning_data((forget, None)).retain is None
    assert load_unlearning_data(forget).forget is forget


def test_columns_that_only_later_rows_have_are_kept(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([*rows("Ann"), *rows("Bob", fact_id="b")]), encoding="utf-8")
    assert load_unlearning_data(tmp_path / "a.json").forget["fact_id"][:] == [None, "b"]


def test_contradicting_arguments(files):
    forget, retain = files / "forget.jsonl", files / "retain.csv"
    assert error_of("fictional", forget_file=forget) == (
        "give either --data or --forget_file and --retain_file, not both (data is 'fictional')"
    )
    assert "not both" in error_of("fictional", retain_file=retain)
    assert "retain_file is given but forget_file is not" in error_of(retain_file=retain)
    assert "forget_split='forget05', retain_split=None: only TOFU and the fictional world have splits" in error_of(
        forget_file=forget, forget_split="forget05"
    )
    assert "too: 2 (forget rows 0, 1; retain rows 0, 1)" in error_of(forget_file=forget, retain_file=forget)


def test_bad_files(files):
    assert f"'{files / 'none.json'}' does not exist (looked for {files / 'none.json'})" in error_of(
        forget_file=files / "none.json"
    )
    (files / "mixed.json").write_text(json.dumps([*rows("A", fact_id=1), *rows("B", fact_id="b")]), encoding="utf-8")
    assert error_of(files / "mixed.json").startswith("forget set: a column mixes types: ")
    (files / "notes.txt").write_text("Ann is tall.")
    assert "notes.txt' is of an unknown kind; accepted are .json, .jsonl, .csv, .parquet" in error_of(
        files / "notes.txt"
    )


def test_unknown_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert error_of("fictonal") == (
        "data 'fictonal' is unknown (did you mean 'fictional'?); accepted are 'fictional', "
        "'fictional:tiny|small|medium|smollm2' (or 'fictional:small-repetition' and others, whose people differ), "
        "'locuslab/TOFU' or another hub id with its configs, "
        "a folder with TOFU's files, or a file"
    )
    for missing in ("./tofu", "a/b/c", "rows.json", str(tmp_path / "x")):
        assert f"data {missing!r} does not exist (looked for {tmp_path / missing})" in error_of(missing)
    assert "data is a DatasetDict; give a Dataset, (forget, retain) Datasets, 'fictional'" in error_of(
        datasets.DatasetDict({"train": Dataset.from_list(rows("Ann"))})
    )
    assert "data is a tuple; give a Dataset, (forget, retain) Datasets" in error_of((1, 2, 3))


def test_importing_the_data_floor_does_not_import_torch():
    command = "import sys, llm_unlearn.data; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", command], capture_output=True, text=True).stdout == "[]\n"
