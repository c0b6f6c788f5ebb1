//! The binary: runs the command line, prints the chain of an error once, and picks the exit code.

use std::process::ExitCode;

/// Serves small short-lived allocations of many threads faster than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    difygate::cli::main()
}
