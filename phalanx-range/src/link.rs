//! An emulated link: two tun devices in two namespaces, and a thread per direction that takes
//! packets from one, asks the [`Channel`] what becomes of them, and writes them to the other.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use serde::Serialize;

use crate::channel::{Channel, Counters};
use crate::clock::{monotonic_ns, prioritize_thread};
use crate::impairment::{Direction, Impairment, Patch, Schedule, Timetable};
use crate::journal::Journal;
use crate::limits::{BATCH_PACKETS, COMMANDS_MAX, PACKET_BYTES_MAX};
use crate::packet::marks;

/// Pause between looks at a device that is gone.
const DEVICE_GONE_PAUSE: Duration = Duration::from_millis(10);

/// The counters of both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct LinkCounters {
    /// From end `a` to end `b`.
    pub forward: Counters,
    /// From end `b` to end `a`.
    pub reverse: Counters,
}

impl LinkCounters {
    /// The counters of one direction.
    pub fn of(&self, direction: Direction) -> &Counters {
        match direction {
            Direction::Forward => &self.forward,
            Direction::Reverse => &self.reverse,
        }
    }
}

enum Command {
    Patch(Patch),
    Follow(Timetable),
    Log(Option<Journal>),
    Count(SyncSender<Counters>),
    Read(SyncSender<Impairment>),
    Stop,
}

/// A running emulated link. Its threads end and its devices go when it is dropped.
#[derive(Debug)]
pub(crate) struct EmulatedLink {
    forward: Mover,
    reverse: Mover,
}

impl EmulatedLink {
    /// Starts the link between the tun devices `a` and `b`.
    pub(crate) fn start(
        name: &str,
        devices: (File, File),
        channels: (Channel, Channel),
    ) -> io::Result<Self> {
        let (a, b) = (Arc::new(devices.0), Arc::new(devices.1));
        let forward = Mover::start(name, Direction::Forward, (&a, &b), channels.0)?;
        let reverse = Mover::start(name, Direction::Reverse, (&b, &a), channels.1)?;
        Ok(Self { forward, reverse })
    }

    pub(crate) fn patch(&self, direction: Direction, patch: Patch) -> Result<()> {
        self.mover(direction).say(Command::Patch(patch))
    }

    pub(crate) fn impairment(&self, direction: Direction) -> Result<Impairment> {
        self.mover(direction).ask(Command::Read)
    }

    /// Both directions start the schedule at `start_ns` of the monotonic clock.
    pub(crate) fn schedule(&self, schedule: &Schedule, start_ns: u64) -> Result<()> {
        for direction in Direction::BOTH {
            let timetable = Timetable::new(schedule, direction, start_ns);
            self.mover(direction).say(Command::Follow(timetable))?;
        }
        Ok(())
    }

    pub(crate) fn counters(&self) -> Result<LinkCounters> {
        Ok(LinkCounters {
            forward: self.forward.ask(Command::Count)?,
            reverse: self.reverse.ask(Command::Count)?,
        })
    }

    pub(crate) fn log_to(&self, direction: Direction, path: &Path) -> Result<()> {
        let journal = Journal::create(path, direction.name())
            .with_context(|| format!("create the decision log {}", path.display()))?;
        self.mover(direction).say(Command::Log(Some(journal)))
    }

    /// Ends the logs; all lines are in the files when this returns.
    pub(crate) fn end_logs(&self) -> Result<()> {
        for direction in Direction::BOTH {
            self.mover(direction).say(Command::Log(None))?;
        }
        self.counters().map(drop)
    }

    fn mover(&self, direction: Direction) -> &Mover {
        match direction {
            Direction::Forward => &self.forward,
            Direction::Reverse => &self.reverse,
        }
    }
}

/// The handle of one direction's thread.
#[derive(Debug)]
struct Mover {
    commands: SyncSender<Command>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Mover {
    fn start(
        name: &str,
        direction: Direction,
        (from, to): (&Arc<File>, &Arc<File>),
        channel: Channel,
    ) -> io::Result<Self> {
        let (commands, receiver) = sync_channel(COMMANDS_MAX);
        let wake = Arc::new(EventFd::from_flags(
            EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC,
        )?);
        let mut worker = Worker {
            from: Arc::clone(from),
            to: Arc::clone(to),
            wake: Arc::clone(&wake),
            commands: receiver,
            channel,
            journal: None,
            buffer: vec![0; PACKET_BYTES_MAX],
        };
        let thread = std::thread::Builder::new()
            .name(format!("{name} {}", direction.name()))
            .spawn(move || worker.run())?;
        Ok(Self {
            commands,
            wake,
            thread: Some(thread),
        })
    }

    fn say(&self, command: Command) -> Result<()> {
        self.commands
            .send(command)
            .map_err(|_| anyhow!("the link's thread has ended"))?;
        self.wake
            .write(1)
            .context("wake the link's thread")
            .map(drop)
    }

    fn ask<T>(&self, command: impl FnOnce(SyncSender<T>) -> Command) -> Result<T> {
        let (sender, receiver) = sync_channel(1);
        self.say(command(sender))?;
        receiver
            .recv_timeout(Duration::from_secs(10))
            .context("the link's thread does not answer")
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        // A thread that has ended already cannot be told, and need not be.
        let _ = self.say(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What one direction's thread owns.
struct Worker {
    from: Arc<File>,
    to: Arc<File>,
    wake: Arc<EventFd>,
    commands: Receiver<Command>,
    channel: Channel,
    journal: Option<Journal>,
    buffer: Vec<u8>,
}

impl Worker {
    fn run(&mut self) {
        prioritize_thread();
        loop {
            let now_ns = monotonic_ns();
            self.channel.advance(now_ns);
            self.deliver(now_ns);
            let is_more_waiting = self.collect();
            if self.obey() {
                return;
            }
            let timeout = if is_more_waiting {
                Some(0)
            } else {
                self.wait_ns()
            };
            if self.wait(timeout).is_err() {
                return;
            }
        }
    }

    fn deliver(&mut self, now_ns: u64) {
        while let Some(packet) = self.channel.take_due(now_ns) {
            if (&*self.to).write(&packet).is_err() {
                self.channel.refuse(&packet);
            }
        }
    }

    /// Takes a batch of packets; true when there may be more.
    fn collect(&mut self) -> bool {
        for _ in 0..BATCH_PACKETS {
            let Ok(length) = (&*self.from).read(&mut self.buffer) else {
                return false;
            };
            let now_ns = monotonic_ns();
            let packet = self.buffer[..length].to_vec();
            let marks = self.journal.as_ref().map(|_| marks(&packet));
            let decision = self.channel.offer(now_ns, packet);
            if let (Some(journal), Some(marks)) = (&mut self.journal, marks)
                && journal.write(now_ns, marks, length, decision).is_err()
            {
                self.journal = None;
            }
            self.deliver(now_ns);
        }
        true
    }

    /// Carries out the commands that wait; true when the thread is to end.
    fn obey(&mut self) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Patch(patch) => self.channel.patch(&patch),
                Command::Follow(timetable) => self.channel.follow(timetable),
                // The asker may have given up; there is nobody else to tell.
                Command::Count(reply) => drop(reply.send(self.channel.counters())),
                Command::Read(reply) => drop(reply.send(*self.channel.impairment())),
                Command::Log(journal) => {
                    self.end_journal();
                    self.journal = journal;
                }
                Command::Stop => {
                    self.end_journal();
                    return true;
                }
            }
        }
        false
    }

    fn end_journal(&mut self) {
        if let Some(mut journal) = self.journal.take() {
            // A full disk shows as a log that is shorter than the counters.
            let _ = journal.flush();
        }
    }

    /// How long there is nothing to do, in nanoseconds; forever when nothing is planned.
    fn wait_ns(&self) -> Option<u64> {
        self.channel
            .deadline_ns()
            .map(|deadline_ns| deadline_ns.saturating_sub(monotonic_ns()))
    }

    fn wait(&self, timeout_ns: Option<u64>) -> Result<()> {
        if timeout_ns == Some(0) {
            return Ok(());
        }
        let mut descriptors = [
            PollFd::new(self.from.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
        ];
        let timeout = timeout_ns.map(|ns| TimeSpec::from_duration(Duration::from_nanos(ns)));
        match ppoll(&mut descriptors, timeout, None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => bail!("poll: {error}"),
        }
        let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
        if descriptors[0]
            .revents()
            .is_some_and(|events| events.intersects(gone))
        {
            // The device was taken away under us: poll would return at once for ever.
            std::thread::sleep(DEVICE_GONE_PAUSE);
        }
        // Nothing to read is the common case.
        let _ = self.wake.read();
        Ok(())
    }
}
