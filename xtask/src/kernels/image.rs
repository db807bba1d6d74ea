//! The initial file system of a test machine.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::Kernel;
use crate::command;

/// Modules that the tests use, each loaded after what it depends on.
const MODULES: [&str; 5] = ["veth", "dummy", "tun", "sch_ingress", "cls_bpf"];

const INIT: &str = include_str!("init.sh");

/// A folder that becomes the root of the machine.
pub(super) struct Image<'a> {
    folder: PathBuf,
    kernel: &'a Kernel,
}

impl<'a> Image<'a> {
    /// Starts from an empty folder.
    pub(super) fn new(folder: PathBuf, kernel: &'a Kernel) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(&folder).context("remove the last image")?;
        }
        fs::create_dir_all(folder.join("root/bin"))?;
        Ok(Self { folder, kernel })
    }

    /// Fills the folder and packs it: the path of the archive.
    pub(super) fn pack(&self, programs: &[PathBuf]) -> Result<PathBuf> {
        self.add_file(Path::new("/bin/busybox"), "bin/busybox")?;
        // Busybox's own shell would run its own `ip`, whatever lies in the path.
        self.add_program(Path::new("/bin/sh"), "bin/sh")?;
        let ip = command::read(&mut command::program("sh", ["-c", "command -v ip"]))?;
        self.add_program(Path::new(ip.trim()), "bin/ip")?;
        for program in programs {
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            self.add_program(program, &format!("tests/{name}"))?;
        }
        // Tests find the daemon where cargo built it.
        let daemon = command::target().join("debug/phalanx");
        if daemon.is_file() {
            let place = daemon
                .strip_prefix("/")
                .context("the target folder is not absolute")?;
            self.add_program(&daemon, &place.to_string_lossy())?;
        }
        self.add_modules()?;
        self.write("init", INIT.replace("END_MARK", super::END_MARK).as_bytes())?;
        self.archive()
    }

    /// Copies a program without its symbols, and the libraries that it loads.
    fn add_program(&self, from: &Path, to: &str) -> Result<()> {
        let place = self.place(to)?;
        let mut strip = Command::new("strip");
        command::read(strip.arg("--strip-debug").arg("-o").arg(&place).arg(from))?;
        let libraries = command::read(Command::new("ldd").arg(from))?;
        // `name => /path (address)`, or `/path (address)` for the loader itself.
        for word in libraries
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
        {
            self.add_file(Path::new(word), word.trim_start_matches('/'))?;
        }
        Ok(())
    }

    fn add_file(&self, from: &Path, to: &str) -> Result<()> {
        let place = self.place(to)?;
        fs::copy(from, &place).with_context(|| format!("copy {}", from.display()))?;
        Ok(())
    }

    fn add_modules(&self) -> Result<()> {
        let mut list = Vec::new();
        for module in MODULES {
            let mut modprobe = Command::new("modprobe");
            modprobe.args([
                "--show-depends",
                "--set-version",
                &self.kernel.release,
                "--dirname",
            ]);
            let lines = command::read(modprobe.arg(&self.kernel.root).arg(module))?;
            // `insmod /path options`; a module that is built in says `builtin name`.
            for line in lines.lines() {
                let mut words = line.split_whitespace();
                if let (Some("insmod"), Some(path)) = (words.next(), words.next())
                    && !list.contains(&path.to_owned())
                {
                    list.push(path.to_owned());
                }
            }
        }
        let mut names = String::new();
        for path in list {
            names.push_str(&format!("{}\n", self.add_module(Path::new(&path))?));
        }
        self.write("modules/list", names.as_bytes())
    }

    /// Copies one module, unpacked, and gives its name.
    fn add_module(&self, path: &Path) -> Result<String> {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let Some(name) = name.strip_suffix(".xz") else {
            self.add_file(path, &format!("modules/{name}"))?;
            return Ok(name);
        };
        let mut xz = Command::new("xz");
        let output = xz
            .args(["--decompress", "--stdout"])
            .arg(path)
            .output()
            .context("run xz")?;
        if !output.status.success() {
            bail!("unpack {}", path.display());
        }
        self.write(&format!("modules/{name}"), &output.stdout)?;
        Ok(name.to_owned())
    }

    fn write(&self, to: &str, bytes: &[u8]) -> Result<()> {
        let place = self.place(to)?;
        fs::write(&place, bytes).with_context(|| format!("write {}", place.display()))?;
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    fn place(&self, to: &str) -> Result<PathBuf> {
        let place = self.folder.join("root").join(to);
        fs::create_dir_all(place.parent().expect("it lies below the root"))?;
        Ok(place)
    }

    fn archive(&self) -> Result<PathBuf> {
        let root = self.folder.join("root");
        let mut names = BTreeSet::new();
        collect_names(&root, &root, &mut names)?;
        let archive = self.folder.join("initramfs.cpio");
        let mut cpio = Command::new("cpio");
        cpio.args(["--create", "--format=newc", "--quiet", "--owner=0:0"])
            .current_dir(&root);
        cpio.stdin(Stdio::piped())
            .stdout(fs::File::create(&archive)?);
        let mut child = cpio.spawn().context("start cpio")?;
        let mut input = child
            .stdin
            .take()
            .expect("the input was asked for as a pipe");
        for name in names {
            writeln!(input, "{name}")?;
        }
        drop(input);
        if !child.wait()?.success() {
            bail!("pack {}", archive.display());
        }
        Ok(archive)
    }
}

/// Names below the root, each folder before what it holds.
fn collect_names(root: &Path, folder: &Path, names: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.strip_prefix(root).expect("it lies below the root");
        names.insert(name.to_str().context("a name is not UTF-8")?.to_owned());
        if path.is_dir() && !path.is_symlink() {
            collect_names(root, &path, names)?;
        }
    }
    Ok(())
}
