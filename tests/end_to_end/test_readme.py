"""The README's Python runs as it stands."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_python_blocks_of_the_readme_run(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM_UNLEARN_CACHE", str(cache))
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert names["trainer"].state.global_step == 4
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    trainer = names["ProbabilityTrainer"](
        model=str(names["embedded_model"]("tiny")),
        args=names["NPOConfig"](output_dir="out2", max_steps=1, logging_steps=1),
        forget_dataset=names["data"].forget,
        retain_dataset=names["data"].retain,
        peft_config=names["LoraConfig"](r=4),
    )
    trainer.train()
    assert 0 < trainer.state.log_history[0]["forget/loss"] <= 1  # the mean probability of an answer token


def test_make_targets_named_in_the_readme_exist():
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README.read_text(encoding="utf-8"), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_python_blocks_of_the_evaluation_page_run(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    page = README.parent / "docs" / "evaluation.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    *_, call = block.strip().splitlines()
    exec(compile(block.replace(call, f"scores = {call}"), str(page), "exec"), names)
    assert names["scores"]["exact_memorization"] == 2 / 3
    assert names["scores"]["leak_at_k"] > names["scores"]["probability"]
