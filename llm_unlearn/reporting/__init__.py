"""Views of what was measured: tables, figures and help texts. They read dictionaries and never run a model."""
