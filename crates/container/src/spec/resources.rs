//! Limits: from options to the `resources` of a specification, when a container is made and when it is changed.

use super::{
    facts::{Facts, Kind},
    fault::{Fault, Faults},
    idlist::IdList,
};
use crate::options::ResourceOptions;
use model::ByteSize;
use oci_spec::runtime::{LinuxPidsBuilder, LinuxResources, LinuxThrottleDevice, LinuxThrottleDeviceBuilder};
use std::{
    io,
    path::{Path, PathBuf},
};

/// Least memory, bytes: with less, not even the start succeeds (Docker's minimum).
pub(crate) const LEAST_MEMORY: u64 = 6 << 20;
/// Period of `--cpus`, microseconds; the kernel's default.
const PERIOD: u64 = 100_000;
/// Shortest quota, microseconds (`min_cfs_quota_period`).
const LEAST_QUOTA: i64 = 1000;

/// Puts `options` over `resources`; what is absent stays. Checks the outcome as a whole.
pub(crate) fn merge(resources: &mut LinuxResources, options: &ResourceOptions, facts: &Facts, faults: &mut Faults) {
    memory(resources, options, facts, faults);
    cpu(resources, options, facts, faults);
    cpuset(resources, options, facts, faults);
    block_io(resources, options, facts, faults);
    if let Some(limit) = options.pids_limit {
        match limit {
            // As in Docker and podman 0 is no limit: a container of no process is of no use.
            -1 | 0 => set_pids(resources, -1),
            1.. => set_pids(resources, limit),
            _ => faults
                .push(Fault::new("--pids-limit", "it is negative").of(limit).hint("give a number, or -1 for no limit")),
        }
    }
}

/// Whether nothing at all is asked for.
pub(crate) fn is_empty(options: &ResourceOptions) -> bool {
    *options == ResourceOptions::default()
}

fn set_pids(resources: &mut LinuxResources, limit: i64) {
    resources.set_pids(LinuxPidsBuilder::default().limit(limit).build().ok());
}

fn memory(resources: &mut LinuxResources, options: &ResourceOptions, facts: &Facts, faults: &mut Faults) {
    if options.memory.is_none() && options.memory_swap.is_none() && options.memory_reservation.is_none() {
        return;
    }
    let mut memory = resources.memory().unwrap_or_default();
    let before = memory;
    let mut bytes = |field: &str, size: ByteSize| match i64::try_from(size.0) {
        Ok(bytes) if size.0 >= LEAST_MEMORY => Some(bytes),
        Ok(_) => {
            let why = "it is less than 6 MiB, the least that a container can start in";
            faults.push(Fault::new(field, why).of(size).hint("give at least 6m"));
            None
        }
        Err(_) => {
            faults.push(Fault::new(field, "it is more than the kernel can count").of(size));
            None
        }
    };
    if let Some(limit) = options.memory {
        memory.set_limit(bytes("--memory", limit));
    }
    if let Some(reservation) = options.memory_reservation {
        memory.set_reservation(bytes("--memory-reservation", reservation));
    }
    match options.memory_swap {
        Some(swap @ (-1 | 1..)) => {
            memory.set_swap(Some(swap));
            if swap > 0 && memory.limit().is_none() && options.memory.is_none() {
                let why = "it is memory plus swap, so it needs a limit of memory";
                faults.push(Fault::new("--memory-swap", why).of(swap).hint("give --memory as well"));
            }
        }
        Some(swap) => {
            let why = "it is neither -1 nor a positive number of bytes";
            faults.push(Fault::new("--memory-swap", why).of(swap).hint("give -1 for unlimited swap, or leave it out"));
        }
        // As in Docker as much swap as memory; one that was given stays. Where swap is not counted there is nothing to limit.
        None => {
            let doubled = |limit: Option<i64>| limit.and_then(|limit| limit.checked_mul(2));
            let by_default = before.swap().is_none() || before.swap() == doubled(before.limit());
            if options.memory.is_some() && by_default && facts.counts_swap() {
                memory.set_swap(doubled(memory.limit()));
            }
        }
    }
    if let (Some(limit), Some(swap @ 1..)) = (memory.limit(), memory.swap())
        && swap < limit
    {
        let shown = |bytes: i64| ByteSize(bytes.unsigned_abs());
        faults.push(match options.memory_swap {
            Some(_) => {
                Fault::new("--memory-swap", format!("it is memory plus swap, but less than memory, {}", shown(limit)))
                    .of(shown(swap))
                    .hint("give at least as much; the same for no swap")
            }
            None => Fault::new("--memory", format!("it is more than memory plus swap, {}", shown(swap)))
                .of(shown(limit))
                .hint("give --memory-swap as well"),
        });
    }
    if let (Some(limit), Some(reservation)) = (memory.limit(), memory.reservation())
        && reservation > limit
    {
        let field = if options.memory_reservation.is_some() { "--memory-reservation" } else { "--memory" };
        let why = format!("the soft limit, {reservation} bytes, is above the limit, {limit} bytes");
        faults.push(Fault::new(field, why));
    }
    resources.set_memory(Some(memory));
}

fn cpu(resources: &mut LinuxResources, options: &ResourceOptions, facts: &Facts, faults: &mut Faults) {
    let mut cpu = resources.cpu().clone().unwrap_or_default();
    if let Some(cpus) = options.cpus {
        if options.cpu_quota.is_some() || options.cpu_period.is_some() {
            let why = "it sets quota and period, which are given as well";
            faults.push(Fault::new("--cpus", why).of(cpus).hint("give either --cpus, or --cpu-quota and --cpu-period"));
        }
        match quota(cpus, facts) {
            Ok(quota) => {
                cpu.set_quota(Some(quota)).set_period(Some(PERIOD));
            }
            Err(fault) => faults.push(fault),
        }
    }
    if let Some(shares) = options.cpu_shares {
        cpu.set_shares(Some(shares));
        if !(2..=262_144).contains(&shares) {
            faults.push(Fault::new("--cpu-shares", "it is not within 2 and 262144").of(shares).hint("1024 is normal"));
        }
    }
    if let Some(period) = options.cpu_period {
        cpu.set_period(Some(period));
        if !(1000..=1_000_000).contains(&period) {
            faults.push(Fault::new("--cpu-period", "it is not within 1000 and 1000000 microseconds").of(period));
        }
    }
    if let Some(quota) = options.cpu_quota {
        cpu.set_quota(Some(quota));
        if quota != -1 && quota < LEAST_QUOTA {
            let why = "it is less than 1000 microseconds";
            faults.push(Fault::new("--cpu-quota", why).of(quota).hint("give -1 for no limit"));
        }
    }
    if cpu != resources.cpu().clone().unwrap_or_default() {
        resources.set_cpu(Some(cpu));
    }
}

fn quota(cpus: f64, facts: &Facts) -> Result<i64, Fault> {
    let fail = |why: String| Fault::new("--cpus", why).of(cpus);
    let online = facts.cpus().map_err(|error| fail(format!("the CPUs online can not be read: {error}")))?.count();
    if !cpus.is_finite() || cpus <= 0.0 {
        return Err(fail("it is not a positive number".into()).hint("write how many cores it may use, such as 0.5"));
    }
    if cpus > f64::from(online) {
        return Err(
            fail(format!("this machine has {online}")).hint("give at most as many, or leave it out for no limit")
        );
    }
    // At most 8192 × 100000: exact in both types.
    #[allow(clippy::cast_possible_truncation)]
    let quota = (cpus * 100_000.0).round() as i64;
    if quota < LEAST_QUOTA {
        return Err(fail("it is less than the kernel can give".into()).hint("give at least 0.01"));
    }
    Ok(quota)
}

fn cpuset(resources: &mut LinuxResources, options: &ResourceOptions, facts: &Facts, faults: &mut Faults) {
    let check = |field: &str, asked: &str, what: &str, present: io::Result<IdList>| {
        let fail = |why: String| Fault::new(field, why).of(asked);
        let present = present.map_err(|error| fail(format!("those of this machine can not be read: {error}")))?;
        let list: IdList = asked.parse().map_err(|why: &str| fail(why.to_owned()))?;
        match list.without(&present).first() {
            Some(missing) => {
                Err(fail(format!("this machine has no {what} {missing}")).hint(format!("it has {present}")))
            }
            None => Ok(list.to_string()),
        }
    };
    if let Some(asked) = &options.cpuset_cpus
        && let Some(list) = faults.take(check("--cpuset-cpus", asked, "CPU", facts.cpus()))
    {
        let mut cpu = resources.cpu().clone().unwrap_or_default();
        cpu.set_cpus(Some(list));
        resources.set_cpu(Some(cpu));
    }
    if let Some(asked) = &options.cpuset_mems
        && let Some(list) = faults.take(check("--cpuset-mems", asked, "memory node", facts.memory_nodes()))
    {
        let mut cpu = resources.cpu().clone().unwrap_or_default();
        cpu.set_mems(Some(list));
        resources.set_cpu(Some(cpu));
    }
}

fn block_io(resources: &mut LinuxResources, options: &ResourceOptions, facts: &Facts, faults: &mut Faults) {
    let mut block = resources.block_io().clone().unwrap_or_default();
    if let Some(weight) = options.blkio_weight {
        block.set_weight(Some(weight));
        if !(10..=1000).contains(&weight) {
            faults.push(Fault::new("--blkio-weight", "it is not within 10 and 1000").of(weight));
        }
    }
    let bytes =
        |list: &[(PathBuf, ByteSize)]| list.iter().map(|(path, rate)| (path.clone(), rate.0)).collect::<Vec<_>>();
    let mut list = |field: &str, current: &Option<Vec<LinuxThrottleDevice>>, asked: &[(PathBuf, u64)]| {
        throttles(field, current.as_deref().unwrap_or_default(), asked, facts, faults)
    };
    if !options.device_read_bps.is_empty() {
        let all = list("--device-read-bps", block.throttle_read_bps_device(), &bytes(&options.device_read_bps));
        block.set_throttle_read_bps_device(Some(all));
    }
    if !options.device_write_bps.is_empty() {
        let all = list("--device-write-bps", block.throttle_write_bps_device(), &bytes(&options.device_write_bps));
        block.set_throttle_write_bps_device(Some(all));
    }
    if !options.device_read_iops.is_empty() {
        let all = list("--device-read-iops", block.throttle_read_iops_device(), &options.device_read_iops);
        block.set_throttle_read_iops_device(Some(all));
    }
    if !options.device_write_iops.is_empty() {
        let all = list("--device-write-iops", block.throttle_write_iops_device(), &options.device_write_iops);
        block.set_throttle_write_iops_device(Some(all));
    }
    if block != resources.block_io().clone().unwrap_or_default() {
        resources.set_block_io(Some(block));
    }
}

/// The throttles of `current` with those asked for in place of or after them.
fn throttles(
    field: &str,
    current: &[LinuxThrottleDevice],
    asked: &[(PathBuf, u64)],
    facts: &Facts,
    faults: &mut Faults,
) -> Vec<LinuxThrottleDevice> {
    let mut all = current.to_vec();
    let mut seen: Vec<(i64, i64)> = Vec::new();
    for (path, rate) in asked {
        let Some((major, minor)) = faults.take(block_device(field, path, facts)) else { continue };
        let fail = |why: &str| Fault::new(field, why).of(path.display());
        if *rate == 0 && !current.iter().any(|one| (one.major(), one.minor()) == (major, minor)) {
            faults.push(fail("its rate is 0, which is no limit, and it has none").hint("give at least 1"));
        }
        if seen.contains(&(major, minor)) {
            faults.push(fail("it is given twice"));
        }
        seen.push((major, minor));
        all.retain(|one| (one.major(), one.minor()) != (major, minor));
        all.extend(LinuxThrottleDeviceBuilder::default().major(major).minor(minor).rate(*rate).build().ok());
    }
    all
}

fn block_device(field: &str, path: &Path, facts: &Facts) -> Result<(i64, i64), Fault> {
    let fail = |why: String| Fault::new(field, why).of(path.display());
    match facts.files.look(path) {
        _ if !path.is_absolute() => Err(fail("it is not an absolute path".into())),
        Ok(look) => match look.kind {
            Kind::Block { major, minor } => Ok((major.into(), minor.into())),
            _ => Err(fail("it is not a block device".into()).hint("lsblk lists them")),
        },
        Err(error) => Err(fail(format!("it can not be looked up: {error}")).hint("lsblk lists block devices")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::facts::tests::{facts, facts_with};

    fn merged(options: &ResourceOptions) -> Result<LinuxResources, String> {
        over(LinuxResources::default(), options)
    }
    fn over(mut resources: LinuxResources, options: &ResourceOptions) -> Result<LinuxResources, String> {
        let mut faults = Faults::default();
        merge(&mut resources, options, &facts(), &mut faults);
        faults.finish(resources).map_err(|errors| errors.to_string())
    }
    fn mib(count: u64) -> Option<ByteSize> {
        Some(ByteSize(count << 20))
    }

    #[test]
    fn absent_is_absent() {
        assert_eq!(merged(&ResourceOptions::default()), Ok(LinuxResources::default()));
        assert!(is_empty(&ResourceOptions::default()));
    }

    #[test]
    fn every_field_arrives() {
        let all = merged(&ResourceOptions {
            memory: mib(64),
            memory_swap: Some(128 << 20),
            memory_reservation: mib(32),
            cpus: Some(1.5),
            cpu_shares: Some(512),
            cpuset_cpus: Some("1,0".into()),
            cpuset_mems: Some("0".into()),
            pids_limit: Some(10),
            blkio_weight: Some(500),
            device_read_bps: vec![("/dev/vda".into(), ByteSize(1))],
            device_write_bps: vec![("/dev/vda".into(), ByteSize(2))],
            device_read_iops: vec![("/dev/vda".into(), 3)],
            device_write_iops: vec![("/dev/vda".into(), 4)],
            ..ResourceOptions::default()
        })
        .unwrap();
        assert_eq!(
            serde_json::to_value(&all).unwrap(),
            serde_json::json!({
                "memory": {"limit": 67108864, "swap": 134217728, "reservation": 33554432},
                "cpu": {"shares": 512, "quota": 150000, "period": 100000, "cpus": "0-1", "mems": "0"},
                "pids": {"limit": 10},
                "blockIO": {
                    "weight": 500,
                    "throttleReadBpsDevice": [{"major": 254, "minor": 0, "rate": 1}],
                    "throttleWriteBpsDevice": [{"major": 254, "minor": 0, "rate": 2}],
                    "throttleReadIOPSDevice": [{"major": 254, "minor": 0, "rate": 3}],
                    "throttleWriteIOPSDevice": [{"major": 254, "minor": 0, "rate": 4}],
                },
            })
        );
        let quota = ResourceOptions { cpu_quota: Some(50_000), cpu_period: Some(200_000), ..Default::default() };
        let cpu = merged(&quota).unwrap().cpu().clone().unwrap();
        assert_eq!((cpu.quota(), cpu.period()), (Some(50_000), Some(200_000)));
    }

    #[test]
    fn swap_by_default_is_as_much_as_memory() {
        let swap = |resources: &LinuxResources| resources.memory().and_then(|memory| memory.swap());
        let first = merged(&ResourceOptions { memory: mib(64), ..Default::default() }).unwrap();
        assert_eq!(swap(&first), Some(128 << 20));
        // It follows when the limit changes, unless the user chose it.
        let more = over(first, &ResourceOptions { memory: mib(256), ..Default::default() }).unwrap();
        assert_eq!(swap(&more), Some(512 << 20));
        let chosen = over(more, &ResourceOptions { memory_swap: Some(-1), ..Default::default() }).unwrap();
        let kept = over(chosen, &ResourceOptions { memory: mib(8), ..Default::default() }).unwrap();
        assert_eq!(swap(&kept), Some(-1));
        // Where the kernel does not count it there is none to set.
        let blind = facts_with(|files| {
            files.0.remove(Path::new("/sys/fs/cgroup/cgroup.controllers"));
        });
        let (mut resources, mut faults) = (LinuxResources::default(), Faults::default());
        merge(&mut resources, &ResourceOptions { memory: mib(64), ..Default::default() }, &blind, &mut faults);
        assert_eq!(swap(&resources), None);
    }

    #[test]
    fn every_limit_is_checked() {
        let default = ResourceOptions::default;
        let device = |path: &str| vec![(PathBuf::from(path), ByteSize(1))];
        for (options, field, part) in [
            (ResourceOptions { memory: mib(5), ..default() }, "--memory", "6 MiB"),
            (ResourceOptions { memory: Some(ByteSize(u64::MAX)), ..default() }, "--memory", "count"),
            (ResourceOptions { memory_reservation: mib(1), ..default() }, "--memory-reservation", "6 MiB"),
            (
                ResourceOptions { memory: mib(8), memory_reservation: mib(9), ..default() },
                "--memory-reservation",
                "above",
            ),
            (ResourceOptions { memory_swap: Some(1 << 30), ..default() }, "--memory-swap", "--memory as well"),
            (
                ResourceOptions { memory: mib(64), memory_swap: Some(1), ..default() },
                "--memory-swap",
                "less than memory",
            ),
            (ResourceOptions { memory_swap: Some(-2), ..default() }, "--memory-swap", "neither"),
            (ResourceOptions { memory: mib(8), memory_swap: Some(0), ..default() }, "--memory-swap", "neither"),
            (ResourceOptions { cpus: Some(0.0), ..default() }, "--cpus", "positive"),
            (ResourceOptions { cpus: Some(f64::NAN), ..default() }, "--cpus", "positive"),
            (ResourceOptions { cpus: Some(f64::INFINITY), ..default() }, "--cpus", "positive"),
            (ResourceOptions { cpus: Some(-1.0), ..default() }, "--cpus", "positive"),
            (ResourceOptions { cpus: Some(4.5), ..default() }, "--cpus", "has 4"),
            (ResourceOptions { cpus: Some(0.001), ..default() }, "--cpus", "0.01"),
            (ResourceOptions { cpus: Some(1.0), cpu_quota: Some(5000), ..default() }, "--cpus", "either"),
            (ResourceOptions { cpu_shares: Some(1), ..default() }, "--cpu-shares", "within"),
            (ResourceOptions { cpu_shares: Some(262_145), ..default() }, "--cpu-shares", "within"),
            (ResourceOptions { cpu_quota: Some(999), ..default() }, "--cpu-quota", "1000"),
            (ResourceOptions { cpu_quota: Some(-2), ..default() }, "--cpu-quota", "1000"),
            (ResourceOptions { cpu_period: Some(999), ..default() }, "--cpu-period", "within"),
            (ResourceOptions { cpu_period: Some(1_000_001), ..default() }, "--cpu-period", "within"),
            (ResourceOptions { cpuset_cpus: Some("0-4".into()), ..default() }, "--cpuset-cpus", "no CPU 4"),
            (ResourceOptions { cpuset_cpus: Some("x".into()), ..default() }, "--cpuset-cpus", "list"),
            (ResourceOptions { cpuset_mems: Some("1".into()), ..default() }, "--cpuset-mems", "no memory node 1"),
            (ResourceOptions { pids_limit: Some(-2), ..default() }, "--pids-limit", "negative"),
            (ResourceOptions { blkio_weight: Some(9), ..default() }, "--blkio-weight", "within"),
            (ResourceOptions { blkio_weight: Some(1001), ..default() }, "--blkio-weight", "within"),
            (ResourceOptions { device_read_bps: device("/dev/fuse"), ..default() }, "--device-read-bps", "not a block"),
            (ResourceOptions { device_write_bps: device("/dev/no"), ..default() }, "--device-write-bps", "looked up"),
            (ResourceOptions { device_write_bps: device("vda"), ..default() }, "--device-write-bps", "absolute"),
            (
                ResourceOptions { device_read_iops: vec![("/dev/vda".into(), 0)], ..default() },
                "--device-read-iops",
                "is 0",
            ),
            (
                ResourceOptions { device_write_iops: vec![("/dev/vda".into(), 1); 2], ..default() },
                "--device-write-iops",
                "twice",
            ),
        ] {
            let error = merged(&options).expect_err(field);
            assert!(error.starts_with(field) && error.contains(part), "{error} should name {field} and `{part}`");
        }
    }

    #[test]
    fn edges_are_inside() {
        let default = ResourceOptions::default;
        for options in [
            ResourceOptions { memory: mib(6), memory_swap: Some(6 << 20), memory_reservation: mib(6), ..default() },
            ResourceOptions { cpus: Some(4.0), ..default() },
            ResourceOptions { cpus: Some(0.01), ..default() },
            ResourceOptions { cpu_shares: Some(2), cpu_quota: Some(-1), cpu_period: Some(1000), ..default() },
            ResourceOptions { pids_limit: Some(-1), blkio_weight: Some(10), ..default() },
        ] {
            assert!(merged(&options).is_ok(), "{options:?}");
        }
        let unlimited = merged(&ResourceOptions { pids_limit: Some(0), ..default() }).unwrap();
        assert_eq!(unlimited.pids().map(|pids| pids.limit()), Some(-1));
    }

    #[test]
    fn a_later_throttle_replaces_the_earlier() {
        let one = |rate| ResourceOptions { device_read_iops: vec![("/dev/vda".into(), rate)], ..Default::default() };
        let changed = over(merged(&one(1)).unwrap(), &one(2)).unwrap();
        let all = changed.block_io().clone().unwrap().throttle_read_iops_device().clone().unwrap();
        assert_eq!(all.iter().map(LinuxThrottleDevice::rate).collect::<Vec<_>>(), [2]);
        let lifted = over(changed, &one(0)).unwrap();
        let all = lifted.block_io().clone().unwrap().throttle_read_iops_device().clone().unwrap();
        assert_eq!(all.iter().map(LinuxThrottleDevice::rate).collect::<Vec<_>>(), [0], "the kernel is to be told");
    }
}
