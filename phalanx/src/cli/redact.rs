//! `phalanx redact`: captures to captures that can be handed on.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};

use super::selection::{EXIT_DAMAGED, hop_name};
use super::{WrongUsage, say};
use crate::capture_file::{self, OpenOptions};
use crate::plain::plain;
use crate::redaction::{
    Addresses, Export, Exported, Key, Payload, Pseudonyms, Redactor, parse_mask,
};

pub(super) const AFTER_HELP: &str = "\
Examples:
  phalanx redact -o out.pcapng trace.pcap
  phalanx redact -o shared/ client.pcap edge.pcap server.pcap
  phalanx redact --new-key key -o monday.pcapng monday.pcap
  phalanx redact --key-file key -o tuesday.pcapng tuesday.pcap
  phalanx redact --keep-payload --mask 0..64 -o out.pcapng trace.pcap

An address gets the same stand-in in all files of one run, and of all runs with one key; \
addresses of one subnet stay in one. The key finds out who is behind them: keep it to yourself, or \
delete it. Comments, names and secrets in the files are not copied; docs/privacy.md says what can \
still be learnt.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a capture is damaged (all before that is redacted).";

/// What `phalanx redact` takes.
#[derive(Debug, clap::Args)]
pub struct RedactArguments {
    /// Captures: pcap, pcapng or snoop, also gzip or zstd; `-` is the standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The pcapng file to write, `-` for the standard output; for several captures a folder, in
    /// which each keeps its name
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// The key of an earlier run, for the same stand-ins
    #[arg(long, value_name = "KEY", conflicts_with = "new_key")]
    key_file: Option<PathBuf>,
    /// Writes the key of this run to a new file; without it nobody ever knows it
    #[arg(long, value_name = "KEY")]
    new_key: Option<PathBuf>,
    /// Leaves private addresses of IPv4 and unique local ones of IPv6 as they are
    #[arg(long)]
    keep_private: bool,
    /// Leaves all addresses as they are, also of network cards
    #[arg(long, conflicts_with_all = ["key_file", "new_key", "keep_private"])]
    keep_addresses: bool,
    /// Leaves payload as it is, with all names and addresses in it
    #[arg(long)]
    keep_payload: bool,
    /// Bytes of each packet's payload to write over, the first being 0; repeats
    #[arg(long, value_name = "START..END", requires = "keep_payload", value_parser = parse_mask)]
    mask: Vec<Range<u32>>,
    /// Leaves names of interfaces as they are
    #[arg(long)]
    keep_names: bool,
}

pub(super) fn run(arguments: &RedactArguments) -> anyhow::Result<ExitCode> {
    let outputs = outputs(arguments)?;
    let mut redactor = Redactor::new(addresses(arguments)?, payload(arguments));
    let mut is_damaged = false;
    for (file, output) in arguments.files.iter().zip(&outputs) {
        let exported = redact(arguments, file, output, redactor)?;
        is_damaged |= report(file, &exported);
        redactor = exported.redactor;
    }
    Ok(ExitCode::from(if is_damaged { EXIT_DAMAGED } else { 0 }))
}

fn addresses(arguments: &RedactArguments) -> anyhow::Result<Addresses> {
    if arguments.keep_addresses {
        return Ok(Addresses::Kept);
    }
    let key = match &arguments.key_file {
        Some(path) => Key::read(path)?,
        None => Key::draw()?,
    };
    if let Some(path) = &arguments.new_key {
        key.write_new(path)?;
    }
    let pseudonyms = Pseudonyms::new(&key, arguments.keep_private);
    Ok(Addresses::Replaced(Box::new(pseudonyms)))
}

fn payload(arguments: &RedactArguments) -> Payload {
    if arguments.keep_payload {
        Payload::Kept {
            masks: arguments.mask.clone(),
        }
    } else {
        Payload::Cut
    }
}

/// Where each capture goes, checked before anything is written.
fn outputs(arguments: &RedactArguments) -> anyhow::Result<Vec<PathBuf>> {
    let (files, output) = (&arguments.files, &arguments.output);
    let is_folder = files.len() > 1 || output.is_dir();
    let outputs: Vec<PathBuf> = match is_folder {
        false => vec![output.clone()],
        true => files
            .iter()
            .map(|file| output.join(format!("{}.pcapng", hop_name(file))))
            .collect(),
    };
    let mut taken = BTreeMap::new();
    for (file, output) in files.iter().zip(&outputs) {
        if let Some(other) = taken.insert(output, file) {
            return Err(WrongUsage(format!(
                "{} and {} would both become {}; rename one",
                other.display(),
                file.display(),
                output.display()
            ))
            .into());
        }
        // What is read must not be written over, under whichever name.
        let Ok(place) = output.canonicalize() else {
            continue;
        };
        if files
            .iter()
            .any(|it| it.canonicalize().ok().as_ref() == Some(&place))
        {
            return Err(WrongUsage(format!(
                "{} would be written over while it is read; choose another --output",
                output.display()
            ))
            .into());
        }
    }
    if is_folder {
        std::fs::create_dir_all(output)
            .with_context(|| format!("make the folder {}", output.display()))?;
    }
    Ok(outputs)
}

fn redact(
    arguments: &RedactArguments,
    file: &Path,
    output: &Path,
    redactor: Redactor,
) -> anyhow::Result<Exported<Box<dyn Write>>> {
    let capture = capture_file::open(file, &OpenOptions::default())?;
    let place = open_output(output)?;
    let mut export = Export::new(capture, redactor, place, arguments.keep_names)?;
    let broken = || format!("{} is not complete", output.display());
    while export.step().with_context(broken)? {}
    export.finish().with_context(broken)
}

fn open_output(path: &Path) -> anyhow::Result<Box<dyn Write>> {
    if path == Path::new("-") {
        if std::io::stdout().is_terminal() {
            bail!("pcapng is not for terminals: pipe it, or name a file with --output");
        }
        return Ok(Box::new(BufWriter::new(std::io::stdout())));
    }
    let file = File::create(path).with_context(|| format!("write {}", path.display()))?;
    Ok(Box::new(BufWriter::new(file)))
}

/// Says what came of a capture, and whether it is damaged.
fn report(file: &Path, exported: &Exported<Box<dyn Write>>) -> bool {
    let (name, tally) = (plain(&file.display().to_string()), &exported.tally);
    say(&format!(
        "{name}: {} of {} packets written, {} bytes cut off",
        tally.written, tally.read, tally.cut_bytes
    ));
    for (reason, count) in &tally.omitted {
        say(&format!(
            "{name}: {count} packets left out: {}",
            reason.name()
        ));
    }
    if let Some(damage) = &exported.damage {
        say(&format!("{name}: {damage}"));
    }
    exported.damage.is_some()
}
