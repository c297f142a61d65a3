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


def production(path: str) -> str:
    """A source file without its tests, string literals that go on in the next line joined."""
    return re.sub(r"\\\n\s*", "", (ROOT / path).read_text().split("#[cfg(test)]")[0])


def error_texts(path: str) -> list[str]:
    """The texts of a file's error enums, without what is filled in."""
    texts = re.findall(r'#\[error\(\s*"((?:[^"\\]|\\.)*)"', production(path))
    return [text for text in (re.sub(r"\{[^}]*\}", "{}", text) for text in texts) if re.search(r"[a-z]{2}", text)]


def explained() -> list[list[str]]:
    """What the rows of the troubleshooting page explain: the pieces of each message, in their order."""
    text = (ROOT / "docs/en/troubleshooting.md").read_text()
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [re.findall(r"`([^`]+)`", message) for cell in cells for message in re.split(r",? or (?=`)", cell)]


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

    def test_every_error_that_a_user_can_read_is_explained(self):
        # What RPCs answer and what ends the program before it serves.
        files = ("csi/controller/error", "csi/node/error", "csi/validate", "csi/server", "host", "jobs", "fleet", "cloud",
                 "domain/capability", "domain/id", "domain/params", "domain/size", "domain/device", "config", "kube",
                 "cloud/nifcloud", "cloud/nifcloud/credentials", "cloud/nifcloud/endpoint")
        # A defect of the program's own start, which its tests would show.
        never = ("no TLS provider is installed",)
        # What the system refused, in its own words: one row for all, which explains no other text.
        vague = ("cannot {} {}", "cannot {} {}: {}", "{} is not {}: {}")
        texts = [text for file in files for text in error_texts(f"src/{file}.rs")]
        self.assertGreater(len(texts), 70)
        rows = [re.compile(".*".join(map(re.escape, pieces)), re.DOTALL) for pieces in explained()
                if pieces[0] not in ("cannot", "is not")]
        for text in texts:
            if not text.startswith(never) and text not in vague:
                self.assertTrue(any(row.search(text) for row in rows), f"no row in docs/en/troubleshooting.md for: {text}")

    def test_every_reason_of_a_volumes_health_is_explained(self):
        files = ("host/health", "host/linux", "csi/node/health", "csi/controller/health")
        reasons = {reason for file in files for reason in re.findall(r'"((?:[A-Z][a-z]+){2,})"', production(f"src/{file}.rs"))}
        self.assertGreater(len(reasons), 20)
        rows = {pieces[0] for pieces in explained() if len(pieces) == 1}
        self.assertEqual(reasons - rows, set())

    def test_both_languages_explain_the_same_messages(self):
        def messages(language: str) -> list[str]:
            text = (ROOT / f"docs/{language}/troubleshooting.md").read_text()
            return [re.findall(r"`([^`]+)`", line.split("|")[1]) for line in text.splitlines() if line.startswith("| `")]
        self.assertEqual(messages("en"), messages("ja"))


if __name__ == "__main__":
    unittest.main()
