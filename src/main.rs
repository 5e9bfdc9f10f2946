//! The binary: see `tenantry --help`.

use std::process::ExitCode;

// PERFORMANCE.md: −20…35 % of the engine's CPU against glibc's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tenantry::cli::main()
}
