//! Installs the package on this machine, runs the daemon as its unit would, and removes all of it.
//!
//! The daemon runs in a network namespace of its own, so that it sees no interface of this machine.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::PACKAGE;
use crate::command::{self, read, run as execute};

const UNIT: &str = "/usr/lib/systemd/system/phalanx.service";
/// `systemd-analyze security` gives 0 (closed) to 100 (open); what the unit needs is about 34.
const EXPOSURE_MAX: &str = "40";
const START_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(20);

/// Runs every step; what is installed is removed again even where a step fails.
pub(super) fn run(archive: &Path) -> Result<()> {
    if !command::is_root() {
        bail!("installing a package needs root");
    }
    let known = read(Command::new("dpkg-query").args(["--show", PACKAGE]));
    if known.is_ok() || Path::new("/etc/phalanx").exists() {
        bail!("{PACKAGE} is installed here already, or was; purge it first");
    }
    let installed = execute(Command::new("dpkg").arg("--install").arg(archive));
    let files = installed_files().unwrap_or_default();
    let result = installed.and_then(|()| check_installed());
    println!("removing {PACKAGE}");
    let removed = execute(Command::new("dpkg").args(["--remove", PACKAGE]));
    let config_kept = Path::new("/etc/phalanx/phalanx.toml").exists();
    let purged = execute(Command::new("dpkg").args(["--purge", PACKAGE]));
    result.and(removed).and(purged)?;
    if !config_kept {
        bail!("removing the package took the configuration with it; only a purge may");
    }
    let left: Vec<&PathBuf> = files.iter().filter(|file| file.exists()).collect();
    if !left.is_empty() {
        bail!("left behind after a purge: {left:?}");
    }
    println!("{PACKAGE}: installed, started, stopped, removed and purged; nothing left behind");
    Ok(())
}

/// Every file of the package, and the folders that are its alone.
fn installed_files() -> Result<Vec<PathBuf>> {
    let list = read(Command::new("dpkg").args(["--listfiles", PACKAGE]))?;
    let mut files: Vec<PathBuf> = list.lines().map(PathBuf::from).collect();
    files.retain(|file| file.is_file());
    files.extend(["/etc/phalanx", "/var/lib/phalanx", "/run/phalanx"].map(PathBuf::from));
    if files.len() < 5 {
        bail!("the package holds hardly any file: {files:?}");
    }
    Ok(files)
}

fn check_installed() -> Result<()> {
    let mut verify = Command::new("systemd-analyze");
    execute(verify.args(["verify", "--man=no", UNIT])).context("the unit is not well formed")?;
    let mut security = Command::new("systemd-analyze");
    security.args([
        "security",
        "--no-pager",
        "--offline=yes",
        "--threshold",
        EXPOSURE_MAX,
    ]);
    let said = read(security.arg(UNIT)).context("the unit is too open")?;
    println!("{}", said.lines().last().unwrap_or_default());
    execute(Command::new("/usr/bin/phalanx").arg("--version"))?;
    let namespace = Namespace::new()?;
    let result = start_and_stop(&namespace);
    let removed = namespace.remove();
    result.and(removed)
}

/// Starts the daemon, waits until it says that it is ready, and stops it as systemd would.
fn start_and_stop(namespace: &Namespace) -> Result<()> {
    let words = super::exec_start(&std::fs::read_to_string(UNIT).context("read the unit")?)?;
    let socket_path = std::env::temp_dir().join(format!("{}.notify", namespace.name));
    let socket = UnixDatagram::bind(&socket_path).context("make the notification socket")?;
    // What systemd makes of StateDirectory= and RuntimeDirectory=.
    for folder in ["/var/lib/phalanx", "/run/phalanx"] {
        std::fs::create_dir_all(folder)?;
    }
    let mut start = Command::new("ip");
    start.args(["netns", "exec", &namespace.name]).args(words);
    start.env("NOTIFY_SOCKET", &socket_path);
    start
        .env("STATE_DIRECTORY", "/var/lib/phalanx")
        .env("RUNTIME_DIRECTORY", "/run/phalanx");
    command::print(&start);
    let mut daemon = start.spawn().context("start the daemon")?;
    let result = wait_ready(&socket, &mut daemon).and_then(|took| {
        println!("ready after {:.1} s", took.as_secs_f64());
        let status = stop(&mut daemon)?;
        if !status.success() {
            bail!("the daemon ended with {status} on SIGTERM");
        }
        Ok(())
    });
    // Whatever went wrong, nothing stays behind.
    if daemon.try_wait()?.is_none() {
        daemon.kill()?;
        daemon.wait()?;
    }
    std::fs::remove_file(socket_path)?;
    std::fs::remove_dir_all("/run/phalanx")?;
    result
}

fn wait_ready(socket: &UnixDatagram, daemon: &mut Child) -> Result<Duration> {
    let start = Instant::now();
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut buffer = [0; 4096];
    while start.elapsed() < START_MAX {
        if let Some(status) = daemon.try_wait()? {
            bail!("the daemon ended with {status} before it was ready");
        }
        // No message within the time-out is no error: look at the daemon again.
        let Ok(length) = socket.recv(&mut buffer) else {
            continue;
        };
        let message = String::from_utf8_lossy(&buffer[..length]);
        if message.lines().any(|line| line == "READY=1") {
            return Ok(start.elapsed());
        }
    }
    bail!(
        "the daemon did not say READY=1 within {} s",
        START_MAX.as_secs()
    )
}

fn stop(daemon: &mut Child) -> Result<ExitStatus> {
    execute(Command::new("kill").args(["-TERM", &daemon.id().to_string()]))?;
    let start = Instant::now();
    while start.elapsed() < STOP_MAX {
        if let Some(status) = daemon.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!(
        "the daemon did not end within {} s of SIGTERM",
        STOP_MAX.as_secs()
    )
}

/// A network namespace with one interface that has the default route, as a host has.
struct Namespace {
    name: String,
}

impl Namespace {
    fn new() -> Result<Self> {
        let namespace = Self {
            name: format!("phalanx-deb-{}", std::process::id()),
        };
        let name = namespace.name.as_str();
        let ip = |words: &str| execute(Command::new("ip").args(words.split_whitespace()));
        ip(&format!("netns add {name}"))?;
        let result = ip(&format!("-netns {name} link set lo up"))
            .and_then(|()| {
                ip(&format!(
                    "-netns {name} link add up0 type veth peer name up1"
                ))
            })
            .and_then(|()| ip(&format!("-netns {name} link set up1 up")))
            .and_then(|()| ip(&format!("-netns {name} link set up0 up")))
            .and_then(|()| ip(&format!("-netns {name} address add 192.0.2.1/24 dev up0")))
            .and_then(|()| ip(&format!("-netns {name} route add default via 192.0.2.2")));
        match result {
            Ok(()) => Ok(namespace),
            Err(error) => {
                namespace.remove()?;
                Err(error)
            }
        }
    }

    fn remove(&self) -> Result<()> {
        execute(Command::new("ip").args(["netns", "delete", &self.name]))
    }
}
