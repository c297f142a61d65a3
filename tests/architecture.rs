//! The architecture, held by reading the sources: who may use what, how long a file and a function may be.
//!
//! ```text
//! main -> cli, app;  app -> everything;  csi -> domain, fleet, host (port), jobs, proto;  fleet -> domain, cloud (port)
//! cloud/nifcloud -> domain, cloud;  host -> domain;  emulator -> domain;  domain -> std
//! ```
//!
//! A rule that fails prints why it exists. Tests inside the sources (`#[cfg(test)]`, `tests.rs`, `fake.rs`) are not read.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file; a few more than the 400 that one aims for.
const FILE_LINES: usize = 420;
/// Lines of a function.
const FUNCTION_LINES: usize = 62;

/// Files that may be longer, and why.
const LONG_FILES: [(&str, &str); 4] = [
    (
        "emulator/actions.rs",
        "one function per API action, like the reference page",
    ),
    (
        "emulator/core.rs",
        "serving a call and carrying a change out share the books' lock",
    ),
    (
        "domain/params.rs",
        "one table: every parameter with its check and its test",
    ),
    ("host.rs", "the port: documentation is most of it"),
];

/// Functions that may be longer, and why.
const LONG_FUNCTIONS: [(&str, &str, &str); 0] = [];

/// A source file: path below `src/`, its code without comments, strings and tests.
struct Source {
    path: String,
    code: String,
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    files.sort();
    let mut sources = Vec::new();
    for file in files {
        let path = file.strip_prefix(&root).unwrap().display().to_string();
        if path.contains("tests") || path.ends_with("fake.rs") || path.contains("/fake/") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        sources.push(Source {
            path,
            code: code_of(&text),
        });
    }
    assert!(sources.len() > 50, "the sources were not found");
    sources
}

/// Blanks comments, strings and characters, keeps line breaks, and cuts the test module off.
fn code_of(text: &str) -> String {
    let text = blank(text);
    match text.find("#[cfg(test)]\nmod tests {") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

fn blank(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let length = match rest {
            ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => find(rest, &['*', '/']).map_or(rest.len(), |end| end + 2),
            ['r', '"', ..] => {
                3 + rest[2..]
                    .iter()
                    .position(|c| *c == '"')
                    .unwrap_or(rest.len() - 3)
            }
            ['r', '#', '"', ..] => find(rest, &['"', '#']).map_or(rest.len(), |end| end + 2),
            ['"', ..] => string_length(rest),
            ['\'', '\\', ..] => {
                2 + rest[2..]
                    .iter()
                    .skip(1)
                    .position(|c| *c == '\'')
                    .unwrap_or(0)
                    + 2
            }
            ['\'', _, '\'', ..] => 3,
            _ => 0,
        };
        if length == 0 {
            out.push(rest[0]);
            at += 1;
            continue;
        }
        let taken = &rest[..length.min(rest.len())];
        out.extend(taken.iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at += taken.len();
    }
    out
}

fn find(text: &[char], pattern: &[char]) -> Option<usize> {
    text.windows(pattern.len())
        .skip(1)
        .position(|window| window == pattern)
        .map(|at| at + 1)
}

fn string_length(text: &[char]) -> usize {
    let mut escaped = false;
    for (at, c) in text.iter().enumerate().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// Whether the code names a path that begins with `name::` as a whole word, or a crate-internal module.
fn uses(code: &str, name: &str) -> Option<usize> {
    let needle = format!("{name}::");
    let mut from = 0;
    while let Some(found) = code[from..].find(&needle) {
        let at = from + found;
        let before = code[..at].chars().next_back();
        if !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            return Some(code[..at].matches('\n').count() + 1);
        }
        from = at + needle.len();
    }
    None
}

/// All `crate::module` that the code names, also inside `use crate::{a, b::c}`.
fn modules(code: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let (mut depth, mut word) = (1, String::new());
            let mut top = true;
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 || (depth == 1 && c == ',') {
                    found.push((word.trim().to_owned(), line));
                    word.clear();
                    top = true;
                } else if depth == 1 && c == ':' {
                    top = false;
                } else if depth == 1 && top {
                    word.push(c);
                }
                if depth == 0 {
                    break;
                }
            }
        } else {
            let word: String = rest
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            found.push((word, line));
        }
    }
    found
}

/// A crate and the only places that may name it.
struct External {
    name: &'static str,
    within: &'static [&'static str],
    why: &'static str,
}

const EXTERNALS: [External; 9] = [
    External {
        name: "tonic",
        within: &["csi", "proto", "app", "demo/", "telemetry/metrics.rs"],
        why: "gRPC is one way to be called; what the driver does must not depend on it",
    },
    External {
        name: "prost",
        within: &["csi", "proto", "app"],
        why: "messages become typed commands at the edge",
    },
    External {
        name: "reqwest",
        within: &["cloud/nifcloud", "kube/api"],
        why: "only the adapters speak HTTP; the ports can be served by anything",
    },
    External {
        name: "quick_xml",
        within: &["cloud/nifcloud"],
        why: "only the adapter knows that the API speaks XML",
    },
    External {
        name: "rustls",
        within: &["cloud/nifcloud"],
        why: "TLS belongs to the adapter that needs it",
    },
    External {
        name: "nix",
        within: &["host"],
        why: "system calls live in one place, where they are reviewed for safety",
    },
    External {
        name: "sys_mount",
        within: &["host"],
        why: "mount(2) is called in one place, which verifies what it did",
    },
    External {
        name: "anyhow",
        within: &["main.rs", "app", "demo"],
        why: "errors have meaning inside; only start-up and the demo may lose it",
    },
    External {
        name: "clap",
        within: &["cli.rs", "cli/"],
        why: "config.rs turns words into checked settings; nothing else reads words",
    },
];

/// A module and the modules that it may name.
struct Internal {
    within: &'static str,
    may: &'static [&'static str],
    why: &'static str,
}

const INTERNALS: [Internal; 14] = [
    Internal {
        within: "domain",
        may: &["domain"],
        why: "the domain is pure: it can be tested and understood alone",
    },
    Internal {
        within: "jobs",
        may: &["jobs"],
        why: "the job table knows no operation",
    },
    Internal {
        within: "cloud",
        may: &["cloud", "domain"],
        why: "the cloud's port and adapter know nothing of who calls them",
    },
    Internal {
        within: "fleet",
        may: &["fleet", "cloud", "domain"],
        why: "the fleet talks to any cloud, for any caller",
    },
    Internal {
        within: "host",
        may: &["host", "domain"],
        why: "the machine's port and adapter know nothing of CSI",
    },
    Internal {
        within: "kube",
        may: &["kube", "domain"],
        why: "what is asked of Kubernetes knows nothing of CSI and the cloud",
    },
    Internal {
        within: "audit",
        may: &["audit", "domain", "kube"],
        why: "two lists are compared without asking anybody",
    },
    Internal {
        within: "doctor",
        may: &["doctor", "domain", "cloud", "host", "kube"],
        why: "checks are made on ports and facts; app chooses what is behind them",
    },
    Internal {
        within: "csi",
        may: &["csi", "domain", "fleet", "cloud", "host", "jobs", "proto"],
        why: "services use ports; app chooses what is behind them",
    },
    Internal {
        within: "emulator",
        may: &["emulator", "domain"],
        why: "a test double that shares the driver's code shares its mistakes",
    },
    Internal {
        within: "proto",
        may: &["proto"],
        why: "generated code",
    },
    Internal {
        within: "shutdown",
        may: &["shutdown"],
        why: "signals are the same for every role",
    },
    Internal {
        within: "admin",
        may: &["admin", "telemetry"],
        why: "the admin endpoint shows checks that app hands to it",
    },
    Internal {
        within: "telemetry",
        may: &["telemetry", "cli", "cloud", "csi", "fleet"],
        why: "telemetry implements the observers that the layers define, nothing more",
    },
];

fn within(path: &str, place: &str) -> bool {
    path == format!("{place}.rs")
        || path == place
        || path.starts_with(&format!("{}/", place.trim_end_matches('/')))
}

fn fail(broken: &[String]) {
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn external_crates_stay_where_they_belong() {
    let mut broken = Vec::new();
    for source in sources() {
        for rule in &EXTERNALS {
            if rule.within.iter().any(|place| within(&source.path, place)) {
                continue;
            }
            if let Some(line) = uses(&source.code, rule.name) {
                broken.push(format!(
                    "src/{}:{line} uses {}: {} (allowed in {:?})",
                    source.path, rule.name, rule.why, rule.within
                ));
            }
        }
    }
    fail(&broken);
}

#[test]
fn modules_depend_in_one_direction() {
    let mut broken = Vec::new();
    for source in sources() {
        for rule in INTERNALS
            .iter()
            .filter(|rule| within(&source.path, rule.within))
        {
            for (module, line) in modules(&source.code) {
                if !rule.may.contains(&module.as_str()) && !module.is_empty() {
                    broken.push(format!(
                        "src/{}:{line} uses crate::{module}: {} (allowed: {:?})",
                        source.path, rule.why, rule.may
                    ));
                }
            }
        }
    }
    fail(&broken);
}

#[test]
fn only_app_and_demo_name_the_adapters() {
    let adapters = [
        "cloud::nifcloud::Client",
        "cloud::nifcloud::{",
        "host::linux",
        "emulator::Emulator",
        "kube::api",
    ];
    let allowed = [
        "app",
        "demo",
        "telemetry/metrics.rs",
        "cloud/nifcloud",
        "host",
        "emulator",
        "kube",
    ];
    let mut broken = Vec::new();
    for source in sources() {
        if allowed.iter().any(|place| within(&source.path, place)) {
            continue;
        }
        for adapter in adapters
            .iter()
            .filter(|adapter| source.code.contains(**adapter))
        {
            broken.push(format!(
                "src/{} names {adapter}: only the composition root chooses what is behind a port",
                source.path
            ));
        }
    }
    fail(&broken);
}

#[test]
fn files_are_short_enough_to_be_read_at_once() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    let mut broken = Vec::new();
    for file in files {
        let path = file.strip_prefix(&root).unwrap().display().to_string();
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        let excused = path.contains("tests") || LONG_FILES.iter().any(|(long, _)| *long == path);
        if lines > FILE_LINES && !excused {
            broken.push(format!("src/{path} has {lines} lines: split it by meaning, or excuse it in LONG_FILES with a reason"));
        }
    }
    fail(&broken);
}

#[test]
fn functions_are_short_enough_to_be_seen_at_once() {
    let mut broken = Vec::new();
    for source in sources() {
        for (name, line, lines) in functions(&source.code) {
            let excused = LONG_FUNCTIONS
                .iter()
                .any(|(path, long, _)| *path == source.path && *long == name);
            if lines > FUNCTION_LINES && !excused {
                broken.push(format!("src/{}:{line} fn {name} has {lines} lines: give its parts names, or excuse it in LONG_FUNCTIONS", source.path));
            }
        }
    }
    fail(&broken);
}

/// Name, first line and number of lines of every function with a body.
fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let alone = code[..at]
            .chars()
            .next_back()
            .is_none_or(char::is_whitespace);
        let rest = &code[at + 3..];
        let name: String = rest
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        let (body, end) = (rest.find('{'), rest.find(';'));
        let Some(body) =
            body.filter(|body| alone && !name.is_empty() && end.is_none_or(|end| *body < end))
        else {
            continue;
        };
        let mut depth = 0_usize;
        let close = rest[body..].char_indices().find_map(|(index, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            (depth == 0).then_some(body + index)
        });
        let line = code[..at].matches('\n').count() + 1;
        if let Some(close) = close {
            found.push((name, line, rest[..close].matches('\n').count() + 1));
        }
    }
    found
}

#[test]
fn the_reader_of_the_sources_sees_what_it_should() {
    let code = code_of(
        "//! tonic::x\nuse crate::{a, b::{c, d}, e};\nlet s = \"nix::y { \\\" \"; let c = '{';\nfn f() {\n  1\n}\n",
    );
    let names: Vec<String> = modules(&code).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a", "b", "e"]);
    assert_eq!(uses(&code, "tonic"), None);
    assert_eq!(uses(&code, "nix"), None);
    assert_eq!(uses("x\nnix::mount()", "nix"), Some(2));
    assert_eq!(uses("unix::mount()", "nix"), None);
    assert_eq!(functions(&code), [("f".to_owned(), 4, 3)]);
}
