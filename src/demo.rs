//! `demo`: a claim's whole life on the embedded cloud, in one process and over real sockets.
//!
//! ```text
//! walk ---- claim (the calls of sidecars and kubelet) --- unix sockets ---> controller, one node service per VM
//!  |                                                                            |              |
//! show (time, the cloud's share, calls) <--- history --- emulator <--- HTTP ----'   loop devices, real mounts
//! ```

pub mod claim;
mod data;
mod lab;
mod show;
pub mod vm;
mod walk;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use tokio_util::sync::CancellationToken;

use crate::cli::DemoArgs;
use crate::telemetry::LogLevel;

use self::show::Show;
use self::world::{Abilities, World};

/// The walk was stopped by a signal.
#[derive(Debug, thiserror::Error)]
#[error("stopped by a signal")]
struct Stopped;

/// Walks a claim's life. Whatever happens, nothing stays: no disk, no loop device, no mount, no file.
///
/// # Errors
/// The world could not be set up. A step that failed is shown and gives exit status 1.
pub async fn run(
    args: &DemoArgs,
    level: LogLevel,
    stop: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let abilities = match (args.vm, &args.lab) {
        (false, _) => Abilities::look(),
        (true, Some(lab)) => Abilities::of_vms(lab.clone()),
        (true, None) => bail!(
            "--vm needs --lab DIR, the directory that scripts/vm/setup.sh prints; \"make demo VM=1\" does both"
        ),
    };
    let dir = directory(args)?;
    let mut show = Show::new(stop);
    show.title(&abilities, &dir);
    let started = World::start(&dir, &abilities, level).await;
    let world = match started {
        Ok(world) => world,
        Err(error) => {
            let _ = std::fs::remove_dir_all(&dir);
            return Err(error);
        }
    };
    let walked = walk::walk(&mut show, &world, &abilities).await;
    if walked.is_err() {
        show.plain("cleaning up ...");
        world.tidy().await;
    }
    let left = world.left().await;
    let interrupted = show.interrupted();
    let removed = world.end().await;
    show.end(&abilities, &left);
    if let Err(error) = removed {
        show.plain(&format!("LEFT BEHIND: {error:#}"));
    }
    match walked {
        Ok(()) if left.is_nothing() => Ok(ExitCode::SUCCESS),
        Ok(()) => Ok(ExitCode::FAILURE),
        Err(_) if interrupted => Ok(ExitCode::from(130)),
        Err(error) => {
            show.plain(&format!("FAILED: {error:#}"));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn directory(args: &DemoArgs) -> anyhow::Result<PathBuf> {
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = parent.join(format!("csi-demo.{}", std::process::id()));
    std::fs::create_dir_all(&parent)
        .and_then(|()| std::fs::create_dir(&dir))
        .with_context(|| format!("cannot make {}; choose another with --dir", dir.display()))?;
    // mountinfo shows resolved paths: leftovers are counted by them.
    dir.canonicalize()
        .with_context(|| format!("cannot resolve {}", dir.display()))
}
