//! Writes the descriptor set of the compiled protocols to the file named by the first argument; `sanity-tests`
//! compares it with the official module.

use std::process::ExitCode;

use additional_storage_csi::proto::DESCRIPTOR_SET;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: descriptors FILE");
        return ExitCode::from(64);
    };
    match std::fs::write(&path, DESCRIPTOR_SET) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}
