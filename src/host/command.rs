//! External tools (mkfs, fsck, blkid, resize): the only place that starts processes.
//!
//! ```text
//! caller --- Tools::run ---> child (own process group, LC_ALL=C, stdin closed)
//!              |  two threads drain its output (the last 8 KiB are kept)
//!              |  one thread waits for it without reaping it
//!              +- deadline: SIGKILL to the whole group, then reap
//! ```
//!
//! The child is reaped only after the last signal was sent to its group: until then its number cannot belong to
//! anybody else.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::HostError;
use super::wait::millis;

/// Output that is kept of each stream.
const KEPT: usize = 8 * 1024;
/// How long a killed process may take to die before it is left to the kernel (it hangs in an I/O then).
const GRACE: Duration = Duration::from_secs(5);

/// A tool, with the Debian package that an operator installs to get it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tool {
    pub(super) name: &'static str,
    pub(super) package: &'static str,
}

macro_rules! tools {
    ($($constant:ident = $name:literal in $package:literal;)*) => {
        $(pub(super) const $constant: Tool = Tool { name: $name, package: $package };)*
        /// All tools that the node may need.
        pub(super) const ALL: &[Tool] = &[$($constant),*];
    };
}

tools! {
    BLKID = "blkid" in "util-linux";
    MKFS_EXT3 = "mkfs.ext3" in "e2fsprogs";
    MKFS_EXT4 = "mkfs.ext4" in "e2fsprogs";
    E2FSCK = "e2fsck" in "e2fsprogs";
    RESIZE2FS = "resize2fs" in "e2fsprogs";
    MKFS_XFS = "mkfs.xfs" in "xfsprogs";
    XFS_GROWFS = "xfs_growfs" in "xfsprogs";
    MKFS_BTRFS = "mkfs.btrfs" in "btrfs-progs";
    BTRFS = "btrfs" in "btrfs-progs";
}

/// What a tool said.
#[derive(Debug, Clone)]
pub(super) struct Output {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Where tools are and how much memory each may map.
#[derive(Debug, Clone)]
pub(super) struct Tools {
    pub(super) dirs: Vec<PathBuf>,
    pub(super) memory: Option<u64>,
}

impl Tools {
    /// The tool's absolute path. `$PATH` is not consulted: what runs as root must not depend on it.
    pub(super) fn locate(&self, tool: Tool) -> Result<PathBuf, HostError> {
        self.dirs
            .iter()
            .map(|dir| dir.join(tool.name))
            .find(|path| path.is_file())
            .ok_or(HostError::ToolMissing {
                tool: tool.name,
                package: tool.package,
            })
    }

    /// Runs a tool to its end or to `deadline`, whatever its exit status.
    pub(super) fn run(
        &self,
        tool: Tool,
        args: &[&OsStr],
        deadline: Instant,
    ) -> Result<Output, HostError> {
        let started = Instant::now();
        let limit = deadline.saturating_duration_since(started);
        let mut child = self.spawn(tool, args)?;
        let stdout = drain(child.stdout.take());
        let stderr = drain(child.stderr.take());
        let ended = watch(&child);
        let in_time = ended.recv_timeout(limit).is_ok();
        // Children that outlived their leader would keep writing to the disk behind our back.
        let group = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
        let _ = killpg(group, Signal::SIGKILL);
        let dead = in_time || ended.recv_timeout(GRACE).is_ok();
        if !in_time {
            let end = if dead {
                child.wait().ok();
                "(killed)"
            } else {
                "(it cannot be killed: it hangs in the kernel)"
            };
            return Err(HostError::TimedOut {
                what: format!("{} {end}", tool.name),
                limit_ms: millis(limit),
            });
        }
        let status = child.wait().map_err(|error| failed(tool, &error))?;
        let text = |stream: mpsc::Receiver<Vec<u8>>| {
            let bytes = stream.recv_timeout(GRACE).unwrap_or_default();
            String::from_utf8_lossy(&bytes).trim().to_owned()
        };
        Ok(Output {
            status,
            stdout: text(stdout),
            stderr: text(stderr),
        })
    }

    /// Runs a tool that must succeed.
    pub(super) fn succeed(
        &self,
        tool: Tool,
        args: &[&OsStr],
        deadline: Instant,
    ) -> Result<Output, HostError> {
        let output = self.run(tool, args, deadline)?;
        if output.status.success() {
            return Ok(output);
        }
        Err(output.error(tool))
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "this is host::command, where the rule sends everybody"
    )]
    fn spawn(&self, tool: Tool, args: &[&OsStr]) -> Result<Child, HostError> {
        let child = Command::new(self.locate(tool)?)
            .args(args)
            .env_clear()
            .env("LC_ALL", "C")
            // libblkid's cache tells of disks that were changed or swapped since; mkfs.btrfs refuses a UUID that it
            // remembers from a moment ago.
            .env("BLKID_FILE", "/dev/null")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| failed(tool, &error))?;
        if let Some(bytes) = self.memory {
            limit_memory(&child, bytes);
        }
        Ok(child)
    }
}

impl Output {
    /// This output as an error.
    pub(super) fn error(&self, tool: Tool) -> HostError {
        HostError::Tool {
            tool: tool.name,
            status: in_words(self.status),
            output: self.text(),
        }
    }

    /// Both streams, errors first; one line for logs and RPC messages.
    pub(super) fn text(&self) -> String {
        let both = [self.stderr.as_str(), self.stdout.as_str()];
        let lines = both.iter().flat_map(|text| text.lines()).map(str::trim);
        let joined = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>();
        tail(&joined.join(" | "), 2048)
    }
}

/// The last `most` bytes of a text, on a character boundary.
fn tail(text: &str, most: usize) -> String {
    let mut start = text.len().saturating_sub(most);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].to_owned()
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(number)) => match Signal::try_from(number) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {number}"),
        },
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

fn failed(tool: Tool, error: &std::io::Error) -> HostError {
    HostError::Tool {
        tool: tool.name,
        status: "could not be started".to_owned(),
        output: error.to_string(),
    }
}

/// Reads a stream to its end and keeps the last bytes, so that a talkative child never blocks on a full pipe.
fn drain(stream: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (send, receive) = mpsc::sync_channel(1);
    if let Some(mut stream) = stream {
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            let mut chunk = [0_u8; 4096];
            while let Ok(count) = stream.read(&mut chunk) {
                if count == 0 {
                    break;
                }
                kept.extend_from_slice(&chunk[..count]);
                if kept.len() > 2 * KEPT {
                    kept.drain(..kept.len() - KEPT);
                }
            }
            let start = kept.len().saturating_sub(KEPT);
            let _ = send.send(kept.split_off(start));
        });
    }
    receive
}

/// Tells when the child has ended, without reaping it.
fn watch(child: &Child) -> mpsc::Receiver<()> {
    let (send, receive) = mpsc::sync_channel(1);
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    std::thread::spawn(move || {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while waitid(Id::Pid(pid), flags) == Err(nix::errno::Errno::EINTR) {}
        let _ = send.send(());
    });
    receive
}

/// Bounds the address space of a child. A file-system check of a damaged disk may ask for more memory than the
/// pod has; better its own failure than the kernel's choice of a victim.
#[allow(unsafe_code, reason = "nix has no prlimit(2)")]
fn limit_memory(child: &Child, bytes: u64) {
    use nix::libc;
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
    // SAFETY: the pointer to the new limit is valid for the call; no old limit is asked for. The child is not
    // reaped yet, so the number is its own.
    unsafe {
        libc::prlimit(pid, libc::RLIMIT_AS, &raw const limit, std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SH: Tool = Tool {
        name: "sh",
        package: "dash",
    };

    fn tools() -> Tools {
        Tools {
            dirs: vec!["/usr/bin".into(), "/bin".into()],
            memory: Some(1 << 30),
        }
    }

    fn sh(script: &str, limit: Duration) -> Result<Output, HostError> {
        tools().run(
            SH,
            &[OsStr::new("-c"), OsStr::new(script)],
            Instant::now() + limit,
        )
    }

    #[test]
    fn a_talkative_tool_does_not_block_and_its_last_words_are_kept() {
        let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; echo err $i >&2; i=$((i+1)); done; exit 3";
        let output = sh(script, Duration::from_secs(60)).unwrap();
        assert!(output.stdout.ends_with("line 19999"), "{}", output.stdout);
        assert!(output.stdout.len() <= KEPT);
        assert_eq!(in_words(output.status), "exit status 3");
        let HostError::Tool { output, .. } = output.error(SH) else {
            panic!("not a tool error");
        };
        assert!(output.len() <= 2048);
    }

    #[test]
    fn a_tool_that_overstays_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("alive");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Read and write, so that neither side blocks on open. The grandchild holds the other end for ever.
        let script = format!("sleep 1000 >{0} & exec sleep 1000 >{0}", fifo.display());
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            std::fs::File::open(fifo)
                .unwrap()
                .read_to_end(&mut all)
                .unwrap();
        });
        let error = sh(&script, Duration::from_millis(300)).unwrap_err();
        assert!(matches!(error, HostError::TimedOut { .. }), "{error:?}");
        // End of file comes only when every writer is dead.
        reader.join().unwrap();
    }

    #[test]
    fn tools_see_no_environment_but_ours() {
        let output = sh("env", Duration::from_secs(10)).unwrap();
        let mut names: Vec<_> = output
            .stdout
            .lines()
            .filter_map(|line| line.split('=').next())
            .filter(|name| !matches!(*name, "PWD" | "OLDPWD" | "SHLVL" | "_"))
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["BLKID_FILE", "LC_ALL", "PATH"]);
    }

    #[test]
    fn a_missing_tool_names_its_package() {
        let none = Tools {
            dirs: vec!["/nonexistent".into()],
            memory: None,
        };
        assert_eq!(
            none.locate(MKFS_XFS).unwrap_err().to_string(),
            "mkfs.xfs is not installed in this image: install package xfsprogs"
        );
    }
}
