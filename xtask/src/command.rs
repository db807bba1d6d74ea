//! Runs programs: prints each command line first, and turns an exit code into an error.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The root folder of the workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the manifest of xtask lies one folder below the workspace")
}

/// The folder that cargo builds into.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace().join("target"), |set| workspace().join(set))
}

/// A `cargo` command that starts in the workspace.
pub(crate) fn cargo<I, S>(arguments: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new("cargo");
    command.args(arguments).current_dir(workspace());
    command
}

/// A command with its arguments, starting in the workspace.
pub(crate) fn program<I, S>(name: impl AsRef<OsStr>, arguments: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(name);
    command.args(arguments).current_dir(workspace());
    command
}

/// Prints the command line as a shell would take it, with what is set in its environment.
pub(crate) fn print(command: &Command) {
    let mut line = String::from("$");
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            line.push_str(&format!(" {}={}", name.display(), quote(value)));
        }
    }
    line.push(' ');
    line.push_str(&quote(command.get_program()));
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&quote(argument));
    }
    println!("{line}");
}

/// Prints and runs a command; an exit code other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    print(command);
    let name = command.get_program().display().to_string();
    let status = command.status().with_context(|| format!("start {name}"))?;
    if !status.success() {
        bail!("{name} ended with {status}");
    }
    Ok(())
}

/// Runs a command quietly and gives what it printed on its standard output.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("start {name}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name} ended with {}: {}", output.status, said.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("read the output of {name}"))
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c) || !c.is_ascii();
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.into_owned();
    }
    // The separator that cargo wants between encoded flags would vanish in a terminal.
    format!("'{}'", word.replace('\u{1f}', " ").replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_a_shell_needs_them() {
        assert_eq!(quote(OsStr::new("--target=a/b")), "--target=a/b");
        assert_eq!(quote(OsStr::new("tcp port 80")), "'tcp port 80'");
        assert_eq!(quote(OsStr::new("it's")), "'it'\\''s'");
        assert_eq!(quote(OsStr::new("")), "''");
    }

    #[test]
    fn a_failing_command_names_itself_and_what_it_said() {
        let error = read(&mut program("sh", ["-c", "echo lost >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("sh") && text.contains('3') && text.contains("lost"),
            "{text}"
        );
    }
}
