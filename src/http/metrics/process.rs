//! What the system says of this process, under the names that all of Prometheus' clients use. Linux only; elsewhere they are missing.

use std::fs;

/// `/proc` gives sizes in KiB.
const KIB: u64 = 1024;
/// Ticks of a second in `/proc` (`USER_HZ`), which Linux has fixed.
const TICKS: f64 = 100.0;

/// Writes the series.
pub(super) fn render(text: &mut String) {
    let version = env!("CARGO_PKG_VERSION");
    *text += &format!("# TYPE tenantry_build_info gauge\ntenantry_build_info{{version=\"{version}\"}} 1\n");
    let gauges = [
        ("process_resident_memory_bytes", resident().map(|bytes| bytes.to_string())),
        ("process_open_fds", open_files().map(|count| count.to_string())),
        ("process_start_time_seconds", started().map(|seconds| format!("{seconds:.2}"))),
    ];
    for (name, value) in gauges {
        if let Some(value) = value {
            *text += &format!("# TYPE {name} gauge\n{name} {value}\n");
        }
    }
}

/// In bytes.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * KIB)
}

fn open_files() -> Option<usize> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count())
}

/// In seconds since 1970: the start of the system, and the ticks until this process began (proc(5), field 22).
fn started() -> Option<f64> {
    let system = fs::read_to_string("/proc/stat").ok()?;
    let booted: f64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let process = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program, in parentheses, may hold anything.
    let (_, fields) = process.rsplit_once(')')?;
    let ticks: f64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    Some(booted + ticks / TICKS)
}
