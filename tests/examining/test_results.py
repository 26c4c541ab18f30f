"""results.json: one writer, whose paths hold from everywhere, and one reader, which knows versions."""

import hashlib
import json

import pytest
from builders import qa_rows

from llm_unlearn import InputError
from llm_unlearn.examining.results import VERSION, make_results, read_results, read_run, write_results


def made(folder, **changes):
    models = changes.pop("models", ("models/original", ["models/oracle"], "out/adapter"))
    rows = {"forget": qa_rows(2), "retain": None}
    return make_results(
        folder, {"method": "npo"}, 3, {"npo_config": {"beta": 0.5}}, models=models, rows=rows, **changes
    )


def test_paths_hold_from_everywhere_and_ids_of_the_hub_stay(tmp_path, monkeypatch):
    """A relative folder that is read from elsewhere would pass for an id of the hub, and be published as one."""
    monkeypatch.chdir(tmp_path)
    for name in ("models/original", "models/oracle", "out/adapter", "rows"):
        (tmp_path / name).mkdir(parents=True)
    paths = made(tmp_path / "out", data="rows")["paths"]
    assert paths == {
        "data": str(tmp_path / "rows"),
        "original": str(tmp_path / "models" / "original"),
        "oracles": [str(tmp_path / "models" / "oracle")],
        "unlearned": str(tmp_path / "out" / "adapter"),
        "forget": str(tmp_path / "out" / "forget.jsonl"),
    }
    on_hub = made(tmp_path / "out", models=("org/llama@abc", ["org/retain"], None), data="locuslab/TOFU")["paths"]
    assert [on_hub[name] for name in ("data", "original", "oracles", "unlearned")] == [
        *("locuslab/TOFU", "org/llama@abc", ["org/retain"], None),
    ]


def test_results_say_which_weights_they_are_about(tmp_path):
    """Whatever command wrote them, so that each of its runs can be pushed."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"a")
    digest = {"adapter_model.safetensors": hashlib.sha256(b"a").hexdigest()}
    assert made(tmp_path, models=("org/llama", [], str(adapter)))["weights"] == digest
    assert made(tmp_path, models=("org/llama", [], str(adapter)), weights={"x": "y"})["weights"] == {"x": "y"}
    assert made(tmp_path, models=("org/llama", [], "org/unlearned"))["weights"] == {}


def test_what_is_written_is_read(tmp_path):
    results = made(tmp_path, seconds={"unlearn": 1.5})
    write_results(tmp_path, results, {"original": {"forget_exact_match": {"agg_value": 1.0, "value_by_index": {}}}})
    assert read_results(tmp_path) == json.loads(json.dumps(results)) and results["version"] == VERSION
    assert read_run(tmp_path)[1]["original"]["forget_exact_match"]["agg_value"] == 1.0
    assert (tmp_path / "config.yaml").read_text() == "npo_config:\n  beta: 0.5\n"


@pytest.mark.parametrize("version", [VERSION + 1, "2", None, 0])
def test_an_unknown_version_is_refused(version, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"version": version}))
    with pytest.raises(
        InputError, match=f"is of version {version!r}, and this llm_unlearn reads versions 1 to {VERSION}"
    ):
        read_results(tmp_path)


def test_results_without_a_number_are_of_the_first_version(tmp_path):
    (tmp_path / "results.json").write_text('{"method": "npo"}')
    assert read_results(tmp_path) == {"method": "npo"}


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ({"generation": {"unlearned": "own"}}, "generation.unlearned is 'own': "),
        ({"generation": {"unlearned": {"generation_config": []}}}, r"generation.unlearned.generation_config is \[\]: "),
        ({"rouge_tokenizers": {"forget": 7}}, "rouge_tokenizers.forget is 7: "),
        ({"rouge_tokenizers": {"forget": {"unicode": -1}}}, "rouge_tokenizers.forget.unicode is -1: "),
    ],
)
def test_parts_that_pages_read_are_what_they_should_be_without_digests_too(part, named, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"version": 2, **part}))
    with pytest.raises(InputError, match=named):
        read_results(tmp_path)
