//! What a group has used. Everything the kernel does not count here is absent, never zero.

use super::{Cgroup, CgroupError, Version};
use jiff::Timestamp;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::{fs, path::Path};

/// One reading of a group's counters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// When.
    pub taken: Timestamp,
    /// Processor time; absent without accounting.
    pub cpu: Option<Cpu>,
    /// Processor time of the whole machine, to compare with.
    pub host_cpu: HostCpu,
    /// Memory; absent without that controller.
    pub memory: Option<Memory>,
    /// Processes and threads; absent without that controller.
    pub pids: Option<Pids>,
    /// Block IO; absent without that controller.
    pub io: Option<Io>,
}

impl Stats {
    /// Use of processors since an earlier reading, 100 for one core in full; `None` without accounting or when no time has
    /// gone by.
    pub fn cpu_percent_since(&self, earlier: &Self) -> Option<f64> {
        let used = self.cpu?.total_ns.saturating_sub(earlier.cpu?.total_ns);
        let machine = self.host_cpu.total_ns.saturating_sub(earlier.host_cpu.total_ns);
        // Rounding to 53 bits is far below what the clocks resolve.
        #[allow(clippy::cast_precision_loss)]
        let percent = used as f64 * 100.0 * f64::from(self.host_cpu.cores) / machine as f64;
        (machine > 0).then_some(percent)
    }
}

/// Processor time of a group since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// All, nanoseconds.
    pub total_ns: u64,
    /// In programs, nanoseconds.
    pub user_ns: u64,
    /// In the kernel, nanoseconds.
    pub system_ns: u64,
    /// What the quota held back; absent without that controller.
    pub throttled: Option<Throttled>,
}

/// What a quota of processor time held back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttled {
    /// Periods in which something wanted to run.
    pub periods: u64,
    /// Those in which it was held back.
    pub throttled_periods: u64,
    /// For how long, nanoseconds, summed over the cores.
    pub time_ns: u64,
}

/// Processor time of the machine since it was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCpu {
    /// Busy and idle, nanoseconds, summed over the cores, in steps of 10 ms.
    pub total_ns: u64,
    /// Cores that are on.
    pub cores: u32,
}

/// Memory of a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// In use, bytes, caches of files included.
    pub usage: u64,
    /// Most of it, bytes; absent when unlimited.
    pub limit: Option<u64>,
    /// Most that was ever in use, bytes (v2: since kernel 5.19).
    pub peak: Option<u64>,
    /// Caches that have not been used for a while (`inactive_file`), bytes.
    pub cache: u64,
    /// `usage` without `cache`, bytes: what it would not do without.
    pub working_set: u64,
    /// Swapped out, bytes; absent without accounting.
    pub swap: Option<u64>,
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: u64,
}

/// Processes and threads of a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pids {
    /// How many there are.
    pub current: u64,
    /// Most of them; absent when unlimited.
    pub limit: Option<u64>,
}

/// Block IO of a group, over all disks. (v1 counts what goes through its throttle or BFQ only.)
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Io {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
}

impl Cgroup {
    /// Reads all counters.
    ///
    /// # Errors
    /// That of the file system; [`CgroupError::NotFound`] when the group is gone.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        Ok(Stats {
            taken: Timestamp::now(),
            cpu: self.cpu_stats()?,
            host_cpu: host_cpu()?,
            memory: self.memory_stats()?,
            pids: self.pids_stats()?,
            io: self.io_stats()?,
        })
    }

    fn cpu_stats(&self) -> Result<Option<Cpu>, CgroupError> {
        let on_v1 = self.host.version_of("cpuacct").is_some();
        let mut cpu = Cpu::default();
        if on_v1 {
            let [total, user, system] = ["usage", "usage_user", "usage_sys"].map(|file| format!("cpuacct.{file}"));
            let Some(total) = self.number("cpuacct", &total)? else { return Ok(None) };
            cpu.total_ns = total;
            cpu.user_ns = self.number("cpuacct", &user)?.unwrap_or(0);
            cpu.system_ns = self.number("cpuacct", &system)?.unwrap_or(0);
        } else {
            // The unified hierarchy counts time in every group, with or without its controller.
            let Some(text) = self.text("cgroup", "cpu.stat")? else { return Ok(None) };
            cpu.total_ns = 1000 * field(&text, "usage_usec").unwrap_or(0);
            cpu.user_ns = 1000 * field(&text, "user_usec").unwrap_or(0);
            cpu.system_ns = 1000 * field(&text, "system_usec").unwrap_or(0);
        }
        if let Some(text) = self.text("cpu", "cpu.stat")? {
            let time = field(&text, "throttled_time").or(field(&text, "throttled_usec").map(|time| 1000 * time));
            cpu.throttled = field(&text, "nr_periods").map(|periods| Throttled {
                periods,
                throttled_periods: field(&text, "nr_throttled").unwrap_or(0),
                time_ns: time.unwrap_or(0),
            });
        }
        Ok(Some(cpu))
    }

    fn memory_stats(&self) -> Result<Option<Memory>, CgroupError> {
        let v1 = self.host.version_of("memory") == Some(Version::V1);
        let file = |old, new| if v1 { old } else { new };
        let Some(usage) = self.number("memory", file("memory.usage_in_bytes", "memory.current"))? else {
            return Ok(None);
        };
        let details = self.text("memory", "memory.stat")?.unwrap_or_default();
        let events = self.text("memory", file("memory.oom_control", "memory.events"))?.unwrap_or_default();
        let cache = field(&details, file("total_inactive_file", "inactive_file")).unwrap_or(0);
        let limit = self.number("memory", file("memory.limit_in_bytes", "memory.max"))?;
        Ok(Some(Memory {
            usage,
            // v1 says "unlimited" with the largest number of whole pages.
            limit: limit.filter(|limit| *limit < 1 << 62),
            peak: self.number("memory", file("memory.max_usage_in_bytes", "memory.peak"))?,
            cache,
            working_set: usage.saturating_sub(cache),
            swap: if v1 { field(&details, "total_swap") } else { self.number("memory", "memory.swap.current")? },
            oom_kills: field(&events, "oom_kill").unwrap_or(0),
        }))
    }

    fn pids_stats(&self) -> Result<Option<Pids>, CgroupError> {
        let Some(current) = self.number("pids", "pids.current")? else { return Ok(None) };
        Ok(Some(Pids { current, limit: self.number("pids", "pids.max")? }))
    }

    fn io_stats(&self) -> Result<Option<Io>, CgroupError> {
        if self.host.version_of("blkio").is_none() {
            return Ok(self.text("io", "io.stat")?.map(|text| io_v2(&text)));
        }
        let read = |what: &str| -> Result<Option<String>, CgroupError> {
            // With neither the throttle nor BFQ in use on a disk, both have a total of nothing.
            let counted = |text: &String| text.lines().any(|line| line.split(' ').count() == 3);
            let throttle = self.text("blkio", &format!("blkio.throttle.{what}_recursive"))?;
            match throttle.as_ref().filter(|text| counted(text)) {
                Some(text) => Ok(Some(text.clone())),
                None => Ok(self.text("blkio", &format!("blkio.bfq.{what}_recursive"))?.or(throttle)),
            }
        };
        let (Some(bytes), Some(operations)) = (read("io_service_bytes")?, read("io_serviced")?) else {
            return Ok(None);
        };
        let ((read_bytes, write_bytes), (reads, writes)) = (io_v1(&bytes), io_v1(&operations));
        Ok(Some(Io { read_bytes, write_bytes, reads, writes }))
    }

    /// A file; `None` when there is no such controller or file.
    fn text(&self, controller: &str, file: &str) -> Result<Option<String>, CgroupError> {
        let Some(directory) = self.directory_of(controller) else { return Ok(None) };
        match directory.read(file) {
            Ok(text) => Ok(Some(text)),
            // A removed group has no files; a kernel or a group without the feature lacks some.
            Err(Errno::NOENT) if directory.has("cgroup.procs") => Ok(None),
            Err(Errno::OPNOTSUPP) => Ok(None),
            Err(Errno::NOENT | Errno::NODEV) => Err(CgroupError::NotFound { path: self.path.clone() }),
            Err(error) => Err(CgroupError::io("read", directory.path().join(file), error)),
        }
    }

    /// A file with one number; `None` also for `max`.
    fn number(&self, controller: &str, file: &str) -> Result<Option<u64>, CgroupError> {
        Ok(self.text(controller, file)?.and_then(|text| text.trim().parse().ok()))
    }
}

/// Value of a line `KEY VALUE`.
fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Read and written, from lines `MAJOR:MINOR Read N`.
fn io_v1(text: &str) -> (u64, u64) {
    let sum = |what: &str| {
        let lines = text.lines().filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            (words.next()? == what).then_some(words.next()?.parse::<u64>().ok()?)
        });
        lines.sum()
    };
    (sum("Read"), sum("Write"))
}

/// From lines `MAJOR:MINOR rbytes=N wbytes=N rios=N wios=N …`.
fn io_v2(text: &str) -> Io {
    let sum = |key: &str| {
        let words = text.split_ascii_whitespace();
        words.filter_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse::<u64>().ok()).sum()
    };
    Io { read_bytes: sum("rbytes"), write_bytes: sum("wbytes"), reads: sum("rios"), writes: sum("wios") }
}

/// Length of the kernel's unit of time for user space (USER_HZ is 100 on every architecture that Rust's standard library
/// supports).
const TICK_NS: u64 = 10_000_000;

fn host_cpu() -> Result<HostCpu, CgroupError> {
    let path = Path::new("/proc/stat");
    let text = fs::read_to_string(path).map_err(|error| CgroupError::io("read", path, error))?;
    Ok(parse_host_cpu(&text))
}

/// From the line `cpu` (user, nice, system, idle, iowait, irq, softirq, steal; guests' time is in user) and the lines
/// `cpuN`.
fn parse_host_cpu(text: &str) -> HostCpu {
    let mut host = HostCpu::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("cpu") => {
                let ticks: u64 = words.take(8).filter_map(|word| word.parse::<u64>().ok()).sum();
                host.total_ns = ticks * TICK_NS;
            }
            Some(word) if word.starts_with("cpu") => host.cores += 1,
            _ => break,
        }
    }
    host
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read() {
        assert_eq!(field("total_inactive_file 7\ninactive_file 5\n", "inactive_file"), Some(5));
        assert_eq!(field("inactive_file_x 5\n", "inactive_file"), None);
        let v1 = "8:0 Read 100\n8:0 Write 20\n8:0 Total 120\n8:16 Read 1\n8:16 Write 2\nTotal 123\n";
        assert_eq!(io_v1(v1), (101, 22));
        assert_eq!(io_v1("Total 0\n"), (0, 0));
        let v2 =
            io_v2("8:0 rbytes=100 wbytes=20 rios=3 wios=4 dbytes=0 dios=0\n8:16 rbytes=1 wbytes=2 rios=1 wios=1\n");
        assert_eq!(v2, Io { read_bytes: 101, write_bytes: 22, reads: 4, writes: 5 });
        assert_eq!(io_v2(""), Io::default());
    }

    #[test]
    fn the_machines_time_leaves_out_guests() {
        let host = parse_host_cpu("cpu  1 2 3 4 5 6 7 8 100 100\ncpu0 1 1\ncpu1 1 1\nintr 5 cpu9\ncpu9 1\n");
        assert_eq!(host, HostCpu { total_ns: 36 * TICK_NS, cores: 2 });
    }

    #[test]
    fn percent_is_of_one_core() {
        let at = |used, total_ns| Stats {
            taken: Timestamp::UNIX_EPOCH,
            cpu: Some(Cpu { total_ns: used, ..Cpu::default() }),
            host_cpu: HostCpu { total_ns, cores: 2 },
            memory: None,
            pids: None,
            io: None,
        };
        assert_eq!(at(1_500, 12_000).cpu_percent_since(&at(500, 10_000)), Some(100.0));
        assert_eq!(at(1, 5).cpu_percent_since(&at(1, 5)), None);
    }
}
