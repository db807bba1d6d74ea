//! The programs of one instance: loaded once, attached to interfaces as they come.

use std::io;

use anyhow::{Context, anyhow, bail, ensure};
use aya::programs::links::LinkOrder;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, qdisc_detach_program};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{Program, ProgramError, SchedClassifier, TcAttachType, Xdp};
use aya::{Ebpf, EbpfLoader};
use object::{Object, ObjectSection, ObjectSymbol};
use phalanx_common::abi::ABI_VERSION;
use phalanx_common::watch::PromotionLimit;

use super::hook::{Ingress, Plan};
use super::log::{KernelLog, KernelLogLevel};
use super::ring::Ring;
use super::table::Tables;
use crate::interface::{Link, LinkLayer, clsact};

/// The kernel programs, as `cargo xtask ebpf` built them.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../phalanx-ebpf/prebuilt/phalanx.bpf.o");

/// Priority of our filters where only `clsact` exists: before all that do not ask for the same.
const CLSACT_PRIORITY: u16 = 1;
/// Lines of the verifier's log that go into an error: the last ones say why.
const VERIFIER_LINE_COUNT: usize = 4;
const XDP: &str = "phalanx_xdp";
/// Our classifiers: ingress and egress, with and without a link layer.
const CLASSIFIERS: [(&str, TcAttachType); 4] = [
    ("phalanx_tc_ingress", TcAttachType::Ingress),
    ("phalanx_tc_egress", TcAttachType::Egress),
    ("phalanx_tc_ingress_raw", TcAttachType::Ingress),
    ("phalanx_tc_egress_raw", TcAttachType::Egress),
];

/// How TC programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcAttachment {
    /// TCX where the kernel has it, `clsact` otherwise.
    #[default]
    Auto,
    /// TCX or nothing.
    Tcx,
    /// The `clsact` queueing discipline.
    Clsact,
}

impl TcAttachment {
    /// The choices as they are typed.
    pub const NAMES: &[&str] = &["auto", "tcx", "clsact"];
}

impl std::str::FromStr for TcAttachment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "tcx" => Ok(Self::Tcx),
            "clsact" => Ok(Self::Clsact),
            _ => Err(format!("must be one of {}", Self::NAMES.join(", "))),
        }
    }
}

/// What an instance is loaded with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadOptions {
    /// Flows that the table holds.
    pub(crate) flow_count_max: u32,
    /// Seed of the programs' hashes.
    pub(crate) seed: u64,
    /// Longest time between two updates of a flow that sees packets.
    pub(crate) update_interval_ns: u64,
    /// Which flows that turn sick are promoted.
    pub(crate) promotion: PromotionLimit,
    /// How TC programs are attached.
    pub(crate) tc_attachment: TcAttachment,
    /// What the programs log.
    pub(crate) log: KernelLogLevel,
}

/// One instance of the kernel side.
pub(crate) struct Instance {
    /// To attach.
    pub(crate) programs: Programs,
    /// To read and write.
    pub(crate) tables: Tables,
    /// Updates and attempts.
    pub(crate) events: Ring,
    /// Recorded packets.
    pub(crate) records: Ring,
    /// What the programs log, where it was asked for.
    pub(crate) log: Option<KernelLog>,
}

/// The loaded programs.
pub(crate) struct Programs {
    ebpf: Ebpf,
    tc_attachment: TcAttachment,
}

/// What is attached to one interface; dropped, it is detached.
#[derive(Debug)]
pub(crate) struct Attachment {
    links: Vec<AttachedLink>,
    /// `xdp`, `xdp-generic`, `tcx` or `clsact`.
    pub(crate) ingress: &'static str,
    /// `tcx`, `clsact` or empty.
    pub(crate) egress: &'static str,
    /// What went another way than planned, in words.
    pub(crate) note: String,
    clsact_made_at: Option<u32>,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held so that dropping them detaches")]
enum AttachedLink {
    Tc(SchedClassifierLink),
    Xdp(XdpLink),
}

/// Loads an instance of the programs with tables of its own.
///
/// # Errors
/// Why the kernel refused, and what to do about it.
pub(crate) fn load(options: LoadOptions) -> anyhow::Result<Instance> {
    check_version(OBJECT)?;
    let mut ebpf = EbpfLoader::new()
        .override_global("PHALANX_SEED", &options.seed, true)
        .override_global(aya_log::LEVEL, &options.log.number(), true)
        .map_max_entries("FLOWS", options.flow_count_max)
        .load(OBJECT)
        .map_err(|error| explain(error.into()))?;
    let tables = Tables::take(&mut ebpf, options.update_interval_ns, options.promotion)?;
    let events = Ring::take(&mut ebpf, "EVENTS")?;
    let records = Ring::take(&mut ebpf, "RECORDS")?;
    let log = match options.log {
        KernelLogLevel::Off => None,
        KernelLogLevel::Debug => Some(KernelLog::take(&mut ebpf)?),
    };
    for (name, program) in ebpf.programs_mut() {
        let loaded = match program {
            Program::Xdp(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            _ => bail!("the object has a program {name} of an unknown kind; rebuild it"),
        };
        loaded
            .map_err(|error| explain(error.into()))
            .with_context(|| format!("load {name}"))?;
    }
    let programs = Programs {
        ebpf,
        tc_attachment: options.tc_attachment,
    };
    Ok(Instance {
        programs,
        tables,
        events,
        records,
        log,
    })
}

/// Removes filters that a killed daemon left in an interface's `clsact`, and the discipline if it
/// is empty then; their names. They are recognised by the names of our programs.
pub(crate) fn remove_stale_filters(link: &Link) -> anyhow::Result<Vec<&'static str>> {
    let names = clsact::filter_names(link.index)?;
    let mut removed = Vec::new();
    for (name, direction) in CLASSIFIERS {
        if names.iter().any(|filter| filter == name) {
            qdisc_detach_program(&link.name, direction, name)
                .with_context(|| format!("remove filter {name} of {}", link.name))?;
            removed.push(name);
        }
    }
    if !removed.is_empty() {
        clsact::remove_if_empty(link.index)?;
    }
    Ok(removed)
}

impl Programs {
    /// Attaches to an interface as planned.
    pub(crate) fn attach(&mut self, link: &Link, plan: &Plan) -> anyhow::Result<Attachment> {
        let mut attachment = Attachment {
            links: Vec::new(),
            ingress: "",
            egress: "",
            note: String::new(),
            clsact_made_at: None,
        };
        match plan.ingress {
            Ingress::Tc => attachment.ingress = self.attach_tc(link, true, &mut attachment)?,
            Ingress::Xdp => self.attach_xdp(link, plan, XdpMode::Driver, &mut attachment)?,
            Ingress::XdpGeneric => self.attach_xdp(link, plan, XdpMode::Skb, &mut attachment)?,
        }
        if plan.has_egress {
            attachment.egress = self.attach_tc(link, false, &mut attachment)?;
        }
        Ok(attachment)
    }

    fn attach_xdp(
        &mut self,
        link: &Link,
        plan: &Plan,
        mode: XdpMode,
        attachment: &mut Attachment,
    ) -> anyhow::Result<()> {
        let program: &mut Xdp = self.program(XDP)?;
        let attached = program
            .attach_to_if_index(link.index, mode)
            .and_then(|id| program.take_link(id));
        match attached {
            Ok(attached) => {
                attachment.links.push(AttachedLink::Xdp(attached));
                attachment.ingress = if mode == XdpMode::Skb {
                    "xdp-generic"
                } else {
                    "xdp"
                };
                Ok(())
            }
            // Somebody else's program came between the look and the attachment.
            Err(error) if plan.may_fall_back || is_occupied(&error) => {
                attachment.note = format!("XDP refused ({}): TC instead", describe_xdp(&error));
                attachment.ingress = self.attach_tc(link, true, attachment)?;
                Ok(())
            }
            Err(error) => Err(anyhow!(
                "attach {} to {}: {}; use --hook auto or tc",
                plan.ingress,
                link.name,
                describe_xdp(&error)
            )),
        }
    }

    fn attach_tc(
        &mut self,
        link: &Link,
        is_ingress: bool,
        attachment: &mut Attachment,
    ) -> anyhow::Result<&'static str> {
        let is_raw = link.layer == LinkLayer::None;
        let (name, direction) = CLASSIFIERS[usize::from(!is_ingress) + 2 * usize::from(is_raw)];
        let tc_attachment = self.tc_attachment;
        let program: &mut SchedClassifier = self.program(name)?;
        if tc_attachment != TcAttachment::Clsact {
            let order = TcAttachOptions::TcxOrder(LinkOrder::first());
            match program.attach_with_options(&link.name, direction, order) {
                Ok(id) => {
                    attachment
                        .links
                        .push(AttachedLink::Tc(program.take_link(id)?));
                    return Ok("tcx");
                }
                Err(error) if tc_attachment == TcAttachment::Auto && is_unsupported(&error) => {}
                Err(error) => return Err(explain_attach(link, "tcx", error.into())),
            }
        }
        if clsact::add(&link.name).map_err(|error| explain_attach(link, "clsact", error))? {
            attachment.clsact_made_at = Some(link.index);
        }
        let options = NlOptions {
            priority: CLSACT_PRIORITY,
            ..NlOptions::default()
        };
        let id = program
            .attach_with_options(&link.name, direction, TcAttachOptions::Netlink(options))
            .map_err(|error| explain_attach(link, "clsact", error.into()))?;
        attachment
            .links
            .push(AttachedLink::Tc(program.take_link(id)?));
        Ok("clsact")
    }

    fn program<'programs, P>(&'programs mut self, name: &str) -> anyhow::Result<&'programs mut P>
    where
        &'programs mut P: TryFrom<&'programs mut Program, Error = ProgramError>,
    {
        let program = self.ebpf.program_mut(name);
        let program = program.with_context(|| format!("the object has no program {name}"))?;
        Ok(program.try_into()?)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.links.clear();
        if let Some(index) = self.clsact_made_at
            && let Err(error) = clsact::remove_if_empty(index)
        {
            tracing::debug!(index, %error, "clsact that was added stays");
        }
    }
}

/// Compares the object's version of the contract with ours.
fn check_version(object: &[u8]) -> anyhow::Result<()> {
    ensure!(
        !object.is_empty(),
        "this build has no kernel object; run cargo xtask ebpf and rebuild"
    );
    let file = object::File::parse(object).context("read the kernel object")?;
    let symbol = file
        .symbols()
        .find(|symbol| symbol.name() == Ok("PHALANX_ABI_VERSION"));
    let version = symbol.and_then(|symbol| {
        let section = file.section_by_index(symbol.section_index()?).ok()?;
        let offset = usize::try_from(symbol.address()).ok()?;
        let bytes = section.data().ok()?.get(offset..offset + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    });
    ensure!(
        version == Some(ABI_VERSION),
        "the kernel object speaks version {version:?} of the contract, this daemon {ABI_VERSION}; \
         rebuild it with cargo xtask ebpf"
    );
    Ok(())
}

/// The error number behind an error, if the kernel gave one.
fn error_number(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        source = error.source();
    }
    None
}

fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn is_unsupported(error: &ProgramError) -> bool {
    matches!(
        error_number(error),
        Some(nix::libc::EINVAL | nix::libc::EOPNOTSUPP)
    )
}

fn is_occupied(error: &ProgramError) -> bool {
    matches!(
        error_number(error),
        Some(nix::libc::EBUSY | nix::libc::EEXIST)
    )
}

fn describe_xdp(error: &ProgramError) -> String {
    match error_number(error) {
        Some(nix::libc::EOPNOTSUPP) => {
            "the driver has no native XDP, or none at this MTU".to_owned()
        }
        Some(nix::libc::ERANGE) => {
            "the MTU is too large: a frame must fit into one buffer of the driver".to_owned()
        }
        _ => root_cause(error),
    }
}

fn explain_attach(link: &Link, way: &str, error: anyhow::Error) -> anyhow::Error {
    let remedy = match error_number(error.as_ref()) {
        Some(nix::libc::EPERM) => "; needs CAP_NET_ADMIN: run as root or see phalanx doctor",
        Some(nix::libc::ENODEV) => "; the interface has gone",
        _ => "",
    };
    error.context(format!("attach to {} by {way}{remedy}", link.name))
}

/// Says what to do about a refusal to load.
fn explain(error: anyhow::Error) -> anyhow::Error {
    let remedy = match error_number(error.as_ref()) {
        Some(nix::libc::EPERM) => {
            "not permitted; needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: run as root, or see \
             phalanx doctor"
        }
        Some(nix::libc::ENOMEM) => "not enough memory; lower flow_count_max",
        Some(nix::libc::ENOSYS) => "this kernel has no eBPF; Linux 6.1 or later is needed",
        _ => "the kernel refused; see phalanx doctor",
    };
    let context = format!("load the kernel programs: {remedy}");
    let log = error
        .chain()
        .find_map(|cause| match cause.downcast_ref::<ProgramError>() {
            Some(ProgramError::LoadError {
                io_error,
                verifier_log,
            }) => Some((io_error.to_string(), verifier_log.to_string())),
            _ => None,
        });
    // The whole log is megabytes, and aya puts it into the error.
    match log {
        Some((cause, log)) => {
            let lines: Vec<&str> = log.trim_end().lines().collect();
            let last = &lines[lines.len().saturating_sub(VERIFIER_LINE_COUNT)..];
            anyhow!("{cause}; the verifier ends with: {}", last.join(" / ")).context(context)
        }
        None => error.context(context),
    }
}
