"""docs/reference.md says what the records say."""

from pathlib import Path

from llm_unlearn.attacks import attack_names
from llm_unlearn.audits import audit_names
from llm_unlearn.cli.reference import reference
from llm_unlearn.methods import method_files

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_up_to_date():
    assert (DOCS / "reference.md").read_text(encoding="utf-8") == reference(), "run `make docs`"


def test_everything_that_has_a_record_is_on_it():
    lines = reference().splitlines()
    for name in (*method_files(), *attack_names(), *audit_names()):
        assert any(line.startswith(f"| `{name}` | ") for line in lines), name
    (npo,) = (line for line in lines if line.startswith("| `npo`"))
    own = "`forget_loss_unit` token [answer]<br>`forget_tokens` all<br>`beta` 0.1 [0.5]"
    assert npo.endswith(f"[2404.05868](https://arxiv.org/abs/2404.05868) | {own} |")
    (benign,) = (line for line in lines if line.startswith("| `benign_relearning`"))
    assert benign.endswith("| benign tuning | yes, at `benign_learning_rates` |")


def test_every_method_has_a_page_that_the_documentation_links():
    pages = [path.read_text(encoding="utf-8") for path in (DOCS / "methods").glob("*.md")]
    for name in method_files():
        assert any(f"llm-unlearn run {name}" in page for page in pages), name
    for page in (DOCS / "methods").glob("*.md"):
        assert f"(methods/{page.name})" in (DOCS / "README.md").read_text(encoding="utf-8"), page.name
