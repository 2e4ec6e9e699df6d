//! Settings of the unified hierarchy.

use super::{
    CgroupError,
    limits::{Amount, Current, Groups},
    setting::Setting,
    v1,
};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxThrottleDevice};
use std::collections::BTreeMap;

/// What the unified hierarchy can not express.
fn only_v1(field: &str) -> CgroupError {
    CgroupError::setting(field, "exists with control groups v1 only, and this machine has v2; leave it out")
}

/// Swap is written before memory: where both are raised it gives room, and it never hinders. `memory.oom.group` is left
/// alone: the kernel picks one process, as with v1 and Docker.
pub(super) fn memory(memory: &LinuxMemory, current: Current<'_>) -> Result<Groups, CgroupError> {
    let given = [
        ("memory.kernelTCP", memory.kernel_tcp().is_some_and(|limit| limit > 0)),
        ("memory.swappiness", memory.swappiness().is_some()),
        ("memory.disableOOMKiller", memory.disable_oom_killer() == Some(true)),
        ("memory.useHierarchy", memory.use_hierarchy() == Some(false)),
    ];
    if let Some((field, _)) = given.iter().find(|(_, given)| *given) {
        return Err(only_v1(field));
    }
    let limit = Amount::parse("memory.limit", memory.limit())?;
    let swap = Amount::parse("memory.swap", memory.swap())?;
    v1::check_swap(limit, swap, current.is_none())?;
    let mut groups = Groups::new();
    let swap_alone = match swap {
        None => limit.filter(|limit| *limit == Amount::Unlimited),
        Some(Amount::Unlimited) => Some(Amount::Unlimited),
        // v2 counts swap apart; OCI gives the sum.
        Some(Amount::Of(sum)) => {
            let limit = match limit {
                Some(Amount::Of(limit)) => Some(limit),
                _ => current.and_then(|read| read("memory", "memory.max")?.trim().parse().ok()),
            };
            let apart = limit.and_then(|limit| sum.checked_sub(limit)).ok_or_else(|| {
                let reason = format!("is memory plus swap and needs a memory.limit that is not above it ({sum})");
                CgroupError::setting("memory.swap", reason)
            })?;
            Some(Amount::Of(apart))
        }
    };
    if let Some(amount) = swap_alone {
        let setting = Setting::new("memory", "memory.swap", "memory.swap.max", amount.text("max"));
        let setting = setting.needs("swap accounting").default_when(amount == Amount::Unlimited);
        groups.push(vec![setting.optional_when(swap.is_none())]);
    }
    if let Some(limit) = limit {
        let setting = Setting::new("memory", "memory.limit", "memory.max", limit.text("max"));
        groups.push(vec![setting.default_when(limit == Amount::Unlimited)]);
    }
    match Amount::parse("memory.reservation", memory.reservation())? {
        None => {}
        Some(Amount::Unlimited) => {
            groups.push(vec![Setting::new("memory", "memory.reservation", "memory.low", 0).default_when(true)]);
        }
        Some(Amount::Of(bytes)) => groups.push(vec![Setting::new("memory", "memory.reservation", "memory.low", bytes)]),
    }
    Ok(groups)
}

/// Weight 1 to 10000 from shares 2 to 262144, in the straight line that runc and crun had for years and Kubernetes' sums
/// rest on. (Their latest versions bend it so that 1024 becomes 100. What counts is how containers relate to each other,
/// and that they do so the same way beside those of the runtimes in use.)
pub(super) fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

pub(super) fn cpu(cpu: &LinuxCpu, current: Current<'_>) -> Result<Groups, CgroupError> {
    let real_time = [
        ("cpu.realtimeRuntime", cpu.realtime_runtime().is_some_and(|runtime| runtime != 0)),
        ("cpu.realtimePeriod", cpu.realtime_period().is_some_and(|period| period != 0)),
    ];
    if let Some((field, _)) = real_time.iter().find(|(_, given)| *given) {
        return Err(only_v1(field));
    }
    let mut bandwidth = Vec::new();
    let (quota, period) = (cpu.quota().filter(|quota| *quota != 0), cpu.period().filter(|period| *period != 0));
    if quota.is_some() || period.is_some() {
        let quota = match quota {
            Some(quota) if quota > 0 => quota.to_string(),
            Some(_) => "max".to_owned(),
            // A period alone keeps the quota.
            None => current
                .and_then(|read| read("cpu", "cpu.max"))
                .and_then(|text| text.split_ascii_whitespace().next().map(str::to_owned))
                .unwrap_or_else(|| "max".to_owned()),
        };
        let is_default = quota == "max" && matches!(period, None | Some(100_000));
        let value = period.map_or_else(|| quota.clone(), |period| format!("{quota} {period}"));
        let field = if cpu.quota().is_some() { "cpu.quota" } else { "cpu.period" };
        let setting = Setting::new("cpu", field, "cpu.max", value).needs("CPU bandwidth control");
        bandwidth.push(setting.default_when(is_default));
    }
    if let Some(burst) = cpu.burst() {
        let setting = Setting::new("cpu", "cpu.burst", "cpu.max.burst", burst).needs("CPU bursts");
        bandwidth.push(setting.default_when(burst == 0));
    }
    let mut groups = vec![bandwidth];
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        groups.push(vec![Setting::new("cpu", "cpu.shares", "cpu.weight", weight(shares))]);
    }
    if let Some(idle) = cpu.idle() {
        groups
            .push(vec![Setting::new("cpu", "cpu.idle", "cpu.idle", idle).needs("idle groups").default_when(idle == 0)]);
    }
    Ok(groups)
}

/// `io.weight` goes from 1 to 10000, BFQ's and OCI's weight from 10 to 1000.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).clamp(10, 1000) - 10) * 9999 / 990
}

pub(super) fn block_io(io: &LinuxBlockIo) -> Result<Groups, CgroupError> {
    const SCHEDULER: &str = "block IO weights: its disks need the BFQ scheduler or io.cost";
    let mut groups = Groups::new();
    if io.leaf_weight().is_some_and(|weight| weight != 0) {
        return Err(only_v1("blockIO.leafWeight"));
    }
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        let setting = Setting::new("io", "blockIO.weight", "io.bfq.weight", weight)
            .or("io.weight", io_weight(weight))
            .line("default", "default 100");
        groups.push(vec![setting.needs(SCHEDULER)]);
    }
    for device in io.weight_device().iter().flatten() {
        let key = format!("{}:{}", device.major(), device.minor());
        let field = format!("blockIO.weightDevice[{key}]");
        if device.leaf_weight().is_some_and(|weight| weight != 0) {
            return Err(only_v1(&format!("{field}.leafWeight")));
        }
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            let setting = Setting::new("io", field, "io.bfq.weight", format!("{key} {weight}"))
                .or("io.weight", format!("{key} {}", io_weight(weight)))
                .line(&key, format!("{key} default"));
            groups.push(vec![setting.needs(SCHEDULER)]);
        }
    }
    type Throttle<'a> = (&'a str, &'a Option<Vec<LinuxThrottleDevice>>);
    let throttles: [Throttle<'_>; 4] = [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ];
    let mut devices: BTreeMap<(i64, i64), Vec<String>> = BTreeMap::new();
    for (key, limits) in throttles {
        for limit in limits.iter().flatten() {
            let rate = if limit.rate() == 0 { "max".to_owned() } else { limit.rate().to_string() };
            devices.entry((limit.major(), limit.minor())).or_default().push(format!("{key}={rate}"));
        }
    }
    for ((major, minor), limits) in devices {
        let key = format!("{major}:{minor}");
        let field = format!("blockIO.throttle*Device[{key}]");
        let setting = Setting::new("io", field, "io.max", format!("{key} {}", limits.join(" ")))
            .line(&key, format!("{key} rbps=max wbps=max riops=max wiops=max"));
        groups.push(vec![setting.needs("block IO throttling")]);
    }
    Ok(groups)
}

/// With the reservation where the kernel can, as on v1.
pub(super) fn huge_pages(field: &str, size: &str, limit: Amount) -> Groups {
    let setting = |file: String| {
        Setting::new("hugetlb", field, file, limit.text("max"))
            .needs("huge pages of this size")
            .default_when(limit == Amount::Unlimited)
    };
    vec![
        vec![setting(format!("hugetlb.{size}.max"))],
        vec![setting(format!("hugetlb.{size}.rsvd.max")).optional_when(true)],
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{
        LinuxBlockIoBuilder, LinuxCpuBuilder, LinuxMemoryBuilder, LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder,
    };

    fn writes(groups: &Groups) -> Vec<String> {
        groups.iter().flatten().map(|setting| format!("{}={}", setting.tries[0].0, setting.tries[0].1)).collect()
    }

    #[test]
    fn weights() {
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
        assert_eq!((weight(0), weight(u64::MAX)), (1, 10_000));
        assert_eq!((io_weight(10), io_weight(500), io_weight(1000)), (1, 4950, 10_000));
    }

    #[test]
    fn swap_is_counted_apart() {
        let of = LinuxMemoryBuilder::default;
        let plan = |builder: LinuxMemoryBuilder| memory(&builder.build().unwrap(), None).map(|groups| writes(&groups));
        assert_eq!(
            plan(of().limit(100).swap(250).reservation(50)).unwrap(),
            ["memory.swap.max=150", "memory.max=100", "memory.low=50"]
        );
        assert_eq!(plan(of().limit(100).swap(100)).unwrap()[0], "memory.swap.max=0");
        assert_eq!(plan(of().limit(100).swap(-1)).unwrap()[0], "memory.swap.max=max");
        assert_eq!(plan(of().limit(-1)).unwrap(), ["memory.swap.max=max", "memory.max=max"]);
        assert!(plan(of().limit(100).swap(99)).is_err() && plan(of().swap(99)).is_err());
        let read = |_: &str, file: &str| (file == "memory.max").then(|| "100\n".to_owned());
        let changed = memory(&of().swap(130).build().unwrap(), Some(&read)).unwrap();
        assert_eq!(writes(&changed), ["memory.swap.max=30"]);
        let free = |_: &str, _: &str| Some("max\n".to_owned());
        assert!(memory(&of().swap(130).build().unwrap(), Some(&free)).is_err());
    }

    #[test]
    fn a_period_alone_keeps_the_quota() {
        let of = LinuxCpuBuilder::default;
        let plan =
            |builder: LinuxCpuBuilder, current: Current<'_>| writes(&cpu(&builder.build().unwrap(), current).unwrap());
        assert_eq!(plan(of().quota(50_000), None), ["cpu.max=50000"]);
        assert_eq!(plan(of().quota(50_000).period(20_000u64), None), ["cpu.max=50000 20000"]);
        assert_eq!(plan(of().quota(-1), None), ["cpu.max=max"]);
        assert_eq!(plan(of().period(20_000u64), None), ["cpu.max=max 20000"]);
        let read = |_: &str, _: &str| Some("7000 100000\n".to_owned());
        assert_eq!(plan(of().period(20_000u64), Some(&read)), ["cpu.max=7000 20000"]);
        assert_eq!(plan(of().shares(512u64), None), ["cpu.weight=20"]);
    }

    #[test]
    fn limits_of_one_disk_are_one_line() {
        let throttle =
            |rate: u64| vec![LinuxThrottleDeviceBuilder::default().major(8).minor(16).rate(rate).build().unwrap()];
        let weighted = LinuxWeightDeviceBuilder::default().major(8).minor(0).weight(20u16).build().unwrap();
        let builder = LinuxBlockIoBuilder::default().weight(500u16).weight_device(vec![weighted]);
        let io =
            builder.throttle_read_bps_device(throttle(1024)).throttle_write_iops_device(throttle(0)).build().unwrap();
        let groups = block_io(&io).unwrap();
        assert_eq!(writes(&groups), ["io.bfq.weight=500", "io.bfq.weight=8:0 20", "io.max=8:16 rbps=1024 wiops=max"]);
        assert_eq!(groups[0][0].tries[1], ("io.weight".to_owned(), "4950".to_owned()));
    }

    #[test]
    fn what_only_v1_has_is_named() {
        let error = |builder: LinuxMemoryBuilder| memory(&builder.build().unwrap(), None).unwrap_err().to_string();
        let of = LinuxMemoryBuilder::default;
        assert!(error(of().swappiness(10u64)).starts_with("memory.swappiness: exists with control groups v1 only"));
        assert!(error(of().disable_oom_killer(true)).starts_with("memory.disableOOMKiller: "));
        assert!(memory(&of().disable_oom_killer(false).build().unwrap(), None).is_ok());
        let real_time = LinuxCpuBuilder::default().realtime_runtime(5i64).build().unwrap();
        assert!(cpu(&real_time, None).unwrap_err().to_string().starts_with("cpu.realtimeRuntime: "));
        let leaf = LinuxBlockIoBuilder::default().leaf_weight(5u16).build().unwrap();
        assert!(block_io(&leaf).unwrap_err().to_string().starts_with("blockIO.leafWeight: "));
    }
}
