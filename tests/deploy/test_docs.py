"""The documentation is true where a machine can tell: links, files, flags, chart values, messages, and both languages.

    python3 tests/deploy/test_docs.py
"""
from __future__ import annotations

import re
import unittest
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [*DOCS, *(ROOT / name for name in ("README.md", "README.ja.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"))]


def without_code(text: str) -> str:
    return re.sub(r"^( *)```.*?^\1```", "", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Lines of shell blocks, continued lines joined."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", text, flags=re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("   #")[0].strip() for line in lines if line.strip()]


def anchor(heading: str) -> str:
    """As GitHub makes them."""
    plain = re.sub(r"[`*\[\]]|\(.*?\)", "", heading.strip().lower())
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {anchor(line.lstrip("#")) for line in without_code(page.read_text()).splitlines() if line.startswith("#")}


def sources() -> str:
    """All of src/ with string literals that go on in the next line joined."""
    text = "".join(path.read_text() for path in sorted((ROOT / "src").rglob("*.rs")))
    return re.sub(r"\\\n\s*", "", text)


class Docs(unittest.TestCase):
    def test_every_link_leads_somewhere(self):
        for page in PAGES:
            for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
                if target.startswith(("http://", "https://")):
                    continue
                file, _, fragment = target.partition("#")
                path = (page.parent / file).resolve() if file else page
                self.assertTrue(path.exists(), f"{page.name}: {target}")
                if fragment:
                    self.assertIn(fragment, anchors(path), f"{page.name}: {target}")

    def test_every_page_is_there_in_both_languages_with_the_same_commands(self):
        for page in (ROOT / "docs/en").glob("*.md"):
            # The flags' reference is the program's own words.
            if page.name == "flags.md":
                continue
            other = ROOT / "docs/ja" / page.name
            self.assertTrue(other.exists(), other)
            english, japanese = page.read_text(), other.read_text()
            self.assertEqual(commands(english), commands(japanese), page.name)
            count = [sum(line.startswith("#") for line in without_code(text).splitlines()) for text in (english, japanese)]
            self.assertEqual(count[0], count[1], f"{page.name}: headings")
            self.assertEqual(english.count("\n|"), japanese.count("\n|"), f"{page.name}: rows of tables")
        self.assertEqual({page.name for page in (ROOT / "docs/ja").glob("*.md")},
                         {page.name for page in (ROOT / "docs/en").glob("*.md")} - {"flags.md"})

    def test_every_file_in_a_command_exists(self):
        for page in PAGES:
            directory = ROOT
            for command in commands(page.read_text()):
                if command.startswith("cd "):
                    directory = ROOT / command.split()[1]
                    self.assertTrue(directory.is_dir(), command)
                for word in re.findall(r"(?:^|[ =])((?:deploy|scripts|tests)/[\w./-]+)", command):
                    self.assertTrue((ROOT / word).exists(), f"{page.name}: {word}")
                for word in re.findall(r"(?:template-file=|--config )([\w.-]+)", command):
                    self.assertTrue((directory / word).exists(), f"{page.name}: {word}")

    def test_every_make_target_exists(self):
        targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        for page in PAGES:
            for target in re.findall(r"\bmake ([a-z0-9-]+)(?=[`\s])", "\n".join(
                    [*commands(page.read_text()), *re.findall(r"`(make [a-z0-9-]+)`", page.read_text())])):
                self.assertIn(target, targets, page.name)

    def test_every_value_that_is_set_is_the_charts(self):
        values = yaml.safe_load((ROOT / "deploy/helm/nifcloud-additional-storage-csi/values.yaml").read_text())
        for page in PAGES:
            for name in re.findall(r"--set ([\w.]+)=", page.read_text()) + re.findall(r"`((?:controller|node)\.\w+)`", page.read_text()):
                value = values
                for part in name.split("."):
                    self.assertIn(part, value, f"{page.name}: {name}")
                    value = value[part]

    def test_every_message_is_the_programs(self):
        program = sources()
        # What Kubernetes itself says.
        others = ("waiting for first consumer", "not found", "node(s) didn't match")
        for page in (ROOT / "docs").glob("*/troubleshooting.md"):
            rows = [line for line in page.read_text().splitlines() if line.startswith("| `")]
            self.assertGreater(len(rows), 20)
            for row in rows:
                for message in re.findall(r"`([^`]+)`", row.split("|")[1]):
                    if not any(other in message for other in others):
                        self.assertIn(message, program, f"{page}: {message}")

    def test_both_languages_explain_the_same_messages(self):
        def messages(language: str) -> list[str]:
            text = (ROOT / f"docs/{language}/troubleshooting.md").read_text()
            return [re.findall(r"`([^`]+)`", line.split("|")[1]) for line in text.splitlines() if line.startswith("| `")]
        self.assertEqual(messages("en"), messages("ja"))


if __name__ == "__main__":
    unittest.main()
