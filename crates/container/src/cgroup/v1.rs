//! Settings of the legacy hierarchies.

use super::{
    CgroupError,
    limits::{Amount, Current, Groups},
    setting::Setting,
};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxThrottleDevice};

/// Limit and limit with swap are checked by the kernel against each other. `kernel` is not looked at: kernel memory has
/// been part of `limit` since 5.4.
pub(super) fn memory(memory: &LinuxMemory, current: Current<'_>) -> Result<Groups, CgroupError> {
    let bytes = |field: &'static str, file: &str, amount: Option<Amount>| {
        amount.map(|amount| {
            Setting::new("memory", field, file, amount.text("-1")).default_when(amount == Amount::Unlimited)
        })
    };
    let limit = Amount::parse("memory.limit", memory.limit())?;
    let asked = Amount::parse("memory.swap", memory.swap())?;
    check_swap(limit, asked, current.is_none())?;
    // No limit on memory means none on memory and swap together.
    let swap = asked.or(limit.filter(|limit| *limit == Amount::Unlimited));
    let mut both: Vec<_> = bytes("memory.limit", "memory.limit_in_bytes", limit).into_iter().collect();
    both.extend(
        bytes("memory.swap", "memory.memsw.limit_in_bytes", swap)
            .map(|setting| setting.needs("swap accounting").optional_when(asked.is_none())),
    );
    let mut groups = vec![both];
    let reservation = Amount::parse("memory.reservation", memory.reservation())?;
    groups.push(bytes("memory.reservation", "memory.soft_limit_in_bytes", reservation).into_iter().collect());
    let tcp = Amount::parse("memory.kernelTCP", memory.kernel_tcp())?;
    groups.push(bytes("memory.kernelTCP", "memory.kmem.tcp.limit_in_bytes", tcp).into_iter().collect());
    if let Some(swappiness) = memory.swappiness() {
        groups.push(vec![Setting::new("memory", "memory.swappiness", "memory.swappiness", swappiness)]);
    }
    if let Some(disable) = memory.disable_oom_killer() {
        let setting = Setting::new("memory", "memory.disableOOMKiller", "memory.oom_control", u8::from(disable));
        groups.push(vec![setting.second_word().default_when(!disable)]);
    }
    if memory.use_hierarchy() == Some(false) {
        let reason = "no kernel since 5.11 can count a group without the ones below it; leave it out";
        return Err(CgroupError::setting("memory.useHierarchy", reason));
    }
    Ok(groups)
}

/// What can be said about swap before the kernel is asked.
pub(super) fn check_swap(limit: Option<Amount>, swap: Option<Amount>, creating: bool) -> Result<(), CgroupError> {
    let reason = match (limit, swap) {
        (Some(Amount::Of(limit)), Some(Amount::Of(swap))) if swap < limit => {
            format!("is memory plus swap, so {swap} must not be below memory.limit ({limit})")
        }
        (None | Some(Amount::Unlimited), Some(Amount::Of(_))) if creating || limit.is_some() => {
            "is memory plus swap and needs memory.limit".to_owned()
        }
        _ => return Ok(()),
    };
    Err(CgroupError::setting("memory.swap", reason))
}

pub(super) fn cpu(cpu: &LinuxCpu) -> Groups {
    let mut bandwidth = Vec::new();
    if let Some(period) = cpu.period().filter(|period| *period != 0) {
        let setting = Setting::new("cpu", "cpu.period", "cpu.cfs_period_us", period).needs("CPU bandwidth control");
        bandwidth.push(setting.default_when(period == 100_000));
    }
    if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
        let setting =
            Setting::new("cpu", "cpu.quota", "cpu.cfs_quota_us", quota.max(-1)).needs("CPU bandwidth control");
        bandwidth.push(setting.default_when(quota < 0));
    }
    if let Some(burst) = cpu.burst() {
        let setting = Setting::new("cpu", "cpu.burst", "cpu.cfs_burst_us", burst).needs("CPU bursts");
        bandwidth.push(setting.default_when(burst == 0));
    }
    let mut groups = vec![bandwidth];
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        groups.push(vec![Setting::new("cpu", "cpu.shares", "cpu.shares", shares).default_when(shares == 1024)]);
    }
    if let Some(idle) = cpu.idle() {
        groups
            .push(vec![Setting::new("cpu", "cpu.idle", "cpu.idle", idle).needs("idle groups").default_when(idle == 0)]);
    }
    let mut realtime = Vec::new();
    if let Some(period) = cpu.realtime_period().filter(|period| *period != 0) {
        realtime.push(
            Setting::new("cpu", "cpu.realtimePeriod", "cpu.rt_period_us", period).needs("real-time group scheduling"),
        );
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
        realtime.push(
            Setting::new("cpu", "cpu.realtimeRuntime", "cpu.rt_runtime_us", runtime)
                .needs("real-time group scheduling"),
        );
    }
    groups.push(realtime);
    groups
}

/// Weights are BFQ's on kernels since 5.0, CFQ's before.
pub(super) fn block_io(io: &LinuxBlockIo) -> Groups {
    const SCHEDULER: &str = "block IO weights: its disks need the BFQ scheduler";
    let mut groups = Groups::new();
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        let setting = Setting::new("blkio", "blockIO.weight", "blkio.bfq.weight", weight).or("blkio.weight", weight);
        groups.push(vec![setting.needs(SCHEDULER)]);
    }
    if let Some(weight) = io.leaf_weight().filter(|weight| *weight != 0) {
        let setting = Setting::new("blkio", "blockIO.leafWeight", "blkio.leaf_weight", weight);
        groups.push(vec![setting.needs("leaf weights: they ended with the CFQ scheduler in 5.0")]);
    }
    for device in io.weight_device().iter().flatten() {
        let key = format!("{}:{}", device.major(), device.minor());
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            let value = format!("{key} {weight}");
            let setting =
                Setting::new("blkio", format!("blockIO.weightDevice[{key}]"), "blkio.bfq.weight_device", &value)
                    .or("blkio.weight_device", &value)
                    .line(&key, format!("{key} default"));
            groups.push(vec![setting.needs(SCHEDULER)]);
        }
        if let Some(weight) = device.leaf_weight().filter(|weight| *weight != 0) {
            let field = format!("blockIO.weightDevice[{key}].leafWeight");
            let setting = Setting::new("blkio", field, "blkio.leaf_weight_device", format!("{key} {weight}"))
                .line(&key, format!("{key} 0"));
            groups.push(vec![setting.needs("leaf weights: they ended with the CFQ scheduler in 5.0")]);
        }
    }
    type Throttle<'a> = (&'a str, &'a str, &'a Option<Vec<LinuxThrottleDevice>>);
    let throttles: [Throttle<'_>; 4] = [
        ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", io.throttle_read_bps_device()),
        ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", io.throttle_write_bps_device()),
        ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", io.throttle_read_iops_device()),
        ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", io.throttle_write_iops_device()),
    ];
    for (field, file, devices) in throttles {
        for device in devices.iter().flatten() {
            let key = format!("{}:{}", device.major(), device.minor());
            let setting =
                Setting::new("blkio", format!("blockIO.{field}[{key}]"), file, format!("{key} {}", device.rate()))
                    .line(&key, format!("{key} 0"));
            groups.push(vec![setting.needs("block IO throttling")]);
        }
    }
    groups
}

/// The reservation is limited as well where the kernel can (since 5.7): else pages reserved but not touched would not
/// count, and touching them beyond the limit would be SIGBUS.
pub(super) fn huge_pages(field: &str, size: &str, limit: Amount) -> Groups {
    let setting = |file: String| {
        Setting::new("hugetlb", field, file, limit.text("-1"))
            .needs("huge pages of this size")
            .default_when(limit == Amount::Unlimited)
    };
    vec![
        vec![setting(format!("hugetlb.{size}.limit_in_bytes"))],
        vec![setting(format!("hugetlb.{size}.rsvd.limit_in_bytes")).optional_when(true)],
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{LinuxBlockIoBuilder, LinuxCpuBuilder, LinuxMemoryBuilder, LinuxThrottleDeviceBuilder};

    fn writes(groups: &Groups) -> Vec<String> {
        groups.iter().flatten().map(|setting| format!("{}={}", setting.tries[0].0, setting.tries[0].1)).collect()
    }

    #[test]
    fn memory_with_swap() {
        let both = LinuxMemoryBuilder::default().limit(64 << 20).swap(128 << 20).reservation(32 << 20).build().unwrap();
        let groups = memory(&both, None).unwrap();
        assert_eq!(
            writes(&groups),
            [
                "memory.limit_in_bytes=67108864",
                "memory.memsw.limit_in_bytes=134217728",
                "memory.soft_limit_in_bytes=33554432"
            ]
        );
        assert_eq!(groups[0].len(), 2, "these two are checked against each other");
        let free = memory(&LinuxMemoryBuilder::default().limit(-1).build().unwrap(), None).unwrap();
        assert_eq!(writes(&free), ["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"]);
        assert!(free.iter().flatten().all(|setting| setting.is_default) && free[0][1].optional);
    }

    #[test]
    fn bad_memory_is_named() {
        let error = |builder: LinuxMemoryBuilder| memory(&builder.build().unwrap(), None).unwrap_err().to_string();
        let of = LinuxMemoryBuilder::default;
        assert_eq!(
            error(of().limit(100).swap(99)),
            "memory.swap: is memory plus swap, so 99 must not be below memory.limit (100)"
        );
        assert_eq!(error(of().swap(99)), "memory.swap: is memory plus swap and needs memory.limit");
        assert!(error(of().limit(-5)).starts_with("memory.limit: -5"));
        assert!(error(of().use_hierarchy(false)).starts_with("memory.useHierarchy: "));
    }

    #[test]
    fn cpu_and_block_io() {
        let groups = cpu(&LinuxCpuBuilder::default().quota(50_000).period(100_000u64).shares(512u64).build().unwrap());
        assert_eq!(writes(&groups), ["cpu.cfs_period_us=100000", "cpu.cfs_quota_us=50000", "cpu.shares=512"]);
        assert!(groups[0][0].is_default && !groups[0][1].is_default);
        let device = LinuxThrottleDeviceBuilder::default().major(8).minor(0).rate(1024u64).build().unwrap();
        let io = LinuxBlockIoBuilder::default().weight(500u16).throttle_read_bps_device(vec![device]).build().unwrap();
        assert_eq!(writes(&block_io(&io)), ["blkio.bfq.weight=500", "blkio.throttle.read_bps_device=8:0 1024"]);
    }
}
