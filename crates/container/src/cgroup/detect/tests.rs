use super::*;

/// A machine with v1 only, controllers sharing hierarchies, a blank in a path.
const V1: &str = "\
25 30 0:22 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
31 25 0:27 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755
32 31 0:28 / /sys/fs/cgroup/systemd rw,nosuid,nodev,noexec,relatime shared:10 - cgroup cgroup rw,xattr,release_agent=/lib/systemd/systemd-cgroups-agent,name=systemd
35 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid,nodev,noexec,relatime shared:14 - cgroup cgroup rw,cpu,cpuacct
36 31 0:32 / /sys/fs/cgroup/net_cls,net_prio rw,nosuid,nodev,noexec,relatime shared:15 - cgroup cgroup rw,net_cls,net_prio
37 31 0:33 / /sys/fs/cgroup/memory rw,nosuid,nodev,noexec,relatime shared:16 - cgroup cgroup rw,memory
99 30 0:33 / /srv/my\\040groups rw,relatime - cgroup cgroup rw,memory
";
const V1_SELF: &str = "\
5:net_cls,net_prio:/
4:memory:/user.slice
3:cpu,cpuacct:/user.slice
2:pids:/user.slice
1:name=systemd:/user.slice/session-1.scope
";
const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
/// systemd's hybrid: the unified tree beside named and v1 ones, with mount options of its own.
const SYSTEMD_HYBRID: &str = "\
26 22 0:24 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:5 - tmpfs tmpfs ro,size=4096k,nr_inodes=1024,mode=755,inode64
27 26 0:25 / /sys/fs/cgroup/unified rw,nosuid,nodev,noexec,relatime shared:6 - cgroup2 cgroup2 rw,nsdelegate
28 26 0:26 / /sys/fs/cgroup/systemd rw,nosuid,nodev,noexec,relatime shared:7 - cgroup cgroup rw,xattr,name=systemd
31 26 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid,nodev,noexec,relatime shared:10 - cgroup cgroup rw,cpu,cpuacct
";
const V2: &str = "\
29 22 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
";
/// In a container on v1 that shares the host's cgroup namespace: a part of each tree, read-only.
const NESTED: &str = "\
900 899 0:70 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,mode=755
901 900 0:33 /docker/abc /sys/fs/cgroup/memory ro,nosuid,nodev,noexec,relatime master:16 - cgroup cgroup rw,memory
902 900 0:28 /docker/abc /sys/fs/cgroup/systemd ro,nosuid,nodev,noexec,relatime master:10 - cgroup cgroup rw,xattr,name=systemd
";

fn found(mountinfo: &str, cgroup: &str) -> Vec<Vec<Mounted>> {
    candidates(mountinfo, &legacy_controllers(cgroup))
}
fn names(mounted: &Mounted) -> Vec<&str> {
    mounted.controllers.iter().map(String::as_str).collect()
}

#[test]
fn shared_and_named_v1_hierarchies() {
    let found = found(V1, V1_SELF);
    assert_eq!(found.len(), 4);
    assert_eq!((found[0][0].name.as_deref(), found[0][0].controllers.len()), (Some("systemd"), 0));
    assert_eq!(names(&found[1][0]), ["cpu", "cpuacct"]);
    assert_eq!(names(&found[2][0]), ["net_cls", "net_prio"]);
    assert!(found.iter().flatten().all(|mounted| mounted.version == Version::V1));
}

#[test]
fn of_several_mounts_the_standard_place_wins_and_of_two_there_the_upper() {
    let memory = &found(V1, V1_SELF)[3];
    assert_eq!(memory[0].point, Path::new("/sys/fs/cgroup/memory"));
    assert_eq!(memory[1].point, Path::new("/srv/my groups"), "and escapes are undone");
    let twice = format!("{V1}120 31 0:33 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
    assert_eq!(found(&twice, V1_SELF)[3][0].id, 120);
    let part = format!("{V1}130 31 0:33 /a /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
    assert_eq!(found(&part, V1_SELF)[3][0].id, 37, "the whole tree before a part of it");
}

#[test]
fn hybrid_and_unified() {
    let text = "2:memory:/\n1:name=systemd:/\n0::/\n";
    let hybrid = found(HYBRID, text);
    let versions: Vec<_> = hybrid.iter().map(|mounted| mounted[0].version).collect();
    assert_eq!(versions, [Version::V1, Version::V1, Version::V2]);
    let systemd = found(SYSTEMD_HYBRID, "3:cpu,cpuacct:/\n1:name=systemd:/init.scope\n0::/init.scope\n");
    assert_eq!((systemd.len(), systemd[0][0].version), (3, Version::V2));
    assert_eq!(systemd[0][0].point, Path::new("/sys/fs/cgroup/unified"));
    let unified = found(V2, "0::/user.slice\n");
    assert_eq!((unified.len(), unified[0][0].version, unified[0][0].controllers.len()), (1, Version::V2, 0));
}

#[test]
fn what_is_no_hierarchy_is_passed_over() {
    assert!(found("", "").is_empty());
    assert!(found("25 30 0:22 / /sys rw - sysfs sysfs rw\nrubbish\n1 2\n - cgroup x y\n", "").is_empty());
}

#[test]
fn groups_are_below_the_root_of_the_mount() {
    let memory = ["memory".to_owned()];
    let group = |text, root| find_group(text, Version::V1, &memory, None, root);
    assert_eq!(group("4:memory:/jdos/abc\n", "/"), Some("jdos/abc"));
    assert_eq!(group("4:memory:/\n", "/"), Some(""));
    assert_eq!(group("4:cpu,memory:/jdos/a:b\n", "/"), Some("jdos/a:b"));
    let nested = &found(NESTED, "4:memory:/docker/abc\n1:name=systemd:/docker/abc\n")[0][0];
    assert_eq!((nested.root.as_str(), nested.point.to_str()), ("/docker/abc", Some("/sys/fs/cgroup/memory")));
    assert_eq!(group("4:memory:/docker/abc/jdos/x\n", &nested.root), Some("jdos/x"));
    assert_eq!(group("4:memory:/docker/abc\n", &nested.root), Some(""));
    assert_eq!(group("4:memory:/docker/abcdef\n", &nested.root), None);
    assert_eq!(group("4:cpu:/jdos/abc\n", "/"), None);
    let text = "5:name=systemd:/a\n0::/b\n";
    assert_eq!(find_group(text, Version::V2, &[], None, "/"), Some("b"));
    assert_eq!(find_group(text, Version::V1, &[], Some("systemd"), "/"), Some("a"));
    assert_eq!(find_group(text, Version::V1, &[], Some("elogind"), "/"), None);
}
