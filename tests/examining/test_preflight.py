"""The preflight: what a model cannot do is found on the longest rows, before anything heavy."""

from dataclasses import replace

import pytest
import torch
from builders import qa_rows, tiny_model, tiny_tokenizer, with_trained_adapter
from test_examination import examining
from transformers import MixtralConfig, MixtralForCausalLM

from llm_unlearn.errors import InputError
from llm_unlearn.examining import preflight
from llm_unlearn.examining.preflight import check_lengths, check_loaded, check_model
from llm_unlearn.models.loading import limited_positions
from llm_unlearn.models.scoring import generate_answers, score_answers


def test_a_model_that_cannot_be_attacked_as_asked_for_is_refused(monkeypatch):
    with_checkpointing = {"attack_activation_checkpointing": True}
    model = tiny_model()
    check_model(examining(**with_checkpointing).asked, model, "original")
    monkeypatch.setattr(type(model), "supports_gradient_checkpointing", False)
    with pytest.raises(InputError, match="attack_activation_checkpointing=True: LlamaForCausalLM has none; leave it"):
        check_model(examining(**with_checkpointing).asked, with_trained_adapter(model), "original")
    check_model(examining().asked, model, "original")
    check_model(examining(**with_checkpointing, attacks=["prompting"]).asked, model, "original")


def test_the_longest_row_of_every_kind_is_found():
    forget = qa_rows(6).add_column("perturbed_answer", [["rice"], ["rice"], ["a red cat", "rice"]] * 2)
    found = {one.kind: (one.number, len(one.row["input_ids"])) for one in examining(forget=forget).asked.rows}
    # <user> Where does Ann live <end> <assistant> in Paris <end>; Which pet does Cal have ... a blue mouse <end>
    assert found["forget answers"] == (2, 12)
    assert found["forget perturbed answers"] == (2, 12)  # the third row's first, and two before it
    assert found["retain answers"][1] == 12 and found["forget_few_shot answers"][1] > 40
    assert "instructions to train on" not in found
    benign = examining(attacks=["benign_relearning"], benign_data="embedded").asked.rows
    assert "instructions to train on" in {one.kind for one in benign}


def test_rows_of_any_kind_that_positions_do_not_hold_are_refused_from_the_configuration(tmp_path):
    tiny_model("gpt2", n_positions=32).save_pretrained(tmp_path)
    with pytest.raises(InputError) as refused:
        check_lengths(examining().asked, {"oracle": str(tmp_path)})
    assert "has 32 positions, too few for forget_few_shot answers row" in str(refused.value)
    assert "give --max_length 32" in str(refused.value)
    cut = examining()
    cut.max_length = 32  # what the error says to give
    vars(cut).pop("_judged_sets")
    assert set(cut.not_measured) == {"forget_few_shot", "retain_few_shot"}
    check_lengths(cut.asked, {"oracle": str(tmp_path)})
    check_model(cut.asked, tiny_model("gpt2", n_positions=32), "oracle")


def test_a_prompt_and_its_answer_must_fit_into_positions_that_are_counted():
    asked = examining(retain=False).asked
    found = replace(asked, max_new_tokens=121)  # a prompt of 8 tokens and 121, of which the last is not read: 128
    for family in ("gpt2", "llama"):
        check_model(found, tiny_model(family), "original")
    found = replace(found, max_new_tokens=122)
    check_model(found, tiny_model(), "original")  # rotary
    with pytest.raises(InputError) as refused:
        check_model(found, with_trained_adapter(tiny_model("gpt2")), "original")
    assert str(refused.value) == (
        "original has 128 positions, too few for the prompt of forget answers row 2 (8 tokens) and up to 122 new "
        "tokens: leave out rows whose prompts are longer than 7, or take a model with more positions"
    )


def test_positions_are_limited_where_a_table_holds_them():
    assert limited_positions(tiny_model("gpt2", n_positions=64)) == 64
    assert {limited_positions(tiny_model(family)) for family in ("llama", "qwen2", "gpt_neox")} == {None}
    same_sizes = tiny_model(max_position_embeddings=len(tiny_tokenizer()))
    assert limited_positions(same_sizes) is None
    assert limited_positions(with_trained_adapter(same_sizes, target_modules=["embed_tokens"])) is None


def test_what_a_familys_code_raises_is_said_with_the_row(monkeypatch):
    def fail(*_arguments, **_keywords):
        raise ValueError("no such thing\nin this family")

    with monkeypatch.context() as broken:
        broken.setattr(preflight, "generate_answers", fail)
        words = r"original \(LlamaForCausalLM\) cannot generate from the prompt of forget answers row 2 \(8 tokens\): "
        with pytest.raises(InputError, match=words + "ValueError: no such thing; take a model of another class"):
            check_model(examining().asked, tiny_model(), "original")
    monkeypatch.setattr(preflight, "score_answers", fail)
    with pytest.raises(InputError, match=r"cannot score forget answers row 2 \(12 tokens\): ValueError"):
        check_model(examining().asked, tiny_model(), "original")


def test_a_mixture_of_experts_with_router_logits_is_scored_and_generates():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "num_local_experts": 4}
    config = MixtralConfig(**sizes, vocab_size=len(tiny_tokenizer()), eos_token_id=1)
    model = MixtralForCausalLM(config).eval()
    ids = torch.tensor([[3, 20, 30]])
    rows = [one.row for one in examining().asked.rows]
    expected = score_answers(model, rows), generate_answers(model, tiny_tokenizer(), [[3, 20]], 4, min_new_tokens=4)
    model.config.output_router_logits = True
    assert model(input_ids=ids).aux_loss is not None
    check_model(examining().asked, model, "original")
    found = score_answers(model, rows), generate_answers(model, tiny_tokenizer(), [[3, 20]], 4, min_new_tokens=4)
    assert found == expected and model.config.output_router_logits


def test_one_model_of_every_kind_is_loaded_and_every_adapter(tmp_path, monkeypatch):
    paths = {name: str(tmp_path / name) for name in ("original", "oracle", "other", "unlearned")}
    tiny_model().save_pretrained(paths["original"])
    tiny_model(seed=1).save_pretrained(paths["oracle"])
    tiny_model("gpt2").save_pretrained(paths["other"])
    base = type(tiny_model()).from_pretrained(paths["original"])
    with_trained_adapter(base).save_pretrained(paths["unlearned"])
    loaded, one = [], examining()
    real = one.load_model
    monkeypatch.setattr(one, "load_model", lambda path: loaded.append(path) or real(path))
    check_loaded(one.asked, paths)
    assert loaded == [paths["original"], paths["other"], paths["unlearned"]]
    loaded.clear()
    check_loaded(one.asked, {name: paths[name] for name in ("original", "oracle")}, known=[paths["original"]])
    assert not loaded


def test_an_adapter_that_merging_changes_is_refused_before_it_is_attacked(tmp_path, monkeypatch):
    tiny_model(tie_word_embeddings=True).save_pretrained(tmp_path / "base")
    base = type(tiny_model()).from_pretrained(tmp_path / "base")
    adapted = with_trained_adapter(base, target_modules=["lm_head", "up_proj"])
    adapted.save_pretrained(tmp_path / "adapter")
    unlearned = {"unlearned": str(tmp_path / "adapter")}
    check_loaded(examining().asked, unlearned)
    monkeypatch.setattr("llm_unlearn.attacks.copies.merged", lambda model: model.merge_and_unload())
    with pytest.raises(InputError, match="merged into its base model, the adapter gives the longest rows a mean prob"):
        check_loaded(examining().asked, unlearned)
