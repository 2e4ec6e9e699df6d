//! Root file systems, volumes and memory file systems.

use super::machine::{Machine, make_root};
use std::{fs, os::unix::fs::MetadataExt, process::Command};

#[test]
fn a_root_is_changed_in_place_and_its_files_are_roots() {
    let machine = Machine::new();
    machine.sh(&[], "echo hello > /made; chown 1000:1001 /home/app").ok();
    let made = fs::metadata(machine.root.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid(), made.len()), (0, 0, 6));
    let home = fs::metadata(machine.root.join("home/app")).unwrap();
    assert_eq!((home.uid(), home.gid()), (1000, 1001));
}

#[test]
fn a_read_only_root_can_not_be_written() {
    let machine = Machine::new();
    let outcome = machine.sh(&["--read-only"], "touch /made || touch /tmp/made || mount -o remount,rw / || exit 7");
    outcome.code(7).says(&["Read-only file system"]);
    assert!(!machine.root.join("made").exists());
    assert_eq!(
        machine.sh(&["--read-only", "--tmpfs", "/tmp"], "touch /tmp/made && touch /dev/shm/x && echo ok").ok(),
        "ok"
    );
}

#[test]
fn volumes_are_written_as_the_hosts_users_and_read_only_ones_are_not() {
    let machine = Machine::new();
    machine.file("shared/given", "text");
    let shared = machine.path("shared");
    let volume = format!("{}:/mnt/shared", shared.display());
    assert_eq!(machine.sh(&["-v", &volume], "cat /mnt/shared/given; echo x > /mnt/shared/new").ok(), "text");
    let new = fs::metadata(shared.join("new")).unwrap();
    assert_eq!((new.uid(), new.gid()), (0, 0), "root inside is root on the host's files");
    fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    machine.sh(&["-u", "app", "-v", &volume], "echo y > /mnt/shared/apps").ok();
    assert_eq!(fs::metadata(shared.join("apps")).unwrap().uid(), 1000);
    let fixed = format!("{volume}:ro");
    machine.sh(&["-v", &fixed], "cat /mnt/shared/given && ! touch /mnt/shared/more").code(0).says(&["Read-only"]);
    assert!(!shared.join("more").exists());
}

#[test]
fn a_named_volume_outlives_its_containers() {
    let machine = Machine::new();
    machine.sh(&["-v", "store:/store"], "echo kept > /store/file").ok();
    assert_eq!(machine.run(&["-v", "store:/store"], &["cat", "/store/file"]).ok(), "kept");
}

#[test]
fn a_new_volume_has_what_the_image_has_there() {
    let machine = Machine::new();
    let image = machine.root.join("srv/data");
    fs::create_dir_all(&image).unwrap();
    fs::write(image.join("fact"), "image").unwrap();
    for (path, id) in [(&image, 1000), (&image.join("fact"), 1001)] {
        std::os::unix::fs::chown(path, Some(id), Some(id)).unwrap();
    }
    let show = "stat -c %u:%g /srv/data /srv/data/fact; cat /srv/data/fact";
    // Whoever looks, with users of its own or the host's, sees the same owners.
    for flags in [&[][..], &["--userns", "host"], &["--userns", "private"]] {
        let text = machine.sh(&[flags, &["-v", "store:/srv/data"]].concat(), show).ok();
        assert_eq!(text, "1000:1000\n1001:1001\nimage", "{flags:?}");
    }
    machine.sh(&["-v", "store:/srv/data"], "echo changed > /srv/data/fact").ok();
    assert_eq!(machine.run(&["-v", "store:/srv/data"], &["cat", "/srv/data/fact"]).ok(), "changed");
    assert_eq!(fs::read_to_string(image.join("fact")).unwrap(), "image");
    assert_eq!(machine.run(&["-v", "other:/srv/data:nocopy"], &["ls", "/srv/data"]).ok(), "");
    let layered = ["--layer", machine.root.to_str().unwrap(), "-v", "third:/srv/data"];
    assert_eq!(machine.sh(&layered, show).ok(), "1000:1000\n1001:1001\nimage");
    let left: Vec<_> =
        fs::read_dir(machine.path("data/volumes")).unwrap().map(|one| one.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn a_volume_of_its_own_goes_with_the_container_or_when_it_is_told_to() {
    let machine = Machine::new();
    let volumes = || fs::read_dir(machine.path("data/volumes")).unwrap().count();
    let root = machine.root.to_str().unwrap();
    let create = |name: &str| machine.ok(&["create", "--name", name, "-v", "/own", "--rootfs", root, "true"]);
    assert_eq!(machine.sh(&["-v", "/own"], "echo x > /own/file; cat /own/file").ok(), "x");
    assert_eq!(volumes(), 0, "it went with what was to be removed at its end");
    create("kept");
    machine.ok(&["rm", "kept"]);
    assert_eq!(volumes(), 1, "nobody said that what is in it may go");
    create("gone");
    machine.ok(&["rm", "--volumes", "gone"]);
    create("replaced");
    machine.ok(&["create", "--replace", "--name", "replaced", "--rootfs", root, "true"]);
    machine.jdos(&["run", "--network", "none", "-v", "/own", "--rootfs", root, "/no/such/program"]).code(127);
    assert_eq!(volumes(), 1);
    machine.ok(&["rm", "replaced"]);
}

#[test]
fn volumes_of_a_creation_that_was_cut_off_are_swept() {
    let machine = Machine::new();
    let root = machine.root.to_str().unwrap();
    let id = machine.ok(&["create", "-v", "/own", "-v", "named:/named", "--rootfs", root, "true"]);
    let volumes = || fs::read_dir(machine.path("data/volumes")).unwrap().count();
    assert_eq!(volumes(), 2);
    // As it is just before there is a record.
    let folder = machine.path("data/containers").join(&id);
    let record: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("record.json")).unwrap()).unwrap();
    fs::write(folder.join("own-volumes"), record["own_volumes"][0].as_str().unwrap()).unwrap();
    fs::remove_file(folder.join("record.json")).unwrap();
    machine.ok(&["reconcile"]);
    assert!(!folder.exists());
    assert_eq!(volumes(), 1, "the named one is whole, and may be in use elsewhere");
}

#[test]
fn a_volume_is_given_to_the_user_of_the_container() {
    let machine = Machine::new();
    machine.file("victim", "host");
    let shared = machine.file("shared/below/file", "text").parent().unwrap().parent().unwrap().to_owned();
    std::os::unix::fs::symlink(machine.path("victim"), shared.join("link")).unwrap();
    let volume = format!("{}:/mnt:U", shared.display());
    let show = "stat -c %u:%g /mnt /mnt/below /mnt/below/file /mnt/link; echo x >> /mnt/below/file";
    for (flags, owner) in [
        (&["-u", "app"][..], "1000:1001"),
        (&["-u", "app:logs", "--userns", "host"], "1000:1002"),
        (&["-u", "7"], "7:0"),
        (&[], "0:0"),
    ] {
        let text = machine.sh(&[flags, &["-v", &volume]].concat(), show).ok();
        assert_eq!(text, [owner; 4].join("\n"), "{flags:?}");
    }
    let layered = ["--layer", machine.root.to_str().unwrap(), "-u", "app", "-v", "store:/home/app:U"];
    assert_eq!(machine.sh(&layered, "stat -c %u:%g /home/app; touch /home/app/mine").ok(), "1000:1001");
    assert_eq!(fs::metadata(machine.path("victim")).unwrap().uid(), 0);
    machine.run(&["-v", "/usr:/mnt:U"], &["true"]).code(125).says(&["/usr", "host's own"]);
    machine.run(&["-u", "ghost", "-v", &volume], &["true"]).code(125).says(&["ghost"]);
}

#[test]
fn a_tar_file_becomes_a_root_of_its_own() {
    let machine = Machine::new();
    let tar = machine.path("root.tar");
    let made = Command::new("tar").arg("-C").arg(&machine.root).arg("-cf").arg(&tar).arg(".").output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let words =
        ["run", "--rm", "--network", "none", "--rootfs", tar.to_str().unwrap(), "sh", "-c", "touch /new; id -u"];
    assert_eq!(machine.ok(&words), "0");
    assert!(!machine.root.join("new").exists());
}

#[test]
fn a_volume_over_a_file_and_one_inside_another() {
    let machine = Machine::new();
    let file = machine.file("shared/file", "text");
    machine.file("inner/more", "deep");
    let (one, two, three) = (
        format!("{}:/etc/given", file.display()),
        format!("{}:/mnt/a", machine.path("shared").display()),
        format!("{}:/mnt/a/b", machine.path("inner").display()),
    );
    // The deeper one comes later, in whatever order they are given.
    let flags = ["-v", &three, "-v", &one, "-v", &two];
    assert_eq!(machine.sh(&flags, "cat /etc/given /mnt/a/file /mnt/a/b/more").ok(), "texttextdeep");
}

#[test]
fn layers_stay_as_they_are() {
    let machine = Machine::new();
    let (lower, upper) = (machine.path("lower"), machine.path("upper"));
    make_root(&lower);
    fs::write(lower.join("etc/fact"), "below").unwrap();
    fs::create_dir_all(upper.join("etc")).unwrap();
    fs::write(upper.join("etc/fact"), "above").unwrap();
    let flags = ["--layer", lower.to_str().unwrap(), "--layer", upper.to_str().unwrap()];
    let script = "cat /etc/fact; echo x > /etc/fact; rm /etc/passwd; touch /new; cat /etc/fact";
    assert_eq!(machine.sh(&flags, script).ok(), "abovex");
    assert_eq!(fs::read_to_string(upper.join("etc/fact")).unwrap(), "above");
    assert!(lower.join("etc/passwd").exists() && !lower.join("new").exists() && !upper.join("new").exists());
    assert_eq!(
        machine.sh(&flags, "cat /etc/fact; ls /new 2>&1 | grep -c 'No such'").ok(),
        "above1",
        "nothing is shared"
    );
}

/// A shim that is killed while it mounts the layers leaves the place that it mounts them at.
#[test]
fn what_a_killed_shim_leaves_of_layers_is_cleared_away() {
    let machine = Machine::new();
    let lower = machine.path("lower");
    make_root(&lower);
    machine.jdos(&["create", "--name", "one", "--layer", lower.to_str().unwrap(), "true"]).ok();
    let id = machine.inspect("one")["id"].as_str().unwrap().to_owned();
    let left = machine.path("run").join("containers").join(&id).join("root");
    fs::create_dir_all(&left).unwrap();
    machine.jdos(&["rm", "one"]).ok();
    assert!(!left.exists());
}

#[test]
fn memory_file_systems_have_the_size_asked_for() {
    let machine = Machine::new();
    let script = "df -k /scratch /dev/shm | awk 'NR > 1 { print $2 }'; dd if=/dev/zero of=/scratch/x bs=1k count=2000";
    let outcome = machine.sh(&["--tmpfs", "/scratch:size=1m", "--shm-size", "2m"], script);
    assert_eq!(outcome.stdout, "1024\n2048\n");
    outcome.code(1).says(&["No space left"]);
}

#[test]
fn mount_points_are_not_followed_out_of_the_root() {
    let machine = Machine::new();
    machine.file("victim/secret", "host");
    machine.file("given/fact", "mounted");
    // As seen from the host it leads out; inside it leads to a path of the container (CVE-2021-30465).
    std::os::unix::fs::symlink(machine.path("victim"), machine.root.join("link")).unwrap();
    std::os::unix::fs::symlink("../../../../../../../../etc", machine.root.join("up")).unwrap();
    let volume = format!("{}:/link", machine.path("given").display());
    let up = format!("{}:/up/inner", machine.path("given").display());
    for volume in [volume, up] {
        let outcome = machine.sh(&["-v", &volume], "cat /link/fact /up/inner/fact 2>/dev/null");
        assert!(outcome.stdout == "mounted" || outcome.code == 125, "{outcome:?}");
    }
    let names: Vec<_> = fs::read_dir(machine.path("victim")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["secret"]);
    assert!(!std::path::Path::new("/etc/inner").exists());
}

/// What is mounted below a folder of the host is bound with it, and is as read-only as it.
#[test]
fn read_only_goes_all_the_way_down() {
    let machine = Machine::new();
    let nested = machine.path("shared/disk");
    fs::create_dir_all(&nested).unwrap();
    let nested = nested.to_str().unwrap();
    assert!(Command::new("mount").args(["-t", "tmpfs", "none", nested]).status().unwrap().success());
    let volume = format!("{}:/shared:ro", machine.path("shared").display());
    let outcome = machine.sh(&["-v", &volume], "touch /shared/x || touch /shared/disk/x || exit 7");
    let writable = format!("{}:/shared", machine.path("shared").display());
    let written =
        machine.sh(&["-v", &writable], "touch /shared/disk/y && grep -c '/shared/disk .*nosuid,nodev' /proc/mounts");
    assert!(Command::new("umount").arg(nested).status().unwrap().success());
    outcome.code(7);
    assert_eq!(written.ok(), "1");
}

/// As the roots of several distributions have it.
#[test]
fn a_resolv_conf_that_is_a_link_to_nothing_is_made_where_it_points_to() {
    let machine = Machine::new();
    fs::create_dir_all(machine.root.join("etc")).unwrap();
    let link = machine.root.join("etc/resolv.conf");
    drop(fs::remove_file(&link));
    std::os::unix::fs::symlink("../run/systemd/resolve/stub-resolv.conf", link).unwrap();
    let seen = machine.sh(&["--dns", "192.0.2.7"], "cat /etc/resolv.conf /run/systemd/resolve/stub-resolv.conf").ok();
    assert_eq!(seen.matches("192.0.2.7").count(), 2, "{seen}");
}

#[test]
fn the_hosts_proc_can_be_mounted() {
    let machine = Machine::new();
    machine.run(&["-v", "/proc:/proc", "--network", "bridge"], &["true"]).ok();
    machine.run(&["--pid", "host", "--network", "bridge"], &["true"]).ok();
}
