"""What the package promises about itself."""

from __future__ import annotations

import ast
import asyncio
import io
import re
import subprocess
import sys
import tokenize
import zipfile
from pathlib import Path
from typing import Any

import pytest
import wire
from loopback import Loopback

from usher_client import Options

FOLDER = Path(__file__).resolve().parents[1]
PACKAGE = FOLDER / "usher_client"
README = (FOLDER / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
# What a reader of README.md has besides.
BEFORE = """
import asyncio, json, ssl
from usher_client import Client, Options, TokenContext

async def get_token(context: TokenContext) -> str:
    return "token"
"""
LINES = 600
NOT_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
}  # fmt: skip
HAVE_DOCSTRINGS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_lines(source: str) -> int:
    """The lines that hold code: not those that are blank, a comment or a docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NOT_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, HAVE_DOCSTRINGS) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            lines -= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return len(lines)


def test_the_package_has_at_most_600_lines_of_code() -> None:
    counts = {path.name: code_lines(path.read_text()) for path in PACKAGE.rglob("*.py")}
    assert sum(counts.values()) <= LINES, counts


def test_no_line_is_longer_than_100_columns() -> None:
    long = [
        f"{path.name}:{number}"
        for path in PACKAGE.rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > 100
    ]
    assert long == []


def test_blank_lines_comments_and_docstrings_are_not_counted() -> None:
    source = '"""Module."""\n\n# Comment.\ndef one() -> int:\n    """Returns 1."""\n    return (\n        1\n    )\n'
    assert code_lines(source) == 4


def program(block: str) -> str:
    """A module of a block of README.md; `example` does what stands outside of functions."""
    before = BEFORE
    if "async def get_token" in block:
        before = ""
        block += "\ndef ask_the_issuer() -> Token:\n    return Token('token', time.time() + 600)\n"
        block += "\nasync def example() -> None:\n    assert await get_token(TokenContext('initial'))\n"
    elif "async def test_an_echo" in block:
        block += "\nasync def example() -> None:\n    await test_an_echo()\n"
    else:
        lines = "".join(f"    {line}\n" for line in block.splitlines())
        block = f"\nasync def example() -> None:\n{lines}"
    return before + block


def test_the_examples_of_the_readme_have_good_types(tmp_path: Path) -> None:
    files = [tmp_path / f"example_{number}.py" for number in range(len(BLOCKS))]
    for path, block in zip(files, BLOCKS):
        path.write_text(program(block))
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), *files]
    checked = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_examples_of_the_readme_run(number: int, capsys: Any) -> None:
    async def echo(socket: wire.Socket) -> None:
        while isinstance(text := await socket.read(), str):
            socket.send(text)

    async def run() -> None:
        async with Loopback(echo) as server:
            source = program(BLOCKS[number]).replace("wss://chat.example.com/ws", server.url)
            names: dict[str, Any] = {"__name__": "example"}
            # There is no such file here.
            exec(source.replace('cafile="ca.pem"', ""), names)
            await asyncio.wait_for(names["example"](), 10)

    asyncio.run(run())
    if "print(message)" in BLOCKS[number] or '"message", print' in BLOCKS[number]:
        assert "hello" in capsys.readouterr().out


def test_the_limits_of_the_readme_are_the_defaults() -> None:
    units = {"s": 1, "MiB": 1 << 20}
    rows = re.findall(r"^\| `(\w+)` \| (no limit|[\d.]+)(?: (s|MiB))? \|", README, re.MULTILINE)
    assert len(rows) == 11
    for name, number, unit in rows:
        value = float("inf" if number == "no limit" else number) * units.get(unit, 1)
        assert getattr(Options(), name) == value, name
    named = set(re.findall(r"`(\w+)[`=]", README)) | set(re.findall(r"    (\w+)=", README))
    rare = {"ticket_url", "config_url"}
    assert set(Options.__dataclass_fields__) <= named | rare


def test_the_package_is_built_and_fit_for_pypi(tmp_path: Path) -> None:
    def run(*arguments: str) -> None:
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    run("hatchling", "build", "-d", str(tmp_path))
    wheel, source = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    run("twine", "check", "--strict", *map(str, [*wheel, *source]))
    [built] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(built).namelist()
    files = {f"usher_client/{path.name}" for path in PACKAGE.iterdir() if path.is_file()}
    assert files == {name for name in names if name.startswith("usher_client/")}
    assert "usher_client/py.typed" in names and any(name.endswith("LICENSE") for name in names)
