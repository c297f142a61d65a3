//! The command line is consistent, and the reference in `docs/` is what the program says of itself.
//!
//! `UPDATE_DOCS=1 cargo test --lib cli::` writes the tables anew.

use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, CommandFactory as _};

use super::*;
use crate::domain::capability::FsType;
use crate::domain::disk::Accounting;
use crate::domain::params::{ClassParams, DEFAULT_TYPE, ParamError};

const BEGIN: &str = "<!-- written by a test: UPDATE_DOCS=1 cargo test --lib cli:: -->";
const END: &str = "<!-- end -->";

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

/// What the parser itself says about a key: nothing, if any value will do.
fn expected(key: &str) -> String {
    match ClassParams::parse(std::iter::once((key, "?"))) {
        Err(ParamError::Value { expected, .. }) => expected,
        other => panic!("{key}: {other:?}"),
    }
}

/// The keys that the parser knows, from its own complaint about one that it does not know.
fn keys() -> Vec<String> {
    match ClassParams::parse(std::iter::once(("no-such-key", ""))) {
        Err(ParamError::UnknownKey { known, .. }) => known.split(", ").map(str::to_owned).collect(),
        other => panic!("{other:?}"),
    }
}

fn default_of(key: &str) -> &'static str {
    match key {
        "type" => DEFAULT_TYPE,
        "accountingType" => "hourly",
        "csi.storage.k8s.io/fstype" => "ext4",
        "ext4BigAlloc" => "false",
        "xfsProfile" => "default",
        "identityCheck" => "on",
        "nonZeroBlankDisk" => "refuse",
        // The program that makes the file system knows best.
        _ => "",
    }
}

fn parameters() -> String {
    let mut table = "| key | values | default |\n|---|---|---|\n".to_owned();
    for key in keys() {
        let values = if key == "csi.storage.k8s.io/fstype" {
            FsType::ALL.map(FsType::name).join(", ")
        } else {
            expected(&key)
        };
        let default = default_of(&key);
        let default = if default.is_empty() {
            "mkfs".to_owned()
        } else {
            format!("`{default}`")
        };
        let _ = writeln!(table, "| `{key}` | {values} | {default} |");
    }
    table
}

#[test]
fn the_defaults_in_the_docs_are_those_of_the_parser() {
    let none = ClassParams::parse(std::iter::empty()).unwrap();
    let named = [
        ("type", default_of("type")),
        ("accountingType", default_of("accountingType")),
    ];
    assert_eq!(ClassParams::parse(named.into_iter()).unwrap(), none);
    assert_eq!(none.accounting, Accounting::Hourly);
    let fs = default_of("csi.storage.k8s.io/fstype");
    assert_eq!(FsType::parse("").unwrap().name(), fs);
    for key in [
        "ext4BigAlloc",
        "xfsProfile",
        "identityCheck",
        "nonZeroBlankDisk",
    ] {
        ClassParams::parse(std::iter::once((key, default_of(key)))).unwrap();
    }
}

fn row(arg: &Arg) -> Option<String> {
    let long = arg.get_long()?;
    if matches!(long, "help" | "version") {
        return None;
    }
    let value = match arg.get_value_names() {
        Some(names) if arg.get_action().takes_values() => format!("={}", names.join(" ")),
        _ => String::new(),
    };
    let variable = arg.get_env().map_or(String::new(), |name| {
        format!("`{}`", name.to_string_lossy())
    });
    let default: Vec<_> = arg
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy())
        .filter(|value| !value.is_empty() && value != "false")
        .map(|value| format!("`{value}`"))
        .collect();
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let choices = arg.get_possible_values();
    let choices: Vec<_> = choices
        .iter()
        .map(clap::builder::PossibleValue::get_name)
        .collect();
    let help = if choices.is_empty() || !arg.get_action().takes_values() {
        help
    } else {
        format!("{help}: {}", choices.join(", "))
    };
    let help = help.replace('\n', " ").replace('|', "\\|");
    Some(format!(
        "| `--{long}{value}` | {variable} | {} | {help} |\n",
        default.join(" ")
    ))
}

fn flags() -> String {
    let mut text = String::new();
    let command = Cli::command();
    let head = "| flag | variable | default | meaning |\n|---|---|---|---|\n";
    let _ = write!(text, "## Every role\n\n{head}");
    text.extend(command.get_arguments().filter_map(row));
    for role in command.get_subcommands().filter(|role| !role.is_hide_set()) {
        // It takes the flags of controller and node.
        if role.get_name() == "all" {
            continue;
        }
        let about = role
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        let _ = write!(text, "\n## {}\n\n{about}.\n", role.get_name());
        let rows: String = role.get_arguments().filter_map(row).collect();
        if !rows.is_empty() {
            let _ = write!(text, "\n{head}{rows}");
        }
    }
    text
}

/// Compares the block between the marks with `expected`, or writes it.
fn check(file: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (block, after) = rest.split_once(END).unwrap();
    let wanted = format!("\n\n{expected}\n");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(
        block, wanted,
        "docs/{file}: run UPDATE_DOCS=1 cargo test --lib cli::"
    );
}

#[test]
fn the_parameters_in_the_docs_are_those_of_the_parser() {
    check("en/parameters.md", &parameters());
    check("ja/parameters.md", &parameters());
}

#[test]
fn the_flags_in_the_docs_are_those_of_the_program() {
    check("en/flags.md", &flags());
}
