"""SmolLM2-135M as a user has it: converted, taught, unlearned, judged. `make test-real`; needs the extra smollm2."""

import json

import pytest
import torch
from datasets import Dataset
from four_people import PEOPLE, rows
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm_unlearn import NPOConfig, NPOTrainer
from llm_unlearn.models.loading import load_model, load_tokenizer
from llm_unlearn.models.smollm2 import KNOWN_ANSWER, KNOWN_QUESTION, smollm2_model

pytestmark = pytest.mark.real


def test_the_converted_model_is_an_ordinary_folder_that_answers():
    folder = smollm2_model()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.num_parameters() == 134_515_008 and model.dtype == torch.float32
    message = [{"role": "user", "content": KNOWN_QUESTION}]
    prompt = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(said, skip_special_tokens=True) == KNOWN_ANSWER
    named = load_model("smollm2")
    assert all(torch.equal(one, other) for one, other in zip(named.parameters(), model.parameters(), strict=True))
    assert load_tokenizer("smollm2").get_vocab() == tokenizer.get_vocab()


def test_a_trainer_in_python_takes_the_name(tmp_path):
    """As with a hub id: no tokenizer is given, and the adapter that is saved loads on the same weights."""
    forget, retain = ([*PEOPLE][:2], [*PEOPLE][2:])
    quick = {"max_steps": 2, "per_device_train_batch_size": 2, "logging_steps": 1, "use_cpu": True, "report_to": "none"}
    trainer = NPOTrainer(
        model="smollm2",
        args=NPOConfig(str(tmp_path / "out"), **quick),
        forget_dataset=Dataset.from_list(rows(forget)),
        retain_dataset=Dataset.from_list(rows(retain)),
        peft_config=LoraConfig(r=4),
    )
    trainer.train()
    trainer.save_model()
    assert [line["retain/loss"] for line in trainer.state.log_history if "retain/loss" in line]
    loaded, ids = load_model(str(tmp_path / "out")), torch.tensor([trainer.forget_rows[0]["input_ids"]])
    assert loaded.peft_config["default"].base_model_name_or_path == str(smollm2_model())
    with torch.no_grad():
        said, expected = loaded.eval()(ids).logits, trainer.model.eval()(ids).logits
    torch.testing.assert_close(said, expected)


def test_the_original_learns_what_the_oracle_does_not(references):
    models = json.loads((references / "results.json").read_text())["models"]
    assert models["original"]["forget"]["probability"] > 0.8
    assert models["oracle-0"]["forget"]["probability"] < 0.7 < models["oracle-0"]["retain"]["probability"]


def test_records_are_what_plain_transformers_says(references, unlearned):
    """Of the original, the oracle and the unlearned model, for every forget row."""
    folders = {"original": references / "original", "oracle": references / "oracle-0"}
    tokenizer = AutoTokenizer.from_pretrained(references / "original")
    for name in ("original", "oracle", "unlearned"):
        records = json.loads((unlearned / "records" / f"{name}.json").read_text())["forget_Q_A_Prob"]["value_by_index"]
        model = load_model(str(folders.get(name, unlearned / "adapter"))).eval()
        for row, record in zip(rows([*PEOPLE][:2]), records.values(), strict=True):
            messages = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
            prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=False)
            whole = tokenizer.apply_chat_template(messages, tokenize=False).rstrip("\n")
            start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
            ids = torch.tensor([tokenizer(whole, add_special_tokens=False)["input_ids"]])
            with torch.no_grad():
                logps = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[start - 1 :, 0]
            assert record["prob"] == pytest.approx(logps.mean().exp().item(), abs=1e-3)
            assert record["avg_loss"] == pytest.approx(-logps.mean().item(), abs=1e-3)
