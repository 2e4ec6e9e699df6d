//! How a container ends, and what is done then.

use super::*;

#[test]
fn codes_and_signals_are_told() {
    for (command, code, signal) in [
        ("exit 0", 0, None),
        ("exit 255", 255, None),
        ("kill -KILL $$", 137, Some(9)),
        ("kill -TERM $$", 143, Some(15)),
    ] {
        let before = jiff::Timestamp::now();
        let mut running = Case::new().more(&["sync=1"]).start(command);
        let exit = running.wait();
        assert_eq!((exit.code, exit.signal, exit.oom, exit.dropped), (Some(code), signal, false, 0), "{command}");
        assert!(exit.finished_at >= before && exit.finished_at <= jiff::Timestamp::now());
        assert!(!running.path("exit.tmp").exists());
        let text = fs::read_to_string(running.path("exit")).unwrap();
        assert!(text.ends_with(" 0 0\n") && text.lines().count() == 1, "{text:?}");
    }
}

#[test]
fn a_kill_for_want_of_memory_is_told() {
    for (text, oom) in [
        ("low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n", true),
        ("low 0\nhigh 0\nmax 12\noom 1\noom_kill 0\noom_group_kill 1\n", false),
        ("oom_kill_disable 0\nunder_oom 0\noom_kill 20\n", true),
        ("oom_kill_disable 1\nunder_oom 1\noom_kill 0\n", false),
        ("", false),
    ] {
        let (case, client) = Case::new().more(&["oom=counts"]).attached();
        fs::write(case.path("counts"), text).unwrap();
        let mut running = case.start("kill -KILL $$");
        assert_eq!(running.wait().oom, oom, "{text}");
        assert_eq!(receive_all(&client).2, Some((9, oom)));
    }
    let mut running = Case::new().more(&["oom=missing"]).start(":");
    assert!(!running.wait().oom);
}

#[test]
fn other_children_are_reaped_and_signals_ignored() {
    let mut case = Case::new().fifo("go");
    case.other = "exit 1";
    let mut running = case.start("read line <go; exit 3");
    let init = eventually("only the command is left", || match running.children()[..] {
        [init] => Some(init),
        _ => None,
    });
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT, Signal::USR1, Signal::PIPE, Signal::ALARM] {
        kill_process(running.pid(), signal).unwrap();
    }
    thread::sleep(Duration::from_millis(50));
    assert_eq!(running.children(), [init]);
    kill_process(Pid::from_raw(init).unwrap(), Signal::TERM).unwrap();
    assert_eq!(running.wait().signal, Some(15));
}

#[test]
fn files_go_and_the_last_program_comes_last() {
    let script = "test -s exit && ! test -e out && ! test -e attach && test -e kept && \
                  tr '\\0' ' ' </proc/$$/environ >last.tmp; grep SigBlk /proc/self/status >>last.tmp; mv last.tmp last";
    let more = ["unlink=out", "unlink=err", "unlink=attach", "unlink=missing", "--", "/bin/sh", "-c", script];
    let case = Case::new().more(&more);
    fs::write(case.path("kept"), "").unwrap();
    let mut running = case.start("exit 2");
    assert_code(running.wait(), 2);
    let last = fs::read_to_string(running.path("last")).unwrap();
    assert!(last.starts_with("PATH=/usr/local/sbin:"), "{last}");
    assert!(last.contains("SigBlk:\t0000000000000000"), "{last}");
    let mut running = Case::new().more(&["--", "/does/not/exist"]).start(":");
    let status = eventually("the monitor ends", || running.monitor.try_wait().unwrap());
    assert_eq!((status.code(), status.signal()), (Some(71), None));
    assert_code(running.exit(), 0);
}

/// A folder of a mounted hierarchy of control groups; one that can kill if there is one.
fn hierarchy() -> (PathBuf, bool) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let find = |kind: &str| {
        mounts.lines().find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let wanted = right.starts_with(&format!("{kind} ")) && !right.contains("cpuset");
            wanted.then(|| PathBuf::from(left.split(' ').nth(4).unwrap()))
        })
    };
    match find("cgroup2") {
        Some(path) => (path, true),
        None => (find("cgroup").expect("control groups"), false),
    }
}

#[test]
fn control_groups_go_even_when_something_is_left_in_them() {
    let (mount, can_kill) = hierarchy();
    let group = mount.join(format!("jdos-test-monitor-{}", std::process::id()));
    let (inner, missing) = (group.join("inner"), group.join("missing"));
    fs::create_dir_all(&inner).expect("making control groups needs root");
    let mut stray = Command::new("sleep").arg(if can_kill { "100" } else { "0.3" }).spawn().unwrap();
    fs::write(inner.join("cgroup.procs"), stray.id().to_string()).unwrap();
    let paths = [&inner, &missing, &group].map(|path| format!("cgroup={}", path.display()));
    let mut running = Case::new().more(&paths.each_ref().map(String::as_str)).start("exit 1");
    assert_code(running.wait(), 1);
    let status = stray.wait().unwrap();
    assert_eq!(status.signal(), can_kill.then_some(9));
    assert!(!group.exists());
}

/// A command that is not the monitor's child, and a monitor for it; and what keeps the FIFOs from losing their content if
/// the command ends before that opens them.
fn adopt(command: &str) -> (Child, Running, [File; 2]) {
    let case = Case::new().fifo("out").fifo("err");
    let open = |name| File::options().read(true).write(true).open(case.path(name)).unwrap();
    let ends = ["out", "err"].map(open);
    let child = Command::new("sh").args(["-c", command]).stdout(open("out")).stderr(open("err")).spawn().unwrap();
    let init = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    (child, case.replacement(init), ends)
}

/// Whether the kernel tells how a process ended that another has reaped (since 6.15).
fn kernel_tells() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 15)
}

#[test]
fn an_adopted_process_is_told_by_the_kernel() {
    for (command, code) in
        [("echo hi; sleep 0.1; exit 7", 7), ("echo hi; sleep 0.1; kill -KILL $$", 137), ("exit 3", 3)]
    {
        let (mut child, mut running, _ends) = adopt(command);
        child.wait().unwrap();
        let told = running.wait().code;
        assert!(told == Some(code) || told.is_none() && !kernel_tells(), "{told:?}: {command}, reaped at once");
        let (mut child, mut running, _ends) = adopt(command);
        assert_eq!(running.wait().code, Some(code), "{command}, not reaped");
        assert_eq!(running.text(Stream::Stdout), if command.starts_with("echo") { "hi\n" } else { "" });
        child.wait().unwrap();
    }
}

#[test]
fn a_process_that_is_no_child_is_adopted_unasked() {
    let case = Case::new().fifo("out").fifo("go");
    let mut child = Command::new("sh").args(["-c", "read line <go"]).current_dir(case.folder.path()).spawn().unwrap();
    let mut shell = case.shell("exec 8<>out 3<out; exec \"$MONITOR\" out=3 \"$@\"", Stdio::null());
    shell.arg(format!("pid={}", child.id())).stdout(Stdio::null()).stderr(Stdio::null());
    let mut running = Running { monitor: shell.spawn().unwrap(), case };
    let folder = format!("/proc/{}/fd", running.monitor.id());
    eventually("it has a descriptor of the process", || {
        let mut entries = fs::read_dir(&folder).unwrap();
        let is_pidfd =
            |path: PathBuf| fs::read_link(path).is_ok_and(|target| target.to_string_lossy().contains("pidfd"));
        entries.any(|entry| is_pidfd(entry.unwrap().path())).then_some(())
    });
    running.go();
    child.wait().unwrap();
    let status = eventually("the monitor ends", || running.monitor.try_wait().unwrap());
    assert!(status.success());
    let told = running.exit().code;
    assert!(told == Some(0) || told.is_none() && !kernel_tells(), "{told:?}");
}

/// Kills the monitor again and again while the command writes numbers; each time another one takes over.
fn survives_kills(command: &str, kills: usize, max: u64) -> (Running, Exit) {
    let command = format!("{command}; read line <go; exit 5");
    let mut running = Case::new().log(max, 3).fifo("go").start(&command);
    let init = running.init().unwrap();
    for round in 0..kills {
        thread::sleep(Duration::from_millis(3 + (round as u64 * 7919) % 23));
        kill_process(running.pid(), Signal::KILL).unwrap();
        running.monitor.wait().unwrap();
        running = running.replace(init);
    }
    running.go();
    let exit = running.wait();
    (running, exit)
}

#[test]
fn a_killed_monitor_loses_nothing_of_a_quiet_container() {
    let (running, exit) = survives_kills("i=0; while [ $i -lt 60000 ]; do i=$((i+1)); echo $i; done", 12, 64 << 20);
    assert_same(running.text(Stream::Stdout).as_bytes(), numbers(1, 60_000).as_bytes());
    // Unknown where the kernel cannot tell and its new parent was faster.
    assert!(matches!(exit.code, Some(5) | None), "{exit:?}");
}

/// Asserts that the numbers from `next` to `last` are there in order. A chunk is there twice if a kill came between its
/// header and its removal from the pipe; then a line is cut at its end.
fn assert_counts(text: &str, mut next: usize, last: usize) {
    let mut seams = 0;
    for line in text.lines() {
        match line.parse::<usize>() {
            Ok(number) if number == next => next += 1,
            Ok(number) if number < next => {}
            _ => seams += 1,
        }
    }
    assert!(next > last && seams <= 12, "missing from {next}; {seams} seams");
}

#[test]
fn a_killed_monitor_loses_nothing_of_a_busy_container() {
    let (running, _) = survives_kills("seq 1 6000000", 12, 64 << 20);
    assert_counts(&running.text(Stream::Stdout), 1, 6_000_000);
}

#[test]
fn a_killed_monitor_leaves_a_sound_log_when_files_are_recycled() {
    let (running, _) = survives_kills("seq 1 6000000", 12, 1 << 20);
    let text = running.text(Stream::Stdout);
    let (_, rest) = text.split_once('\n').unwrap();
    let first: usize = rest.split_once('\n').unwrap().0.parse().unwrap();
    assert_counts(rest, first, 6_000_000);
    assert!(rest.len() > 1 << 20, "{}", rest.len());
    let sizes: u64 =
        fs::read_dir(running.path("log")).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(sizes <= 3 << 20, "{sizes}");
}
