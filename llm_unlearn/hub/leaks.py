"""The gate before every upload: nothing of the forget set, of this machine or of its secrets may be in a file.

There is no way around it. What counts as a leak, in whatever file (case, punctuation, line breaks, and escapes of JSON,
HTML and addresses do not matter):
- a question or an answer to forget, or a text that a model generated for one: any six words of it in a row, or all
  of it where it has fewer; at least three words, or 16 bytes of UTF-8. Shorter answers ("Oslo") could stand anywhere;
- a name in them: two or more capitalized words, or what stands in `person` (of one word, from five letters on);
- a path of this machine, its host and user name; secrets by their form (hf_..., private keys) and by their value, where
  an environment variable called TOKEN, KEY, SECRET or PASSWORD holds it.

Files of a tokenizer's vocabulary hold words by design: there, every entry is looked at by itself, and single words are
none of our business. Of weights, the header is looked at (names and metadata), not the numbers.
"""

from __future__ import annotations

import getpass
import html
import itertools
import json
import os
import re
import socket
import struct
import tempfile
import unicodedata
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

WORDS_IN_A_ROW = 6
VOCABULARY = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
SENTENCEPIECE = ".model"  # a vocabulary, too, in a binary file

# a letter of a script that puts no spaces between words counts as a word
_WORD = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]|[^\\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]+")
_PARTICLES = frozenset(["of", "de", "del", "der", "van", "von", "al", "bin", "da", "di", "la"])
_OPENERS = frozenset(
    re.findall(
        r"\w+",
        "a after also an and are as at because before both but by can could did do does during for from give had has "
        "have he how i if in is it name no of on or please she since so tell that the their then there these they this "
        "to was were what when where which while who whom whose why will with would yes you your",
    )
)
_SECRETS = {  # how it begins, which is quickly found in large files -> how it goes on
    "hf_": "[A-Za-z0-9]{16}",
    "api_org_": "[A-Za-z0-9]{16}",
    **{f"gh{kind}_": "[A-Za-z0-9]{20}" for kind in "pousr"},
    "github_pat_": r"\w{20}",
    "sk-": "[A-Za-z0-9_-]{20}",
    "glpat-": r"[\w-]{20}",
    "AKIA": "[A-Z0-9]{16}",
    "AIza": r"[\w-]{35}",
    "eyJ": r"[\w-]{10,}\.eyJ[\w-]{10}",
    **{f"xox{kind}-": r"[\w-]{10}" for kind in "abprs"},
    "-----BEGIN ": "[A-Z ]*PRIVATE KEY",
}
_PATH = re.compile(
    r"(?<![\w./-])(?:/(?:home|Users|root|mnt|media|tmp|var|scratch|data|work|workspace|opt|srv|private|Volumes|gpfs|lustre|nfs"
    r"|content|kaggle)/[\w.~-]+|~/[\w.~-]+)|file:///|\b[A-Za-z]:\\{1,2}(?:Users|Documents|Windows|Temp|data|work)\b",
)
_SECRET_VARIABLE = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD)$")
_COMMON_NAMES = frozenset(
    re.findall(r"\w+", "root user admin ubuntu runner jupyter localhost local test dev default nobody home data")
)

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")  # soft hyphens and the like, within a word
_FIXES = {  # kind of leak -> what to do
    "a text of the forget set": "take it out",
    "a name of the forget set": "take it out; if it is in the name of the repository, give another one",
    "a secret": "take it out, and revoke it if anyone else may have seen the file",
    "a secret of the environment": "take it out, and revoke it if anyone else may have seen the file",
    "a path of this machine": "take it out, or replace it by a name",
    "a local path": "take it out, or replace it by a name",
    "the name of this user or machine": "take it out, or replace it by a name that may be public",
}

Words = tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """One leak: where it is, what kind of thing it is, and how it reads."""

    file: str
    line: int
    what: str
    text: str

    @property
    def fix(self) -> str:
        """What to do about it."""
        return _FIXES.get(self.what, "take the file out")

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.what} {self.text!r}"


@dataclass(frozen=True)
class Secrets:
    """What must not leave.

    Attributes:
        texts: questions, answers and generated texts.
        names: of people, as the rows give them.
        paths: of this machine, beside the general forms of local paths.
        public: texts in which user and host names do not count: the ids of the repository, its base and its data.
        boilerplate: what our own pages say themselves, whatever the forget set is.
    """

    texts: Sequence[str] = ()
    names: Sequence[str] = ()
    paths: Sequence[str] = ()
    public: Sequence[str] = ()
    boilerplate: str = ""

    @cached_property
    def phrases(self) -> dict[int, dict[Words, str]]:
        """Number of words -> phrases of so many words -> what they are."""
        found: dict[Words, str] = {}
        for text in self.texts:
            words = words_of(text)
            if (len(words) >= 3 and _size(words) >= 12) or _size(words) >= 16:
                for start in range(max(1, len(words) - WORDS_IN_A_ROW + 1)):
                    found.setdefault(words[start : start + WORDS_IN_A_ROW], "a text of the forget set")
            for name in _names_in(text):
                found[name] = "a name of the forget set"
        for name in self.names:
            words = words_of(name)
            if all(word.isalpha() for word in words) and (len(words) > 1 or _size(words) >= 5):
                found[words] = "a name of the forget set"
        own = words_of(self.boilerplate)
        by_length: dict[int, dict[Words, str]] = {}
        for words, what in found.items():
            by_length.setdefault(len(words), {})[words] = what
        for length, phrases in by_length.items():
            for start in range(len(own) - length + 1):
                phrases.pop(own[start : start + length], None)
        return by_length

    @cached_property
    def machine(self) -> frozenset[str]:
        """Exact paths of this machine, as they are and as JSON writes them."""
        paths = {str(Path.home()), str(Path.cwd()), tempfile.gettempdir(), *self.paths}
        paths |= {value for name in ("HF_HOME", "LLM_UNLEARN_CACHE", "VIRTUAL_ENV") if (value := os.environ.get(name))}
        paths |= {os.path.realpath(path) for path in paths}  # a temporary folder may be a link
        longer = {path.rstrip("/") for path in paths if len(path) >= 4}
        return frozenset(variant for path in longer for variant in (path, path.replace("\\", "\\\\")))

    @cached_property
    def values(self) -> frozenset[str]:
        """Values of environment variables that are called secret."""
        return frozenset(
            value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name) and len(value) >= 8
        )

    @cached_property
    def people(self) -> re.Pattern[str]:
        """The user's and the machine's name, as whole words."""
        try:
            user = getpass.getuser()
        except (OSError, KeyError):  # a container whose user has no name
            user = ""
        host = socket.gethostname()
        own = set(words_of(self.boilerplate))
        names = {user, host, host.partition(".")[0]}
        told = [name for name in names if len(name) >= 3 and name.casefold() not in _COMMON_NAMES | own]
        return re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in told) or r"(?!)", re.IGNORECASE)


def check_files(files: Mapping[str, Path], secrets: Secrets) -> list[Found]:
    """What must not leave, by file and line: of each line and kind, the first.

    Args:
        files: path in the repository -> file.
    """
    return [leak for name, path in sorted(files.items()) for leak in leaks_in_file(name, path, secrets)]


def leaks_in_file(name: str, path: Path, secrets: Secrets) -> Iterator[Found]:
    """All leaks in one file, in no particular order; for each line and kind, the first.

    Args:
        name: path in the repository, which says how the file is read, and is looked at, too.
    """
    yield from _leaks_in_text(name, f"{name}\n", secrets)
    kind = Path(name).name
    if kind.endswith(".safetensors"):
        yield from _leaks_in_text(name, _safetensors_header(path), secrets)
        return
    if kind.endswith(SENTENCEPIECE):
        yield from _leaks_in_vocabulary(name, path.read_bytes().decode("utf-8", "replace"), secrets)
        return
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        yield Found(name, 1, "not a text file, which cannot be looked through:", kind)
        return
    if kind in VOCABULARY:
        yield from _leaks_in_vocabulary(name, text, secrets)
        return
    yield from _leaks_in_text(name, text, secrets)


def words_of(text: str) -> Words:
    """The words of a text, without case, punctuation and ways to write the same letter."""
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", _INVISIBLE.sub("", str(text))).casefold()))


def _size(words: Words) -> int:
    return sum(len(word.encode(errors="replace")) for word in words)


def _names_in(text: str) -> Iterator[Words]:
    """Runs of two or more capitalized words, without what only begins a sentence."""
    run: list[str] = []
    for token in [*str(text).split(), ""]:
        bare = re.sub(r"['\u2019]s$", "", token.strip("\"'()[]{}\u201c\u201d\u2018\u2019.,;:!?"))
        begins = not run and bare.casefold() in _OPENERS  # "When Ann Lee": a sentence begins with a capital, too
        goes_on = not token.endswith((".", ",", ";", ":", "!", "?")) or len(bare) == 1  # "J. R. Ewing"
        if bare[:1].isupper() and not begins:
            run.append(bare)
            if goes_on:
                continue
        elif run and bare in _PARTICLES:
            run.append(bare)
            continue
        while run and run[-1] in _PARTICLES:
            run.pop()
        name = words_of(" ".join(run))
        if len(run) > 1 and _size(name) >= 6:
            yield name
            if len(name) > 2 and name[-2] not in _PARTICLES:  # "Professor Ann Lee" is Ann Lee
                yield name[-2:]
        run = []


def _safetensors_header(path: Path) -> str:
    """Names and metadata, an entry per line."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return "\n".join(
        f"{name} {json.dumps(value, ensure_ascii=False) if name == '__metadata__' else ''}"
        for name, value in header.items()
    )


def _unescaped(text: str) -> str:
    """JSON (within JSON), HTML and addresses as people would read them; a line stays a line."""
    text = re.sub(r"\\+u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)).replace("\n", " "), text)
    text = re.sub(r"\\+([nrtbf/])", lambda escape: "/" if escape[1] == "/" else " ", text)
    text = re.sub(r"&[#\w]+;", lambda entity: html.unescape(entity[0]).replace("\n", " "), text)
    return re.sub(r"(%[0-9a-fA-F]{2})+", lambda code: urllib.parse.unquote(code[0]).replace("\n", " "), text)


def _leaks_in_text(name: str, text: str, secrets: Secrets) -> Iterator[Found]:
    """As it stands, as it is read, and without what may be tags."""
    plain = _unescaped(text)
    without_tags = re.sub(r"<[^<>]*>", lambda tag: " " + "\n" * tag[0].count("\n"), plain)
    for variant in dict.fromkeys((text, plain)):
        yield from _patterns(name, variant, secrets)
    for variant in dict.fromkeys((text, plain, without_tags)):
        yield from _phrases(name, variant, secrets)


def _leaks_in_vocabulary(name: str, text: str, secrets: Secrets) -> Iterator[Found]:
    yield from _patterns(name, text, secrets, machine_only=True)
    if name.endswith(".json"):
        entries = _strings(json.loads(text))
    elif name.endswith(SENTENCEPIECE):  # a long entry's length looks like a letter before it
        cut = re.split("[\x00-\x1f\ufffd]+", text)
        entries = itertools.chain(cut, (entry[1:] for entry in cut))
    else:
        entries = text.splitlines()
    for entry in entries:
        plain = entry.replace("\u2581", " ").replace("\u0120", " ")  # how tokenizers write a space
        if " " in plain.strip() or len(plain) >= 16:
            for found in _phrases(name, plain, secrets, shortest=2):
                at = text.find(json.dumps(entry, ensure_ascii=False)[1:-1])
                yield Found(name, text.count("\n", 0, max(at, 0)) + 1, found.what, found.text)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _phrases(name: str, text: str, secrets: Secrets, shortest: int = 1) -> Iterator[Found]:
    words: list[str] = []
    lines: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        found = words_of(line)
        words += found
        lines += [number] * len(found)
    reported = set()
    for length, phrases in secrets.phrases.items():
        if length < shortest:
            continue
        for start in range(len(words) - length + 1):
            phrase = tuple(words[start : start + length])
            if phrase in phrases and lines[start] not in reported:
                reported.add(lines[start])
                yield Found(name, lines[start], phrases[phrase], " ".join(phrase))


def _secrets_in(text: str) -> Iterator[tuple[int, str]]:
    for beginning, rest in _SECRETS.items():
        for at in _places(text, beginning):
            if not text[at - 1 : at].isalnum() and re.compile(rest).match(text, at + len(beginning)):
                yield at, f"{text[at : at + len(beginning) + 3]}..."


def _paths_in(text: str, paths: Iterable[str]) -> Iterator[tuple[int, str]]:
    for path in paths:
        for at in _places(text, path):
            before, after = text[at - 1 : at], text[at + len(path) : at + len(path) + 1]
            if not re.match(r"[\w.:/-]", before) and not re.match(r"[\w-]", after):
                yield at, path


def _places(text: str, literal: str) -> Iterator[int]:
    at = text.find(literal)
    while at >= 0:
        yield at
        at = text.find(literal, at + 1)


def _patterns(name: str, text: str, secrets: Secrets, machine_only: bool = False) -> Iterator[Found]:
    """Secrets and exact paths of this machine; also the general forms of paths, and names of user and host.

    Args:
        machine_only: the text is a vocabulary: of its paths only those with a folder in a folder count, for "/tmp" and
            "/root" are words of published vocabularies.
    """
    machine = [path for path in secrets.machine if not machine_only or len(re.findall(r"[/\\]+", path)) > 1]
    kinds: list[tuple[str, Iterable[tuple[int, str]]]] = [
        ("a secret", _secrets_in(text)),
        ("a secret of the environment", ((at, "...") for value in secrets.values if (at := text.find(value)) >= 0)),
        ("a path of this machine", _paths_in(text, machine)),
    ]
    if not machine_only:
        masked = text
        for public in secrets.public:
            masked = masked.replace(public, "\0" * len(public))
        kinds += [
            ("a local path", ((match.start(), match[0]) for match in _PATH.finditer(masked))),
            ("the name of this user or machine", ((m.start(), m[0]) for m in secrets.people.finditer(masked))),
        ]
    reported = set()
    for what, matches in kinds:
        for at, shown in matches:
            line = text.count("\n", 0, at) + 1
            if line not in reported:
                reported.add(line)
                yield Found(name, line, what, shown)
