//! A hub on the loopback as a process, agents that feed it with what no kernel saw, and a wire
//! between them that can be cut.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use phalanx::agent::{AgentFiles, EnrollOptions, Uplink, UplinkOptions, enroll, start_uplink};
use phalanx::link::connection::Address;
use phalanx::link::credential::{Invitation, client_config};
use phalanx::link::{Batcher, Told};
use phalanx_common::abi::{FlowKey, FlowUpdate, event_kind, update_reason};
use phalanx_engine::{ClockId, Hop, HopId, Input, Link, Monotonic, NamespaceId};
use serde_json::Value;
use zerocopy::FromZeros;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_phalanx");
pub(crate) const STEP_TIMEOUT: Duration = Duration::from_secs(60);
pub(crate) const BOOT: [u8; 16] = [7; 16];

/// A folder that goes with its owner.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("phalanx-hub-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn phalanx(arguments: &[&str]) -> String {
    let output = Command::new(BINARY).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The error of a command that fails.
pub(crate) fn failure(arguments: &[&str]) -> String {
    let output = Command::new(BINARY).args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A hub; killed when dropped.
pub(crate) struct Hub {
    child: Option<Child>,
    pub(crate) directory: PathBuf,
    pub(crate) agents: SocketAddr,
    api: SocketAddr,
    /// No file grows beyond this.
    pub(crate) file_bytes_max: Option<u64>,
    /// Settings of it, as KEY=VALUE.
    pub(crate) settings: Vec<String>,
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

impl Hub {
    /// Makes one; it does not run yet.
    pub(crate) fn make(folder: &Folder, name: &str) -> Self {
        let directory = folder.0.join(name);
        let path = directory.to_str().unwrap();
        phalanx(&["hub", "init", "--dir", path, "--name", "127.0.0.1"]);
        Self {
            child: None,
            directory,
            agents: free_address(),
            api: free_address(),
            file_bytes_max: None,
            settings: Vec::new(),
        }
    }

    pub(crate) fn path(&self) -> &str {
        self.directory.to_str().unwrap()
    }

    /// Starts it, and waits until it listens.
    pub(crate) fn start(&mut self) {
        let mut command = Command::new(BINARY);
        command
            .args(["hub", "--dir", self.path()])
            .args(["--agents", &self.agents.to_string()])
            .args(["--listen", &self.api.to_string()])
            .stderr(Stdio::piped());
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        if let Some(bytes_max) = self.file_bytes_max {
            limit_files(&mut command, bytes_max);
        }
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, ready) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line.contains("hub: agents at") {
                    let _ = sender.send(());
                }
                if std::env::var_os("PHALANX_TEST_LOG").is_some() {
                    eprintln!("{line}");
                }
            }
        });
        self.child = Some(child);
        ready.recv_timeout(STEP_TIMEOUT).expect("the hub starts");
    }

    /// Kills it, with no time to do anything.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Ends it in order.
    pub(crate) fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(child.wait().unwrap().success());
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        let child = self.child.as_mut().unwrap();
        child.try_wait().unwrap().is_none()
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn resident_bytes(&self) -> u64 {
        let pid = self.id();
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let mut fields = text.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = fields.find(|(name, _)| *name == "VmRSS").unwrap();
        value.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    fn fetch(&self, path: &str) -> String {
        self.ask("GET", path, "")
    }

    /// The body of an answer that tells of no fault; with HTTP/1.0, so that it comes in one piece.
    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.api).unwrap();
        stream.set_read_timeout(Some(STEP_TIMEOUT)).unwrap();
        let (host, length) = (self.api, body.len());
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.0 20"), "{path}: {answer}");
        body.to_owned()
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        serde_json::from_str(&self.ask("POST", path, &body.to_string())).unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        serde_json::from_str(&self.fetch(path)).unwrap()
    }

    /// The sum of a family over the lines that hold `label`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> u64 {
        let text = self.fetch("/metrics");
        let lines = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label)
        });
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64)
            .sum()
    }

    /// What is known of an agent.
    pub(crate) fn agent(&self, name: &str) -> Value {
        let list = self.get("/api/v1/agents");
        let agents = list["agents"].as_array().unwrap();
        let found = agents.iter().find(|agent| agent["name"] == name);
        found.cloned().unwrap_or_default()
    }

    pub(crate) fn token(&self, host: &str) -> String {
        let url = format!("https://{}", self.agents);
        let told = phalanx(&[
            "hub",
            "token",
            "--dir",
            self.path(),
            "--host",
            host,
            "--url",
            &url,
            "--format",
            "json",
        ]);
        let told: Value = serde_json::from_str(&told).unwrap();
        told["token"].as_str().unwrap().to_owned()
    }

    /// Lets a host in; where its files are.
    pub(crate) fn enroll(&self, folder: &Folder, host: &str) -> PathBuf {
        let directory = folder.0.join(format!("agent-{host}"));
        let invitation = Invitation::decode(&self.token(host)).unwrap();
        enroll(&EnrollOptions {
            url: &invitation.url,
            fingerprint: invitation.fingerprint,
            secret: &invitation.secret,
            directory: &directory,
            may_replace: false,
        })
        .unwrap();
        directory
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.kill();
    }
}

fn limit_files(command: &mut Command, bytes_max: u64) {
    let limit = move || {
        use nix::sys::resource::{Resource, setrlimit};
        use nix::sys::signal::{SigHandler, Signal, signal};
        setrlimit(Resource::RLIMIT_FSIZE, bytes_max, bytes_max)?;
        // SAFETY: ignoring a signal runs nothing.
        unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }?;
        Ok(())
    };
    // SAFETY: two system calls, which are allowed between fork and exec.
    unsafe { command.pre_exec(limit) };
}

/// Options of an uplink with the files of an agent.
pub(crate) fn options(directory: &Path, agents: SocketAddr) -> UplinkOptions {
    let files = AgentFiles::new(directory);
    UplinkOptions {
        agent: files.read().unwrap().unwrap().agent,
        address: Address::parse(&format!("https://{agents}")).unwrap(),
        config: client_config(files.tls()).unwrap(),
        spool: files.spool(),
        spool_bytes_max: 256 << 20,
    }
}

pub(crate) fn monotonic() -> Monotonic {
    let reading = phalanx::clock::Reading::take();
    Monotonic(reading.monotonic_ns)
}

fn wall_ns() -> u64 {
    phalanx::clock::Reading::take().wall_ns
}

/// Plays the loop of an agent: each flow has one packet more with each of its updates.
pub(crate) struct Feeder {
    pub(crate) uplink: Uplink,
    batcher: Batcher,
    /// Makes flows of other feeders others.
    number: u16,
    /// Updates told of each flow.
    versions: Vec<u32>,
    pub(crate) item_count: u64,
    batch_count: u64,
    next: usize,
    /// When the flows were opened.
    opened_ns: u64,
    /// How far the wall clock of its host is from the right time.
    pub(crate) wall_offset_ns: i64,
}

const HOP: HopId = HopId(1);

impl Feeder {
    pub(crate) fn start(options: UplinkOptions, number: u16, flow_count: usize) -> Self {
        let uplink = start_uplink(options, wall_ns()).unwrap();
        let mut feeder = Self {
            batcher: Batcher::new(uplink.run, BOOT).unwrap(),
            uplink,
            number,
            versions: vec![0; flow_count],
            item_count: 0,
            batch_count: 0,
            next: 0,
            opened_ns: monotonic().0,
            wall_offset_ns: 0,
        };
        feeder.tell(&Told::Input(Input::HopAppeared(hop())));
        feeder
    }

    pub(crate) fn tell(&mut self, told: &Told<'_>) {
        self.item_count += 1;
        if self.batcher.tell(told, monotonic()) {
            self.close(false);
        }
    }

    /// Closes the batch under way, waiting for room on its way.
    pub(crate) fn close(&mut self, is_last: bool) {
        let wall_ns = wall_ns().saturating_add_signed(self.wall_offset_ns);
        if let Some(mut batch) = self.batcher.close(monotonic(), wall_ns).unwrap() {
            batch.is_last = is_last;
            self.batch_count += 1;
            self.uplink.batches.blocking_send(batch).unwrap();
        }
    }

    /// Tells of so many updates, one flow after the other, in one batch.
    pub(crate) fn feed(&mut self, update_count: usize) {
        for _ in 0..update_count {
            let flow = self.next;
            self.next = (self.next + 1) % self.versions.len();
            self.versions[flow] += 1;
            let mut update = update(self.number, flow, self.versions[flow]);
            update.opened_ns = self.opened_ns;
            let update = &update;
            self.tell(&Told::Input(Input::Update { hop: HOP, update }));
        }
        self.close(false);
    }

    /// Packets that were told of.
    pub(crate) fn packet_count(&self) -> u64 {
        self.versions.iter().map(|it| u64::from(*it)).sum()
    }

    /// Waits until the hub has everything.
    pub(crate) fn await_acknowledged(&self) {
        let status = &self.uplink.status;
        let end = Instant::now() + 2 * STEP_TIMEOUT;
        let load = |count: &AtomicU64| count.load(Ordering::Acquire);
        while load(&status.batches) != self.batch_count
            || load(&status.memory_batches) + load(&status.spool_bytes) != 0
        {
            assert!(Instant::now() < end, "not acknowledged: {status:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends in order.
    pub(crate) fn end(mut self) {
        self.close(true);
        drop(self.uplink.batches);
        self.uplink.thread.join().unwrap();
    }
}

/// The hop of all updates.
pub(crate) fn hop() -> Hop {
    Hop {
        id: HOP,
        host: "ignored".into(),
        namespace: NamespaceId(4_026_531_840),
        namespace_name: None,
        interface: "eth0".into(),
        ifindex: 2,
        link: Link::Ethernet,
        clock: ClockId::default(),
    }
}

/// Update `version` of a UDP flow, which has sent as many packets of 100 bytes.
pub(crate) fn update(number: u16, flow: usize, version: u32) -> FlowUpdate {
    let address = |last: [u8; 4]| {
        let mut words = [0, 0, u32::from_ne_bytes([0, 0, 255, 255]), 0];
        words[3] = u32::from_ne_bytes(last);
        words
    };
    let now_ns = monotonic().0;
    let [high, low] = number.to_be_bytes();
    let mut update = FlowUpdate::new_zeroed();
    update.kind = event_kind::FLOW_UPDATE;
    update.reason = update_reason::INTERVAL;
    update.key = FlowKey {
        low: address([10, high, low, 1]),
        high: address([10, high, low, 2]),
        low_port: 1_024 + u16::try_from(flow % 60_000).unwrap(),
        high_port: 9_000 + u16::try_from(flow / 60_000).unwrap(),
        ifindex: 2,
        vlan: 0,
        protocol: 17,
        reserved: 0,
    };
    update.incarnation = 1;
    update.version = version;
    update.initiator = 1;
    update.opened_ns = now_ns - 1_000_000;
    update.now_ns = now_ns;
    update.halves[0].packets = u64::from(version);
    update.halves[0].bytes = u64::from(version) * 100;
    // Samples that are not told of: bytes that cannot be packed.
    let mut noise = u64::from(version) << 32 | flow as u64;
    for word in &mut update.samples {
        noise = noise
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        *word = noise;
    }
    update.halves[0].seen_tick = phalanx_common::watch::tick(now_ns);
    update
}

/// Waits for something that must come.
pub(crate) fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + STEP_TIMEOUT;
    while !holds() {
        assert!(Instant::now() < end, "it never came that {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    ToHub,
    ToAgent,
}

/// A wire to the hub that can be cut: then nothing passes, and nobody is told.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    /// By [`Way`].
    is_cut: [Arc<AtomicBool>; 2],
    pub(crate) connection_count: Arc<AtomicU64>,
}

impl Wire {
    pub(crate) fn new(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let is_cut: [Arc<AtomicBool>; 2] = Default::default();
        let connection_count = Arc::new(AtomicU64::new(0));
        let (cuts, count) = (is_cut.clone(), Arc::clone(&connection_count));
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::Relaxed);
                let Ok(far) = TcpStream::connect(target) else {
                    continue;
                };
                for ((from, to), cut) in [(&near, &far), (&far, &near)].iter().zip(&cuts) {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let cut = Arc::clone(cut);
                    std::thread::spawn(move || carry(from, to, &cut));
                }
            }
        });
        Self {
            address,
            is_cut,
            connection_count,
        }
    }

    pub(crate) fn cut(&self) {
        self.cut_one(Way::ToHub);
        self.cut_one(Way::ToAgent);
    }

    /// Cuts it one way only.
    pub(crate) fn cut_one(&self, way: Way) {
        self.is_cut[way as usize].store(true, Ordering::Relaxed);
    }

    /// Mends it; the connections that were cut stay dead.
    pub(crate) fn mend(&self) {
        for is_cut in &self.is_cut {
            is_cut.store(false, Ordering::Relaxed);
        }
    }
}

/// Carries bytes one way. What was under way when the wire was cut is lost with its connection.
fn carry(mut from: TcpStream, mut to: TcpStream, is_cut: &AtomicBool) {
    let mut buffer = [0; 16 << 10];
    let mut is_dead = false;
    while let Ok(count) = from.read(&mut buffer) {
        is_dead |= is_cut.load(Ordering::Relaxed);
        if count == 0 || !is_dead && to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}
