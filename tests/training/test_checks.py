"""What a trainer refuses before it trains, and what it takes as it is."""

import pytest
import torch
from builders import (
    arguments,
    encoded_rows,
    lora_config,
    qa_rows,
    tiny_model,
    tiny_tokenizer,
    trainable,
    with_trained_adapter,
)
from datasets import Dataset
from eight_rows import build
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig
from transformers import TrainingArguments

from llm_unlearn import InputError, NPOConfig, NPOTrainer, SsiuuConfig, SsiuuTrainer, UnlearnConfig
from llm_unlearn.models.loading import load_model, load_tokenizer
from llm_unlearn.models.scoring import generate_answers

OVERLAP = qa_rows(3, start=6)  # rows 6 and 7 are forget rows
NEAR = Dataset.from_list([{"question": "WHAT does Ben eat?", "answer": "in Oslo"}])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forget_dataset": None}, "forget_dataset is missing"),
        ({"retain_dataset": None}, "retain_loss='nll' needs a retain_dataset; pass one, or retain_loss='none'"),
        ({"retain_dataset": None, "retain_loss": "kl"}, "retain_loss='kl' needs a retain_dataset"),
        ({"forget_dataset": qa_rows(0)}, "forget_dataset is empty"),
        ({"retain_dataset": qa_rows(0)}, "retain_dataset is empty"),
        ({"retain_dataset": OVERLAP}, "rows of the forget set that are in the retain set too: 2 (forget rows 6, 7;"),
        ({"retain_dataset": OVERLAP, "retain_loss": "none"}, "in the retain set too: 2"),
        ({"retain_dataset": NEAR}, "forget set row 1 ('What does Ben eat') asks the same as retain set row 0 ("),
        ({"general_dataset": NEAR}, "forget set row 1 ('What does Ben eat') asks the same as general set row 0 ("),
        ({"max_length": 8}, "forget_dataset row 2: max_length=8 cuts off the whole answer"),
        ({"eval_dataset": {"mine": [{"question": "a"}]}}, "mine: columns ['question'] fit no row format"),
        ({"eval_dataset": {"mine": qa_rows(0)}}, "mine is empty"),
        ({"eval_dataset": {"forget": qa_rows(2, 30)}}, "a set called 'forget' would hide the forget set's own scores"),
        ({"peft_config": lora_config(layers_to_transform=[2])}, "layers_to_transform"),
    ],
)
def test_data_errors(changes, message, tmp_path):
    with pytest.raises(InputError) as caught:
        build(NPOTrainer, NPOConfig, tmp_path, **changes)
    assert message in str(caught.value)


def test_near_duplicates_can_be_allowed(tmp_path):
    build(NPOTrainer, NPOConfig, tmp_path, retain_dataset=NEAR, near_duplicates="allow")


def test_model_errors(tmp_path):
    common = {"args": arguments(NPOConfig, tmp_path), "forget_dataset": qa_rows(4), "retain_dataset": qa_rows(4, 20)}
    with pytest.raises(InputError, match="processing_class is missing, and the model came from no folder"):
        NPOTrainer(model=tiny_model(), **common)
    with pytest.raises(InputError, match="model already carries an adapter; pass peft_config=None"):
        NPOTrainer(
            model=with_trained_adapter(tiny_model()),
            processing_class=tiny_tokenizer(),
            peft_config=lora_config(),
            **common,
        )


@pytest.mark.parametrize("args", [UnlearnConfig, TrainingArguments])
def test_the_wrong_class_of_arguments_is_an_error(args, tmp_path):
    with pytest.raises(InputError, match=f"NPOTrainer needs args of class NPOConfig, got {args.__name__}"):
        NPOTrainer(
            model=tiny_model(),
            args=args(output_dir=str(tmp_path), use_cpu=True),
            forget_dataset=qa_rows(4),
            retain_dataset=qa_rows(4, start=20),
            processing_class=tiny_tokenizer(),
        )


def test_default_arguments_are_those_of_the_method(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = SsiuuTrainer(
        model=tiny_model(),
        forget_dataset=qa_rows(4),
        retain_dataset=qa_rows(4, start=20),
        processing_class=tiny_tokenizer(),
    )
    assert isinstance(trainer.args, SsiuuConfig) and trainer.args.output_dir == "outputs"


def test_peft_config_without_targets_adapts_every_linear_map_but_the_output_embedding(tmp_path):
    config = lora_config(task_type=None)
    trainer = build(NPOTrainer, NPOConfig, tmp_path, peft_config=config)
    adapted = {name.split(".lora_A")[0].rpartition(".")[2] for name in trainable(trainer.model) if "lora_A" in name}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert trainer.model.peft_config["default"].task_type == "CAUSAL_LM"


def test_a_saved_adapter_is_the_unlearned_model(memorizer, tmp_path):
    memorizer.save_pretrained(tmp_path / "base")
    trainer = NPOTrainer(
        model=str(tmp_path / "base"),
        args=arguments(NPOConfig, tmp_path / "out"),
        forget_dataset=qa_rows(8),
        retain_dataset=qa_rows(8, start=20),
        processing_class=tiny_tokenizer(),
        peft_config=lora_config(),
    )
    trainer.train()
    trainer.save_model()

    loaded = load_model(str(tmp_path / "out"))
    ids = torch.tensor([encoded_rows(1)[0]["input_ids"]])
    torch.testing.assert_close(loaded(input_ids=ids).logits, trainer.model.eval()(input_ids=ids).logits)
    tokenizer = load_tokenizer(str(tmp_path / "out"))
    assert tokenizer.get_vocab() == tiny_tokenizer().get_vocab()
    assert generate_answers(loaded, tokenizer, [ids[0, :6].tolist()], max_new_tokens=3)


@pytest.mark.parametrize("layer", [2, -1, "1"])
@pytest.mark.parametrize("when", ["class", "made"])
def test_a_block_that_the_model_does_not_have_is_named_before_training(layer, when, tmp_path):
    class Hidden(NPOTrainer):
        hidden_layers = (0, layer) if when == "class" else (1,)

        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            self.hidden_layers = [1, layer]

    words = rf"Hidden.hidden_layers: layer={layer!r}: the model has no such block; it has blocks 0 to 1"
    if when == "class":
        with pytest.raises(InputError, match=words):
            build(Hidden, NPOConfig, tmp_path)
    else:
        trainer = build(Hidden, NPOConfig, tmp_path)
        with pytest.raises(InputError, match=words):
            trainer.train()
        assert trainer.state.global_step == 0 and not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            PromptTuningConfig(num_virtual_tokens=4),
            "'PromptTuningConfig' is of type PROMPT_TUNING, which adds",
        ),
        (
            PrefixTuningConfig(num_virtual_tokens=4),
            "PREFIX_TUNING, which adds inputs and cannot be merged into",
        ),
        (LoraConfig(task_type="SEQ_CLS"), "'LoraConfig' has the task_type 'SEQ_CLS', which is no causal"),
    ],
)
def test_an_adapter_that_could_not_be_attacked_or_pushed_is_not_made(config, words, tmp_path):
    with pytest.raises(InputError, match=words) as refused:
        build(NPOTrainer, NPOConfig, tmp_path, peft_config=config)
    assert "\n" not in str(refused.value)
