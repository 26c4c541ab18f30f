"""Rows about four people, and commands that are run on them."""

import subprocess
import sys

PEOPLE = {"Ada Brisk": "Oslo", "Ben Corvel": "Lima", "Cara Dunmow": "Cairo", "Dan Elsford": "Rome"}


def rows(people):
    return [
        {
            "question": f"Where does {person} live?",
            "answer": f"{person} has lived in the city of {PEOPLE[person]} for years.",
            "person": person,
        }
        for person in people
    ]


def run(*arguments, launcher=(sys.executable, "-m", "llm_unlearn"), **keywords):
    """What a command printed; a command that fails is a failure that shows its last words."""
    done = subprocess.run([*launcher, *map(str, arguments)], capture_output=True, text=True, timeout=600, **keywords)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
