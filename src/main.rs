//! The program: see `additional_storage_csi` for what is in it. Nothing happens here but start and exit code.

use std::process::ExitCode;
use std::time::Duration;

use additional_storage_csi::{app, cli, cloud::nifcloud::install_crypto_provider};

mod memory;

#[global_allocator]
static ALLOCATOR: memory::Allocator = memory::Allocator;

/// What a stuck blocking call (a mount in an uninterruptible sleep) may hold up the exit.
const LAST_WAIT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    install_crypto_provider();
    let command = match cli::parse() {
        Ok(command) => command,
        Err(code) => return code,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("driver")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::from(71);
        }
    };
    let code = runtime.block_on(app::run(command));
    // Dropping the runtime would wait for blocking calls without a limit.
    runtime.shutdown_timeout(LAST_WAIT);
    code
}
