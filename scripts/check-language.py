#!/usr/bin/env python3
"""Finds what can be measured of the rules in CONTRIBUTING.md, "How we write".

Comments and string literals of Rust files: forbidden subjects, phrases that hide the subject,
sentences of more than 30 words in comments, lines over 100 columns. Documents: forbidden subjects
and phrases, and pages of more than 1,500 words of prose.

Usage: check-language.py [PATH...]   files and folders; without any, all files that git knows
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAX_WORDS = 30
MAX_COLUMNS = 100
MAX_PAGE = 1500

SUBJECTS = re.compile(r"\b(whoever|whomever|whom|nobody|somebody|everybody|anybody)\b", re.I)
OPENINGS = re.compile(r"^(Who|What|Whatever)\b(?![^?]*\?$)")
PHRASES = re.compile(r"\b(so many as|of ours|of theirs|(?<!it )(?:is|are) to be|there is no [^.]* that)\b", re.I)

# Pages that are longer than one task, each with its reason.
LONG_PAGES = {
    "docs/configuration.md": "a reference: one table for each section of the file",
    "docs/defaults.md": "a reference: every default with its reason",
    "docs/errors.md": "a reference: every code that a client or an operator meets",
    "docs/metrics.md": "a reference: every metric family",
    "docs/conformance-clients.md": "a reference: every rule with its result",
    "CHANGELOG.md": "a list of changes",
}


def files(arguments):
    """Returns the Rust files and documents among the arguments and in their folders."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", *arguments]
    known = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in known.stdout.split("\0") if name.endswith((".rs", ".md"))]
    return [path for path in paths if path.exists()]


def plain(text):
    """Returns the text with code spans, links and quotations as one word each."""
    text = re.sub(r"`[^`]*`", "CODE", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"\[([^\]]*)\]", r"\1", text)
    text = re.sub(r'"[^"]*"', "QUOTE", text)
    return re.sub(r"https?://\S+", "URL", text)


def sentences(text):
    return [one for one in re.split(r"(?<=[.!?:;])\s+(?=[A-Z])|\n\n", plain(text)) if one.strip()]


def rust_comments(lines):
    """Yields (line, text) for each paragraph of a comment; code blocks are left out."""
    block, start, fenced = [], 0, False
    for number, line in enumerate([*lines, ""], 1):
        found = re.match(r"\s*//[/!]?(?: (.*)|)$", line)
        text = (found.group(1) or "") if found else ""
        if found and text.startswith("```"):
            fenced = not fenced
        elif found and not fenced and text.strip() and not re.match(r"(\||#|    )", text):
            item = re.match(r"\s*(?:[-*]|\d+\.)\s", text)
            if item and block:
                yield start, " ".join(block)
                block = []
            if not block:
                start = number
            block.append(text.strip())
            continue
        if block:
            yield start, " ".join(block)
            block = []


def rust_strings(lines):
    for number, line in enumerate(lines, 1):
        code = re.sub(r"^\s*//.*$|\s//\s.*$", "", line)
        for text in re.findall(r'"((?:[^"\\]|\\.)*)"', code):
            if " " in text:
                yield number, text


def check_rust(path, lines):
    for number, line in enumerate(lines, 1):
        # A value without a blank, such as a key or a token, cannot be broken.
        if len(line) > MAX_COLUMNS and not re.search(r"\S{70}", line):
            yield number, f"{len(line)} columns; at most {MAX_COLUMNS}"
    for number, text in rust_comments(lines):
        for sentence in sentences(text):
            words = len(re.findall(r"[\w'’-]+", sentence))
            if words > MAX_WORDS:
                yield number, f"a sentence of {words} words: {sentence[:60]}…"
            yield from ((number, fault) for fault in faults(sentence))
    if "tests" not in path.parts:
        for number, text in rust_strings(lines):
            yield from ((number, fault) for fault in faults(text))


def faults(sentence):
    for found in SUBJECTS.findall(sentence):
        yield f"the subject `{found}`: name the thing in the code or on the wire"
    if found := OPENINGS.match(sentence.strip()):
        yield f"a sentence that begins with `{found.group(1)}`: {sentence.strip()[:60]}"
    for found in PHRASES.findall(sentence):
        yield f"the phrase `{found}`: say it with a verb"


def check_page(path, lines):
    words, fenced = 0, False
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            if not line.startswith("|"):
                words += len(plain(line).split())
            for sentence in sentences(line.strip("|#- ")):
                yield from ((number, fault) for fault in faults(sentence))
    name = str(path.relative_to(ROOT))
    if words > MAX_PAGE and name not in LONG_PAGES:
        yield 1, f"{words} words; at most {MAX_PAGE}, or a reason in {pathlib.Path(__file__).name}"


def main():
    found = 0
    for path in files(sys.argv[1:]):
        lines = path.read_text().splitlines()
        check = check_rust if path.suffix == ".rs" else check_page
        for number, fault in check(path, lines):
            print(f"{path.relative_to(ROOT)}:{number}: {fault}")
            found += 1
    if found:
        print(f"check-language: {found} findings; CONTRIBUTING.md, \"How we write\", has the rules")
    return min(found, 1)


sys.exit(main())
