//! What is kept of a container's output when there is too much of it.

use super::machine::{Machine, until};
use serde_json::Value;
use std::fs;

/// Lines of `logs --json`.
fn lines(machine: &Machine, name: &str) -> Vec<(String, String)> {
    let text = machine.ok(&["logs", "--json", name]);
    let line = |line: &str| -> (String, String) {
        let line: Value = serde_json::from_str(line).unwrap();
        (line["stream"].as_str().unwrap().to_owned(), line["text"].as_str().unwrap().to_owned())
    };
    text.lines().map(line).collect()
}

#[test]
fn a_full_disk_costs_output_and_nothing_else() {
    let machine = Machine::with_small_disk("4m");
    let shared = machine.path("shared");
    fs::create_dir(&shared).unwrap();
    let filler = machine.path("data/filler");
    fs::write(&filler, vec![0; 1 << 20]).unwrap();
    let script = "seq 1 1500000; touch /shared/written; while [ ! -e /shared/go ]; do sleep 0.01; done; \
                  echo after; exit 9";
    machine.start("one", &["-v", &format!("{}:/shared", shared.display())], script);
    // Ten megabytes, and nobody waits for the three that there are.
    until("the container has written all", || shared.join("written").exists());
    fs::write(machine.path("data/more"), vec![0; 1 << 20]).expect_err("the disk is full");
    fs::remove_file(machine.path("data/more")).unwrap();
    assert_eq!(machine.inside("one", "echo still here").ok(), "still here");
    let kept = lines(&machine, "one");
    assert!(kept.len() > 100_000 && kept.len() < 1_500_000, "{}", kept.len());
    assert!(kept.iter().zip(1..).all(|((_, text), number)| *text == number.to_string() || number == kept.len()));

    fs::remove_file(filler).unwrap();
    until("the gap is told once there is room", || lines(&machine, "one").iter().any(|(stream, _)| stream == "notice"));
    fs::write(shared.join("go"), "").unwrap();
    assert_eq!(machine.ok(&["wait", "one"]), "9");
    let all = lines(&machine, "one");
    assert_eq!(all.last().unwrap(), &("stdout".to_owned(), "after".to_owned()));
    let dropped = machine.inspect("one")["exit"]["dropped"].as_u64().unwrap();
    let notices: Vec<_> = all.iter().filter(|(stream, _)| stream == "notice").collect();
    let told: u64 = notices.iter().map(|(_, text)| text[1..].split(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(told, dropped, "{notices:?}");
    assert!(dropped > 5 << 20, "{dropped}");
    // For people it is on standard error, apart from what the container said.
    let outcome = machine.jdos(&["logs", "-n", "3", "one"]).code(0);
    assert!(outcome.stdout.ends_with("after\n") && outcome.stderr.contains("bytes of output are missing here"));
}

#[test]
fn an_attached_client_misses_nothing_on_a_full_disk() {
    let machine = Machine::with_small_disk("1m");
    let root = machine.root.to_str().unwrap();
    let words = ["run", "--rm", "--network", "none", "--rootfs", root, "sh", "-c", "seq 1 300000; exit 3"];
    let outcome = machine.jdos(&words).code(3);
    assert!(outcome.stdout.lines().map(|line| line.parse::<u32>().unwrap()).eq(1..=300_000));
}

#[test]
fn the_log_is_bounded_and_followed_across_its_files() {
    let machine = Machine::new();
    machine.start("one", &["--log-opt", "max-size=64k", "--log-opt", "max-file=2"], "seq 1 100000; sleep 0.2; seq 3");
    machine.ok(&["wait", "one"]);
    let folder = machine.path("data/containers").join(&machine.containers()[0]).join("log");
    let sizes: Vec<u64> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).collect();
    assert!(sizes.len() == 2 && sizes.iter().all(|size| *size <= 64 << 10), "{sizes:?}");
    assert_eq!(machine.ok(&["logs", "-n", "5", "one"]), "99999\n100000\n1\n2\n3");
    let outcome = machine.jdos(&["logs", "one"]).code(0);
    let kept: Vec<&str> = outcome.stdout.lines().collect();
    let first: usize = kept[1].parse().unwrap(); // the first may have lost its beginning with a file
    let wanted = (first..=100_000).chain(1..=3).map(|number| number.to_string());
    assert!(kept[1..].iter().copied().map(str::to_owned).eq(wanted), "{} lines", kept.len());
    // Slow enough to be followed without a gap.
    let script = "i=0; while [ $i -lt 400 ]; do i=$((i+1)); printf '%01000d\\n' $i; sleep 0.002; done";
    machine.start("two", &["--log-opt", "max-size=64k", "--log-opt", "max-file=3"], script);
    let outcome = machine.jdos(&["logs", "-f", "two"]).code(0);
    assert_eq!(outcome.stderr, "");
    assert!(outcome.stdout.lines().map(|line| line.parse::<u32>().unwrap()).eq(1..=400));
}
