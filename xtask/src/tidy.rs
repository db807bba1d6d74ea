//! Checks what no linter checks: sizes, names, words, and the reasons for `unsafe` where clippy
//! does not look.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::command;

const LINE_CHARACTERS_MAX: usize = 100;
const FILE_LINES_MAX: usize = 800;
const ARCHITECTURE_LINES_MAX: usize = 300;
/// How far above an `unsafe` its reason may stand.
const SAFETY_LINES_MAX: usize = 4;

/// Names that say nothing of what a file holds.
const FILES_FORBIDDEN: &[&str] = &[
    "mod.rs",
    "util.rs",
    "utils.rs",
    "helper.rs",
    "helpers.rs",
    "manager.rs",
    "misc.rs",
];

/// Words that no source holds, each in two parts so that this file may name them, and why.
const WORDS_FORBIDDEN: &[(&str, &str, &str)] = &[
    ("TO", "DO", "finish it, or file it"),
    ("FIX", "ME", "mend it, or file it"),
    ("#[al", "low(", "use #[expect(…, reason = \"…\")]"),
    ("Co-authored", "-by", "commits have one author"),
    ("unim", "plemented!", "no stubs"),
];

/// Prints every finding: whether there is none.
pub(crate) fn run() -> Result<bool> {
    let mut findings = Vec::new();
    let mut files = Vec::new();
    collect_sources(command::workspace(), &mut files)?;
    for path in &files {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let name = path.strip_prefix(command::workspace()).unwrap_or(path);
        check_source(name, &text, &mut findings);
    }
    let architecture = command::workspace().join("docs/architecture.md");
    if let Ok(text) = std::fs::read_to_string(architecture) {
        let count = text.lines().count();
        if count > ARCHITECTURE_LINES_MAX {
            findings.push(format!(
                "docs/architecture.md: {count} lines, {ARCHITECTURE_LINES_MAX} at most"
            ));
        }
    }
    for finding in &findings {
        println!("{finding}");
    }
    println!("tidy: {} sources, {} findings", files.len(), findings.len());
    Ok(findings.is_empty())
}

fn collect_sources(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" && name != "node_modules" {
                collect_sources(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

fn check_source(path: &Path, text: &str, findings: &mut Vec<String>) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if FILES_FORBIDDEN.contains(&&*name) {
        findings.push(format!(
            "{}: name the file for what it holds",
            path.display()
        ));
    }
    let lines: Vec<&str> = text.lines().collect();
    let code_count = lines
        .iter()
        .position(|line| *line == "mod tests {")
        .unwrap_or(lines.len());
    let is_test = path.components().any(|part| part.as_os_str() == "tests");
    if code_count > FILE_LINES_MAX && !is_test {
        let finding = format!("{code_count} lines before the tests, {FILE_LINES_MAX} at most");
        findings.push(format!("{}: {finding}", path.display()));
    }
    for (index, line) in lines.iter().enumerate() {
        let mut report = |finding: &str| {
            findings.push(format!("{}:{}: {finding}", path.display(), index + 1));
        };
        if line.chars().count() > LINE_CHARACTERS_MAX {
            report(&format!("longer than {LINE_CHARACTERS_MAX} characters"));
        }
        for (head, tail, remedy) in WORDS_FORBIDDEN {
            if line.contains(&format!("{head}{tail}")) {
                report(&format!("`{head}{tail}`: {remedy}"));
            }
        }
        if opens_unsafe(line) && !has_reason(&lines, index) {
            report("unsafe without `// SAFETY:` above it");
        }
    }
}

/// Whether a line opens a block or an implementation that the compiler does not check.
fn opens_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let is_quoted = code
        .split("unsafe ")
        .next()
        .is_some_and(|head| head.contains(['"', '`']));
    !is_quoted && (code.contains("unsafe {") || code.contains("unsafe impl "))
}

fn has_reason(lines: &[&str], index: usize) -> bool {
    // A comment may be longer than the distance: only lines of code count.
    let above = lines[..=index].iter().rev();
    let mut code_count = 0;
    for line in above {
        if line.contains("// SAFETY:") {
            return true;
        }
        code_count += usize::from(!line.trim_start().starts_with("//"));
        if code_count > SAFETY_LINES_MAX {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check_source(Path::new(path), text, &mut findings);
        findings
    }

    #[test]
    fn clean_source_has_no_findings() {
        let text = "//! Makes flows.\n// SAFETY: it is static\nlet x = unsafe { read() };\n";
        assert_eq!(findings("flow.rs", text), Vec::<String>::new());
    }

    #[test]
    fn each_rule_finds_what_breaks_it() {
        assert_eq!(findings("flow/mod.rs", "").len(), 1);
        assert_eq!(findings("flow.rs", &"x".repeat(101)).len(), 1);
        assert_eq!(findings("flow.rs", &"x\n".repeat(801)).len(), 1);
        assert_eq!(findings("flow.rs", concat!("// TO", "DO: later")).len(), 1);
        assert_eq!(findings("flow.rs", concat!("unsafe", " { f() }")).len(), 1);
        assert_eq!(
            findings("flow.rs", concat!("unsafe", " impl Send for X {}")).len(),
            1
        );
    }

    #[test]
    fn tests_do_not_count_towards_the_size_of_a_file() {
        let text = format!("{}mod tests {{\n{}", "x\n".repeat(700), "x\n".repeat(300));
        assert_eq!(findings("flow.rs", &text), Vec::<String>::new());
        let text = "x\n".repeat(900);
        assert_eq!(
            findings("phalanx/tests/network.rs", &text),
            Vec::<String>::new()
        );
    }
}
