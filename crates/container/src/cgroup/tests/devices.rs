//! Devices, opened for real.

use super::*;
use crate::sys::bpf;
use rustix::fd::AsFd;

/// `full` is among the usual devices, `kmsg` is not, and both can be opened for reading by root.
fn opens(cgroup: &Cgroup, device: &str) -> bool {
    let output = run(cgroup, &format!("exec 3</dev/{device} && echo opened"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.success(), said.contains("opened"), "{said}");
    assert!(said.contains("opened") || said.contains("not permitted"), "{said}");
    said.contains("opened")
}

#[test]
fn devices_are_denied_unless_allowed() {
    for host in hosts() {
        let scope = Scope::on(host);
        let cgroup = scope.create("a", &nothing()).unwrap();
        assert!(opens(&cgroup, "full") && opens(&cgroup, "null") && !opens(&cgroup, "kmsg"));
        cgroup.update(&devices(vec![device(true, 1, 11, "r")]), &Extras::default()).unwrap();
        assert!(opens(&cgroup, "full") && opens(&cgroup, "kmsg"));
        cgroup.update(&devices(vec![device(true, 1, 3, "rw")]), &Extras { usual_devices: false }).unwrap();
        assert!(opens(&cgroup, "null") && !opens(&cgroup, "full") && !opens(&cgroup, "kmsg"));
        let everything = LinuxDeviceCgroupBuilder::default().allow(true).access("rwm").build().unwrap();
        cgroup.update(&devices(vec![everything]), &Extras::default()).unwrap();
        assert!(opens(&cgroup, "full") && opens(&cgroup, "kmsg"));
        cgroup.update(&devices(everything_and(device(false, 1, 11, "r"))), &Extras { usual_devices: false }).unwrap();
        assert!(opens(&cgroup, "full") && !opens(&cgroup, "kmsg"));
        if let Some(directory) = cgroup.unified().filter(|_| scope.host.mode() == Mode::V2) {
            assert_eq!(bpf::device_programs(directory.as_fd()).unwrap().len(), 1, "the former ones are gone");
        }
        let whole = scope.create("whole", &devices(everything_and(device(true, 1, 1, "r")))).unwrap();
        assert!(opens(&whole, "kmsg"));
    }
}
fn everything_and(rule: oci_spec::runtime::LinuxDeviceCgroup) -> Vec<oci_spec::runtime::LinuxDeviceCgroup> {
    vec![LinuxDeviceCgroupBuilder::default().allow(true).access("rwm").build().unwrap(), rule]
}

#[test]
fn the_verifiers_words_are_kept() {
    // Reads a register that was never written.
    let (error, log) =
        bpf::load_device_program(&[u64::from_ne_bytes([0xbf, 0x50, 0, 0, 0, 0, 0, 0]), 0x95]).unwrap_err();
    assert_eq!(error, Errno::ACCESS);
    assert!(log.contains("R5 !read_ok"), "{log}");
}

#[test]
fn a_group_below_gets_no_more_than_the_one_above() {
    for host in hosts() {
        let scope = Scope::on(host);
        scope.create("a", &nothing()).unwrap();
        match scope.create("a/b", &devices(vec![device(true, 1, 11, "r")])) {
            Ok(cgroup) => assert!(!opens(&cgroup, "kmsg") && opens(&cgroup, "full")),
            Err(error) => {
                let error = text(&error);
                assert!(error.starts_with("devices: the kernel refused `c 1:11 r` for /"), "{error}");
                assert!(error.contains("the group above may not use it"), "{error}");
            }
        }
        let cgroup = scope.create("a/c", &nothing()).unwrap();
        assert!(!opens(&cgroup, "kmsg") && opens(&cgroup, "full"));
        let result = cgroup.update(&devices(vec![device(true, 1, 11, "r")]), &Extras { usual_devices: false });
        assert_eq!(result.is_err(), scope.host.has_controller("devices"));
        if result.is_err() {
            assert!(opens(&cgroup, "full"), "the former rules are in force again");
        }
    }
}
