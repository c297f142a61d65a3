//! Preflight: what a controller or a node needs, looked at before or beside it; changes nothing.
//!
//! ```text
//! cloud    (port) --.
//! machine  (facts) -+--> checks --> one line each, or JSON
//! cluster  (port) --'
//! ```
//!
//! A check says what was found; when that is not as it must be, also what was expected and what to do.

use std::fmt;

use serde::Serialize;

pub mod cloud;
pub mod cluster;
pub mod machine;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it must be.
    Ok,
    /// Not looked at, and why.
    Skip,
    /// Works, but not as it should, or not yet.
    Warn,
    /// The driver will not work.
    Fail,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skip => "skip",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at: a stable word.
    pub name: &'static str,
    /// How it ended.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What should be there; empty when `found` says it, or all is well.
    pub expected: String,
    /// What to do; empty when `found` says it, or nothing needs doing.
    pub advice: String,
}

impl Check {
    fn new(name: &'static str, level: Level, found: impl Into<String>) -> Self {
        Self {
            name,
            level,
            found: found.into(),
            expected: String::new(),
            advice: String::new(),
        }
    }

    /// All is well.
    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Level::Ok, found)
    }

    /// Not looked at.
    pub fn skip(name: &'static str, why: impl Into<String>) -> Self {
        Self::new(name, Level::Skip, why)
    }

    /// Not as it should be, or not yet.
    pub fn warn(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Level::Warn, found)
    }

    /// The driver will not work.
    pub fn fail(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Level::Fail, found)
    }

    /// Adds what should be there and what to do.
    #[must_use]
    pub fn expected(mut self, expected: impl Into<String>, advice: impl Into<String>) -> Self {
        self.expected = expected.into();
        self.advice = advice.into();
        self
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line each, whatever an error of the outside says.
        let line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        write!(
            f,
            "{:<4}  {:<12}  {}",
            self.level.word(),
            self.name,
            line(&self.found)
        )?;
        if !self.expected.is_empty() {
            write!(f, "; expected: {}", line(&self.expected))?;
        }
        if !self.advice.is_empty() {
            write!(f, "; do: {}", line(&self.advice))?;
        }
        Ok(())
    }
}

/// All checks, in the order in which they were made.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    checks: Vec<Check>,
}

impl Report {
    /// Adds checks.
    pub fn add(&mut self, checks: impl IntoIterator<Item = Check>) {
        self.checks.extend(checks);
    }

    /// Whether the driver can work: nothing failed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.level != Level::Fail)
    }

    /// One JSON object: `{"passed": bool, "checks": [...]}`.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::json!({ "passed": self.passed(), "checks": self.checks }).to_string()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            writeln!(f, "{check}")?;
        }
        let count = |level| {
            let of_level = self.checks.iter().filter(|check| check.level == level);
            of_level.count()
        };
        write!(
            f,
            "{} ok, {} warnings, {} failed, {} skipped",
            count(Level::Ok),
            count(Level::Warn),
            count(Level::Fail),
            count(Level::Skip)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_one_line_that_says_what_was_found_expected_and_to_be_done() {
        let check = Check::fail("zone", "zone \"x\"\nis odd").expected("east-11", "set --zone");
        assert_eq!(
            check.to_string(),
            "FAIL  zone          zone \"x\" is odd; expected: east-11; do: set --zone"
        );
    }

    #[test]
    fn warnings_pass_and_failures_do_not() {
        let mut report = Report::default();
        report.add([
            Check::ok("a", "x"),
            Check::warn("b", "x"),
            Check::skip("c", "x"),
        ]);
        assert!(report.passed());
        report.add([Check::fail("d", "x")]);
        assert!(!report.passed());
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["passed"], false);
        assert_eq!(json["checks"][3]["level"], "fail");
        assert!(
            report
                .to_string()
                .ends_with("1 ok, 1 warnings, 1 failed, 1 skipped")
        );
    }
}
