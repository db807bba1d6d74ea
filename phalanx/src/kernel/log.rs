//! What the kernel programs log where it was asked for, handed on to the log of the daemon.

use ::log::{Log, Metadata, Record};
use anyhow::Context;
use aya::Ebpf;
use aya_log::EbpfLogger;

/// What the kernel programs log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelLogLevel {
    /// Nothing; the verifier takes the calls out of the programs.
    #[default]
    Off,
    /// Rare events, for debugging.
    Debug,
}

impl KernelLogLevel {
    /// The choices as they are typed.
    pub const NAMES: &[&str] = &["off", "debug"];

    /// The level as the programs know it.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Debug => aya_log::Level::Debug as u8,
        }
    }
}

impl std::str::FromStr for KernelLogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "debug" => Ok(Self::Debug),
            _ => Err(format!("must be one of {}", Self::NAMES.join(", "))),
        }
    }
}

/// The lines of one instance of the programs, in a ring of 128 KiB; what finds it full is lost.
pub(crate) struct KernelLog(EbpfLogger<Teller>);

impl KernelLog {
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        EbpfLogger::init_with_logger(ebpf, Teller)
            .map(Self)
            .context("open the log of the kernel programs")
    }

    /// Hands on the lines that wait.
    pub(crate) fn tell(&mut self) {
        self.0.flush();
    }
}

/// Tells whatever was asked for: who turns the log on wants to see it at the level that is usual.
struct Teller;

impl Log for Teller {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        tracing::info!("program: {}", record.args());
    }

    fn flush(&self) {}
}
