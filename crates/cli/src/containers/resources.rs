//! Limits: flags of `run`, `create` and `update`.

use super::problems::Problems;
use container::options::ResourceOptions;
use model::ByteSize;
use std::path::PathBuf;

/// Limits as typed.
#[derive(clap::Args, Debug, Clone, Default, PartialEq, Eq)]
#[command(next_help_heading = "Limits")]
pub struct ResourceArguments {
    /// Memory, such as 64m or 1.5g
    #[arg(short, long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Memory plus swap; -1 for unlimited swap
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Memory that is left when the host runs short
    #[arg(long, value_name = "SIZE")]
    pub memory_reservation: Option<String>,
    /// Cores, such as 0.5
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub cpus: Option<String>,
    /// Share of cores, 2 to 262144 (1024)
    #[arg(short = 'c', long, value_name = "WEIGHT")]
    pub cpu_shares: Option<String>,
    /// Microseconds of cores per period
    #[arg(long, value_name = "USEC", allow_hyphen_values = true)]
    pub cpu_quota: Option<String>,
    /// Length of a period (100000)
    #[arg(long, value_name = "USEC")]
    pub cpu_period: Option<String>,
    /// Cores it may run on, such as 0-1,3
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes it may use
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Processes and threads; -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub pids_limit: Option<String>,
    /// Share of block IO, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    pub blkio_weight: Option<String>,
    /// Bytes per second read from a device
    #[arg(long, value_name = "DEVICE:SIZE")]
    pub device_read_bps: Vec<String>,
    /// Bytes per second written to a device
    #[arg(long, value_name = "DEVICE:SIZE")]
    pub device_write_bps: Vec<String>,
    /// Reads per second from a device
    #[arg(long, value_name = "DEVICE:NUMBER")]
    pub device_read_iops: Vec<String>,
    /// Writes per second to a device
    #[arg(long, value_name = "DEVICE:NUMBER")]
    pub device_write_iops: Vec<String>,
}

impl ResourceArguments {
    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The limits; what can not be read goes to `problems`.
    pub fn options(&self, problems: &mut Problems) -> ResourceOptions {
        let mut take = Taker { problems };
        let options = ResourceOptions {
            memory: take.size("--memory", &self.memory),
            memory_swap: take.swap("--memory-swap", &self.memory_swap),
            memory_reservation: take.size("--memory-reservation", &self.memory_reservation),
            cpus: take.cpus("--cpus", &self.cpus),
            cpu_shares: take.number("--cpu-shares", &self.cpu_shares, 2, 262_144),
            cpu_quota: take.number("--cpu-quota", &self.cpu_quota, -1, i64::MAX),
            cpu_period: take.number("--cpu-period", &self.cpu_period, 1_000, 1_000_000),
            cpuset_cpus: self.cpuset_cpus.clone(),
            cpuset_mems: self.cpuset_mems.clone(),
            pids_limit: take.number("--pids-limit", &self.pids_limit, -1, i64::MAX),
            blkio_weight: take.number("--blkio-weight", &self.blkio_weight, 10, 1_000),
            device_read_bps: take.throttles("--device-read-bps", &self.device_read_bps, |rate| {
                rate.parse::<ByteSize>().map_err(|error| error.to_string())
            }),
            device_write_bps: take.throttles("--device-write-bps", &self.device_write_bps, |rate| {
                rate.parse::<ByteSize>().map_err(|error| error.to_string())
            }),
            device_read_iops: take.throttles("--device-read-iops", &self.device_read_iops, operations),
            device_write_iops: take.throttles("--device-write-iops", &self.device_write_iops, operations),
        };
        if self.cpus.is_some() && (self.cpu_quota.is_some() || self.cpu_period.is_some()) {
            problems.add("--cpus", "says the same as --cpu-quota and --cpu-period: give the one or the others");
        }
        options
    }
}

fn operations(rate: &str) -> Result<u64, String> {
    rate.parse().map_err(|_| format!("`{rate}` is not a number of operations per second"))
}

struct Taker<'p> {
    problems: &'p mut Problems,
}

impl Taker<'_> {
    fn size(&mut self, flag: &str, text: &Option<String>) -> Option<ByteSize> {
        let text = text.as_ref()?;
        self.problems.take(flag, text.parse::<ByteSize>())
    }

    fn swap(&mut self, flag: &str, text: &Option<String>) -> Option<i64> {
        if text.as_deref() == Some("-1") {
            return Some(-1);
        }
        let size = self.size(flag, text)?;
        self.problems.take(flag, i64::try_from(size.0).map_err(|_| format!("{size} is more than any machine has")))
    }

    fn cpus(&mut self, flag: &str, text: &Option<String>) -> Option<f64> {
        let text = text.as_ref()?;
        let number = text.parse::<f64>().ok().filter(|cpus| cpus.is_finite() && *cpus > 0.0);
        self.problems.take(flag, number.ok_or_else(|| format!("`{text}` is not a number of cores, such as 0.5 or 2")))
    }

    fn number<T>(&mut self, flag: &str, text: &Option<String>, least: T, most: T) -> Option<T>
    where
        T: std::str::FromStr + PartialOrd + std::fmt::Display,
    {
        let text = text.as_ref()?;
        let number = text.parse::<T>().ok().filter(|number| (&least..=&most).contains(&number));
        self.problems.take(flag, number.ok_or_else(|| format!("`{text}` is not a whole number from {least} to {most}")))
    }

    fn throttles<T>(
        &mut self,
        flag: &str,
        texts: &[String],
        rate: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<(PathBuf, T)> {
        let parse = |text: &String| {
            let (device, limit) = text
                .rsplit_once(':')
                .filter(|(device, _)| device.starts_with('/'))
                .ok_or_else(|| format!("`{text}` is not DEVICE:RATE, such as /dev/sda:1m"))?;
            Ok::<_, String>((PathBuf::from(device), rate(limit)?))
        };
        texts.iter().filter_map(|text| self.problems.take(flag, parse(text))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        resources: ResourceArguments,
    }

    fn read(arguments: &[&str]) -> (ResourceOptions, Vec<String>) {
        let only = Only::try_parse_from(["x"].iter().chain(arguments)).unwrap();
        let mut problems = Problems::default();
        let options = only.resources.options(&mut problems);
        (options, problems.into_vec().into_iter().map(|p| format!("{} {}", p.argument, p.problem)).collect())
    }

    #[test]
    fn every_limit() {
        let (options, problems) = read(&[
            "-m",
            "64m",
            "--memory-swap=-1",
            "--memory-reservation",
            "32m",
            "-c",
            "512",
            "--cpu-quota",
            "50000",
            "--cpu-period",
            "100000",
            "--cpuset-cpus",
            "0-1",
            "--cpuset-mems",
            "0",
            "--pids-limit",
            "-1",
            "--blkio-weight",
            "300",
            "--device-read-bps",
            "/dev/sda:1m",
            "--device-write-bps",
            "/dev/sda:2m",
            "--device-read-iops",
            "/dev/sda:10",
            "--device-write-iops",
            "/dev/disk/by-path/pci-0000:00:1:20",
        ]);
        assert!(problems.is_empty(), "{problems:?}");
        let expected = ResourceOptions {
            memory: Some(ByteSize(64 << 20)),
            memory_swap: Some(-1),
            memory_reservation: Some(ByteSize(32 << 20)),
            cpus: None,
            cpu_shares: Some(512),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            cpuset_cpus: Some("0-1".to_owned()),
            cpuset_mems: Some("0".to_owned()),
            pids_limit: Some(-1),
            blkio_weight: Some(300),
            device_read_bps: vec![("/dev/sda".into(), ByteSize(1 << 20))],
            device_write_bps: vec![("/dev/sda".into(), ByteSize(2 << 20))],
            device_read_iops: vec![("/dev/sda".into(), 10)],
            device_write_iops: vec![("/dev/disk/by-path/pci-0000:00:1".into(), 20)],
        };
        assert_eq!(options, expected);
        assert_eq!(read(&["--cpus", "1.5"]).0.cpus, Some(1.5));
        assert_eq!(read(&["--memory-swap", "1g"]).0.memory_swap, Some(1 << 30));
    }

    #[test]
    fn every_wrong_limit_is_named() {
        let (_, problems) = read(&[
            "--memory=x",
            "--memory-swap=-2",
            "--cpus=-1",
            "--cpu-quota=1",
            "--cpu-shares=1",
            "--cpu-period=5",
            "--pids-limit=many",
            "--blkio-weight=5",
            "--device-read-bps=sda:1m",
            "--device-write-iops=/dev/sda:1m",
        ]);
        let flags: Vec<_> = problems.iter().filter_map(|problem| problem.split(' ').next()).collect();
        assert_eq!(
            flags,
            [
                "--memory",
                "--memory-swap",
                "--cpus",
                "--cpu-shares",
                "--cpu-period",
                "--pids-limit",
                "--blkio-weight",
                "--device-read-bps",
                "--device-write-iops",
                "--cpus",
            ]
        );
    }
}
